"""Prompts of a project whose champions carry class lists: one adapter, an ensemble, and the project's own list."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.api.sample_image import encode_sample_image
from server.app import create_app
from server.engine.adapters.class_list import write_class_list
from server.engine.engine import Engine
from server.settings import Settings
from server.store.projects.ensembles import BoxFusion
from tests.server.helpers import TIMEOUT, serve_app
from tests.server.projects.project_setup import add_random_model, create_project, force_promotion, open_projects

PROMPT = {"image": encode_sample_image(), "task": "<OD>", "num_beams": 1, "max_new_tokens": 40}
LISTS = {"single": ["cat", "dog"], "fused": ["dog", "cow"]}


@pytest.fixture(scope="module")
def client(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with two projects: the champion of one is an adapter, of the other two adapters and the base model."""
    folder = tmp_path_factory.mktemp("server")
    with open_projects(folder, engine, start=False) as projects:
        for name, classes in LISTS.items():
            project = create_project(projects, name)
            models = []
            for seed in range(1 if name == "single" else 2):
                model = add_random_model(projects, project, seed)
                write_class_list(projects.files.get_adapter_folder(project, model), [f"{name} {seed}", *classes])
                models.append(model)
            champion = models[0]
            if name == "fused":
                definition = BoxFusion(combine="fuse", models=[*(model.id for model in models), None])
                champion = projects.models.create_ensemble(project, definition)
            force_promotion(projects, project, champion)
    settings = Settings(jobs_folder=folder, projects_folder=folder / "projects")
    with (
        serve_app(create_app(settings, engine)) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT) as connected,
    ):
        yield connected


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/prompt", json={**PROMPT, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


def list_labels(answer: dict[str, Any]) -> set[str]:
    return {annotation["label"] for annotation in answer["annotations"]}


def test_a_champion_is_held_to_the_classes_of_its_adapter(client: httpx.Client) -> None:
    answer = ask(client, project="single")
    assert answer["class_list"] == {"origin": f"adapter {answer['adapter']}", "classes": 3}
    assert list_labels(answer) <= {"single 0", "cat", "dog"}
    assert answer["warnings"] == []
    assert ask(client, project="single", any_class=True)["class_list"] is None
    assert ask(client, project="single", task="<CAPTION>")["class_list"] is None


def test_an_ensemble_is_held_to_the_union_and_its_base_model_is_not(client: httpx.Client) -> None:
    answer = ask(client, project="fused")
    assert answer["class_list"]["classes"] == 4
    assert answer["class_list"]["origin"].count("adapter projects/fused/run-") == 2
    (warning,) = answer["warnings"]
    assert "the base model" in warning
    first, second, base = answer["text"].split("\n")
    assert base == ask(client)["text"]
    assert {first, second} != {base}


def test_the_list_of_the_project_comes_first_and_holds_the_base_model_too(client: httpx.Client) -> None:
    rows = {row["name"]: row["id"] for row in client.get("/v1/projects").json()["projects"]}
    for name in LISTS:
        changed = client.patch(f"/v1/projects/{rows[name]}", json={"classes": ["lamp"]})
        assert changed.status_code == 200, changed.text
        assert changed.json()["outside"]
        answer = ask(client, project=name)
        assert answer["class_list"] == {"origin": f"project {name}", "classes": 1}
        assert list_labels(answer) <= {"lamp"}
        assert answer["warnings"] == []
        client.patch(f"/v1/projects/{rows[name]}", json={"classes": []})
        assert ask(client, project=name)["class_list"]["origin"].startswith("adapter ")
