"""The class list of a project: declared, changed, and held in corrections and prompts."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.sample_image import encode_sample_image
from server.engine.engine import Engine
from tests.server.api.projects.project_client import (
    check_details,
    connect_server,
    create_project,
    get_json,
    post_json,
)

IMAGE = encode_sample_image()
CLASSES = ["cactus", "octopus", "traffic light"]
PROMPT = {"image": IMAGE, "task": "<OD>", "max_new_tokens": 60}


def create_box(label: str) -> dict[str, Any]:
    return {"kind": "box", "label": label, "box": [8, 22, 27, 41]}


def list_labels(answer: dict[str, Any]) -> set[str]:
    return {each["label"] for each in answer["annotations"]}


def patch(client: httpx.Client, path: str, classes: list[str]) -> dict[str, Any]:
    response = client.patch(path, json={"classes": classes})
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_classes_are_declared_shown_and_kept(engine: Engine, tmp_path: Path) -> None:
    with connect_server(engine, tmp_path) as client:
        path = create_project(client, "declared", classes=[" cactus", "traffic  light"])
        free = create_project(client, "free")
        assert get_json(client, path)["classes"] == ["cactus", "traffic light"]
        assert get_json(client, free)["classes"] == []
        assert [row["classes"] for row in get_json(client, "/v1/projects")["projects"]] == [
            ["cactus", "traffic light"],
            [],
        ]
        changed = patch(client, path, CLASSES)
        assert (changed["classes"], changed["outside"], changed["warnings"]) == (CLASSES, [], [])
    with connect_server(engine, tmp_path) as client:
        assert get_json(client, path)["classes"] == CLASSES
        held = post_json(client, "/v1/prompt", **PROMPT, project="declared")
        assert held["class_list"] == {"origin": "project declared", "classes": 3}
        assert patch(client, path, [])["classes"] == []
        assert post_json(client, "/v1/prompt", **PROMPT, project="declared")["class_list"] is None


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (["cat", " cat "], "listed twice"),
        (["cat", "Cat"], "differ only in case"),
        (["cat", " "], "blank"),
        (["cat<loc_5>"], "reserved token <loc_5>"),
        (["x" * 600], "600 bytes"),
        (["word" * 20 + str(number) for number in range(900)], "65,536"),
        (list(map(str, range(2001))), "2,000"),
        ("cat", "a list"),
    ],
    ids=["twice", "case", "blank", "token", "long", "bytes", "many", "text"],
)
def test_classes_that_cannot_be_held_are_refused(client: httpx.Client, idle: str, classes: Any, reason: str) -> None:
    for response in (
        client.post("/v1/projects", json={"name": "refused", "classes": classes}),
        client.patch(idle, json={"classes": classes}),
    ):
        details = check_details(response, 422, "invalid-request")
        assert details["field"] == "classes"
        assert reason in details["detail"]
    assert get_json(client, idle)["classes"] == []
    assert all(row["name"] != "refused" for row in get_json(client, "/v1/projects")["projects"])


def test_other_changes_are_refused(client: httpx.Client, idle: str) -> None:
    assert check_details(client.patch(idle, json={"name": "other"}), 422, "invalid-request")
    assert check_details(client.patch(idle, json={}), 422, "invalid-request")["field"] == "classes"
    check_details(client.patch("/v1/projects/999999", json={"classes": ["cat"]}), 404, "not-found")


def test_a_corrected_object_of_another_class_is_refused(client: httpx.Client) -> None:
    path = create_project(client, "strict", classes=CLASSES)
    boxes = [create_box("cactus"), create_box("cacccs"), create_box("zeppelin")]
    refused = client.post(f"{path}/corrections", json={"image": IMAGE, "annotations": boxes})
    details = check_details(refused, 422, "invalid-annotations")
    assert [row["field"] for row in details["errors"]] == ["annotations.1", "annotations.2"]
    first, second = (row["detail"] for row in details["errors"])
    assert "'cacccs' is not one of the 3 classes of strict" in first
    assert "did you mean 'cactus'?" in first
    assert f"PATCH {path}" in first
    assert "did you mean" not in second
    assert get_json(client, f"{path}/corrections")["corrections"] == []
    for annotation in (
        create_box("traffic light"),
        {"kind": "text", "label": "a zeppelin"},
        {"kind": "quad", "label": "zeppelin", "quad": [8, 22, 27, 22, 27, 41, 8, 41]},
    ):
        post_json(client, f"{path}/corrections", 201, image=IMAGE, annotations=[annotation])


def test_a_shorter_list_says_what_it_leaves_out(client: httpx.Client) -> None:
    path = create_project(client, "shrinking")
    boxes = [create_box(label) for label in ("cactus", "octopus", "octopus", "wren")]
    post_json(client, f"{path}/corrections", 201, image=IMAGE, annotations=boxes)
    changed = patch(client, path, ["cactus"])
    assert changed["outside"] == [
        {"name": "octopus", "annotations": 2, "images": 1},
        {"name": "wren", "annotations": 1, "images": 1},
    ]
    (warning,) = changed["warnings"]
    assert warning.startswith("3 annotations of current corrections have classes outside of the list: octopus (2)")
    assert "runs and backtests that start from now on leave them out" in warning
    (kept,) = get_json(client, f"{path}/corrections")["corrections"]
    assert [each["label"] for each in kept["annotations"]] == ["cactus", "octopus", "octopus", "wren"]
    assert patch(client, path, ["cactus", "octopus", "wren"])["outside"] == []


def test_prompts_of_a_project_are_held_to_its_classes(client: httpx.Client) -> None:
    path = create_project(client, "held", classes=[*CLASSES, "ball"])
    held = post_json(client, "/v1/prompt", **PROMPT, project="held")
    base = post_json(client, "/v1/prompt", **PROMPT)
    assert list_labels(held) <= {*CLASSES, "ball"}
    assert held["text"] == base["text"]  # nobody knows what the model knows: it says what it sees
    left_out = len(base["annotations"]) - len(held["annotations"])
    assert (held["class_list"], len(held["warnings"])) == ({"origin": "project held", "classes": 4}, left_out > 0)
    assert not left_out or held["warnings"][0].startswith(f"{left_out} object")
    category = {"image": IMAGE, "task": "<REGION_TO_CATEGORY>", "region": [8, 22, 27, 41]}
    assert list_labels(post_json(client, "/v1/prompt", **category, project="held")) <= {*CLASSES, "ball"}
    free = post_json(client, "/v1/prompt", **PROMPT, project="held", any_class=True)
    assert (free["text"], free["class_list"]) == (base["text"], None)
    own = post_json(client, "/v1/prompt", **PROMPT, project="held", constrain={"labels": ["ball", "book"]})
    assert own["class_list"] == {"origin": "request", "classes": 2}
    assert list_labels(own) <= {"ball", "book"}
    caption = post_json(client, "/v1/prompt", image=IMAGE, task="<CAPTION>", project="held")
    assert caption["class_list"] is None
    patch(client, path, ["ball"])
    assert {each["label"] for each in post_json(client, "/v1/prompt", **PROMPT, project="held")["annotations"]} <= {
        "ball"
    }
