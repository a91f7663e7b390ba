"""Hostile bodies are the same for the same seed, and most of them differ from the valid request."""

from benchmarks.reliability.hostile_bodies import BOUNDARY, Mutator, Template

TEMPLATES = [
    Template("POST", "/v1/projects", json={"name": "a", "tasks": ["<OD>"], "holdout_share": 0.2}),
    Template("POST", "/v1/prompt", fields={"image": b"\x89PNG" * 9, "task": "<OD>", "constrain": '["car"]'}),
]


def test_a_seed_gives_the_same_bodies() -> None:
    assert [Mutator(TEMPLATES, seed).make() for seed in range(50)] == [
        Mutator(TEMPLATES, seed).make() for seed in range(50)
    ]


def test_bodies_of_every_template_are_damaged() -> None:
    made = [Mutator(TEMPLATES, seed).make() for seed in range(300)]
    assert {(method, path) for method, path, _, _ in made} == {("POST", "/v1/projects"), ("POST", "/v1/prompt")}
    assert len({body for _, _, body, _ in made}) > 200
    assert any(b"\\ud800" in body for _, _, body, _ in made)
    forms = [body for _, path, body, _ in made if path == "/v1/prompt"]
    assert any(not body.endswith(f"--{BOUNDARY}--\r\n".encode()) for body in forms)
