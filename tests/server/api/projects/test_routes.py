"""Projects over HTTP, with the seedling and SQLite: from corrections to a promotion, and back."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.projects.project_client import (
    QUICK,
    check_details,
    connect_server,
    create_project,
    get_json,
    post_json,
    wait_for_end,
)
from tests.server.helpers import TIMEOUT, serve_app
from tests.server.projects.scenes import draw_scenes


def check_ensembles(
    client: httpx.Client, project: str, model: dict[str, Any], prompt: dict[str, Any], texts: tuple[str, str]
) -> int:
    """Checks that ensembles are used, tested and promoted like other models.

    `model`: the champion, which is the champion again at the end. `texts`: what it and the base model answer.
    Returns the ID of the ensemble that was promoted.
    """
    ensemble = {"combine": "fuse", "models": [model["id"], None], "weights": [2.0, 1.0]}
    fused = post_json(client, f"{project}/models", 201, **ensemble)
    assert (fused["run"], fused["ensemble"]) == (None, {**ensemble, "iou_threshold": 0.55, "min_score": 0.0})
    summed = post_json(client, f"{project}/models", 201, combine="add", models=[model["id"]], weights=[0.5])
    assert get_json(client, f"{project}/models")["models"] == [{**model, "is_champion": True}, fused, summed]
    test = post_json(client, f"{project}/backtests", 201, model=model["id"], forgetting_images=0)
    assert wait_for_end(client, f"{project}/backtests/{test['id']}")["forgetting"] == {}
    test = post_json(client, f"{project}/backtests", 201, model=fused["id"], forgetting_images=1)
    tested = wait_for_end(client, f"{project}/backtests/{test['id']}")
    assert (tested["state"], tested["champion"]) == ("done", model["id"]), tested["reason"]
    assert tested["forgetting"]["lost"].keys() >= {"<OD>", "<CAPTION>", "mean"}
    post_json(client, f"{project}/promote", model=fused["id"], forced=True, reason="a test")
    both = post_json(client, "/v1/prompt", **prompt, project="emoji")
    assert both["adapter"] == f"projects/emoji/model-{fused['id']}"
    assert both["text"] == "\n".join(texts)
    with client.stream("POST", "/v1/prompt", params={"stream": True}, json={**prompt, "project": "emoji"}) as stream:
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[:-1] == events[-1]["annotations"]
    assert [event["label"] for event in events[:-1]] == [annotation["label"] for annotation in both["annotations"]]
    assert post_json(client, f"{project}/rollback", task="<OD>")["model"] == model["id"]
    return int(fused["id"])


def test_a_project_is_corrected_tuned_tested_promoted_and_rolled_back(client: httpx.Client) -> None:
    project = create_project(client, "emoji")
    images = list(draw_scenes(6))
    corrections = [post_json(client, f"{project}/corrections", 201, **scene.body) for scene in images]
    assert {row["holdout"] for row in corrections} == {True, False}

    run = post_json(client, f"{project}/runs", 201, **QUICK)
    assert run["state"] in ("queued", "running")
    assert (run["train_images"], run["holdout_images"]) == tuple(
        sum(row["holdout"] is side for row in corrections) for side in (False, True)
    )
    with client.stream("GET", f"{project}/runs/{run['id']}/events") as stream:
        lines = list(stream.iter_lines())
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names[0] == "progress"
    assert names[-1] == "end"
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert all("config" not in event and len(json.dumps(event)) < 1000 for event in events)
    assert events[-1]["models"]
    done = wait_for_end(client, f"{project}/runs/{run['id']}")
    assert done["state"] == "done", done["reason"]
    assert done["progress"]["step"] == 2
    assert done["metrics"]["before"] is None  # too few images for validation
    assert done["config"]["any_class"] is False
    assert sum(each["objects"] for each in done["classes"]) > 0
    assert done["seconds_left"] is None

    (model,) = get_json(client, f"{project}/models")["models"]
    assert (model["run"], model["task"], model["is_champion"]) == (run["id"], "<OD>", False)
    assert (run["models"], done["models"], done["initial_model"]) == ([], [model["id"]], None)
    assert get_json(client, f"{project}/runs")["runs"] == [done]
    refused = post_json(client, f"{project}/promote", 409, model=model["id"])
    assert "has no backtest against the base" in refused["detail"]

    test = post_json(client, f"{project}/backtests", 201, model=model["id"], forgetting_images=1)
    tested = wait_for_end(client, f"{project}/backtests/{test['id']}")
    assert tested["state"] == "done", tested["reason"]
    assert tested["champion"] is None
    assert {row["image_sha256"] for row in tested["image_counts"]} == {
        row["image_sha256"] for row in corrections if row["holdout"]
    }
    assert (tested["forgetting"]["scenes"], "lost" in tested["forgetting"]["metric"]) == (1, True)
    schema = get_json(client, "/openapi.json")["components"]["schemas"]["BacktestRequest"]["properties"][
        "forgetting_images"
    ]
    assert schema["default"] == 40
    assert abs(tested["forgetting"]["lost"]["mean"]) <= 100
    comparison = tested["comparison"]
    assert comparison["low"] <= comparison["difference"] <= comparison["high"]
    # Two steps do not improve the model.
    assert not comparison["won"]
    refused = post_json(client, f"{project}/promote", 409, model=model["id"])
    assert "holdout images, and at least 10 are needed" in refused["detail"]
    assert '"forced": true and a "reason"' in refused["detail"]
    assert post_json(client, f"{project}/promote", 422, model=model["id"], forced=True)["field"] == "reason"

    prompt = {"image": images[0].body["image"], "task": "<OD>", "max_new_tokens": 12}
    base = post_json(client, "/v1/prompt", **prompt)
    before = post_json(client, "/v1/prompt", **prompt, project="emoji")
    assert (before["adapter"], before["text"]) == (None, base["text"])
    nobody = client.post(f"{project}/runs", json={**QUICK, "initial_model": "champion"})
    assert "no model of emoji is promoted for <OD>" in check_details(nobody, 409, "invalid-state")["detail"]
    forced = post_json(client, f"{project}/promote", model=model["id"], forced=True, reason="a test")
    assert (forced["model"], forced["forced"], forced["reason"]) == (model["id"], True, "a test")
    after = post_json(client, "/v1/prompt", **prompt, project="emoji")
    assert after["adapter"] == f"projects/emoji/run-{run['id']}"
    again = post_json(client, f"{project}/runs", 201, steps=2, initial_model="champion")
    assert (again["initial_model"], again["config"]["lora_rank"]) == (model["id"], QUICK["lora_rank"])
    post_json(client, f"{project}/runs/{again['id']}/cancel")
    wrong = client.post(f"{project}/runs", json={"initial_model": model["id"], "lora_rank": 8})
    assert check_details(wrong, 422, "invalid-request")["field"] == "initial_model"
    check_details(client.post(f"{project}/runs", json={"initial_model": model["id"] + 77}), 404, "not-found")
    caption = post_json(client, "/v1/prompt", **{**prompt, "task": "<CAPTION>"}, project="emoji")
    assert caption["adapter"] is None

    promoted = check_ensembles(client, project, model, prompt, (after["text"], base["text"]))

    back = post_json(client, f"{project}/rollback", task="<OD>")
    assert (back["model"], back["is_rollback"]) == (None, True)
    assert post_json(client, "/v1/prompt", **prompt, project="emoji")["adapter"] is None
    assert [p["model"] for p in get_json(client, f"{project}/models")["promotions"]] == [
        *(model["id"], promoted),
        *(model["id"], None),
    ]
    assert "the base model answers" in post_json(client, f"{project}/rollback", 409, task="<OD>")["detail"]


def test_projects_are_created_and_deleted(client: httpx.Client, engine: Engine) -> None:
    path = create_project(client, "passing", tasks=["<OD>", "<CAPTION>", "<OD>"])
    row = get_json(client, path)
    assert (row["name"], row["tasks"], row["images"]) == ("passing", ["<OD>", "<CAPTION>"], 0)
    assert (row["base_sha256"], row["served"]) == (engine.checkpoint.sha256, True)
    assert row in get_json(client, "/v1/projects")["projects"]
    taken = check_details(client.post("/v1/projects", json={"name": "passing"}), 409, "name-taken")
    assert taken["field"] == "name"
    post_json(client, f"{path}/corrections", 201, **next(draw_scenes(1)).body)
    assert get_json(client, path)["images"] == 1
    assert client.delete(path).status_code == 204
    for response in (client.get(path), client.delete(path), client.get(f"{path}/corrections")):
        check_details(response, 404, "not-found")
    response = client.post(
        "/v1/prompt", json={"image": next(draw_scenes(1)).body["image"], "task": "<OD>", "project": "passing"}
    )
    assert check_details(response, 422, "invalid-prompt")["field"] == "project"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("runs", {}, 409, "no-training-data", "of 0 corrected images"),
        ("runs", {"steps": 0}, 422, "invalid-request", "steps"),
        ("runs", {"base": "elsewhere"}, 422, "invalid-request", "no such field"),
        ("runs", {"start_adapter": "/srv/adapter"}, 422, "invalid-request", "no such field"),
        (
            "runs",
            {"initial_model": "/srv/adapter"},
            422,
            "invalid-request",
            "initial_model: give the ID of a model of this project",
        ),
        (
            "runs",
            {"initial_model": True},
            422,
            "invalid-request",
            "initial_model: give the ID of a model of this project",
        ),
        (
            "runs",
            {"initial_model": 1.0},
            422,
            "invalid-request",
            "initial_model: give the ID of a model of this project",
        ),
        ("runs", {"method": "full"}, 422, "invalid-request", "no such field"),
        ("runs", {"tasks": ["<OOD>"]}, 422, "invalid-request", "no such task: '<OOD>'. Did you mean <OD>?"),
        ("backtests", {"model": 77}, 404, "not-found", "no model 77"),
        ("promote", {"model": True}, 422, "invalid-request", "model: "),
        ("models", {"combine": "add", "models": [True]}, 422, "invalid-request", "models.0: "),
        ("promote", {"model": 77}, 404, "not-found", "no model 77"),
        ("promote", {"model": 77, "forced": True, "reason": " "}, 422, "invalid-request", "needs a reason"),
        ("rollback", {"task": "<OD>"}, 409, "invalid-state", "the base model answers"),
        ("rollback", {"task": "<OOD>"}, 422, "invalid-request", "not a task"),
        ("runs/77/cancel", {}, 404, "not-found", "no run 77"),
        ("runs/77/resume", {}, 404, "not-found", "no run 77"),
        ("models", {"combine": "add", "models": [77]}, 404, "not-found", "no model 77"),
        (
            "models",
            {"combine": "add", "models": [1, 2], "weights": [1]},
            422,
            "invalid-request",
            "2 models need 2 weights",
        ),
        ("models", {"combine": "add", "models": [1, 2], "weights": [1, "x"]}, 422, "invalid-request", "weights.1: "),
        ("models", {"combine": "mean", "models": [1, 2]}, 422, "invalid-request", "combine must be add, fuse or route"),
        ("models", {"combine": "route", "models": [1]}, 422, "invalid-request", "routes: "),
        ("corrections/job", {"job": 77}, 404, "not-found", "no job 77"),
    ],
)
def test_an_invalid_request_is_refused(
    client: httpx.Client, idle: str, path: str, body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    assert message in check_details(client.post(f"{idle}/{path}", json=body), status, kind)["detail"]


def test_a_prompt_names_an_adapter_or_a_project_but_not_both(client: httpx.Client, idle: str) -> None:
    image = next(draw_scenes(1)).body["image"]
    prompts = [
        {"task": "<OD>", "adapter": "none"},
        {"task": "<OD>", "adapter": "none", "project": "idle"},
        {"task": "<OD>"},
    ]
    prompt = {"image": image, "prompts": prompts, "project": "idle", "max_new_tokens": 8}
    results = post_json(client, "/v1/prompt", **prompt)["results"]
    assert [result.get("field") for result in results] == ["adapter", "project", None]
    assert "not both" in results[1]["detail"]


def test_replayed_datasets_must_be_in_an_allowed_source(engine: Engine, tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    (tmp_path / "link").symlink_to("/etc")
    with connect_server(engine, tmp_path, jobs_sources=(str(world),)) as client:
        project = create_project(client, "replaying")
        for scene in draw_scenes(6):
            post_json(client, f"{project}/corrections", 201, **scene.body)
        named = ["/etc", f"{world}/../secret", f"{tmp_path}/link", "http://localhost/a.zip", "a\0b", "relative"]
        for each in named:
            response = client.post(f"{project}/runs", json={"replay_dataset": each})
            refused = check_details(response, 403, "source-not-allowed")
            assert refused["field"] == "replay_dataset"
            assert "FLORIST_JOBS_SOURCES" in refused["detail"]
        run = post_json(
            client, f"{project}/runs", 201, **{**QUICK, "replay_share": 0.5, "replay_dataset": f"{world}/none"}
        )
        assert run["config"]["replay_dataset"] == f"{world}/none"
        post_json(client, f"{project}/runs/{run['id']}/cancel")


def test_projects_are_disabled_without_a_folder(engine: Engine) -> None:
    with serve_app(create_app(Settings(), engine)) as url, httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        assert (
            "FLORIST_PROJECTS_FOLDER" in check_details(client.get("/v1/projects"), 403, "projects-disabled")["detail"]
        )
        prompt = {"image": next(draw_scenes(1)).body["image"], "task": "<OD>", "project": "birds"}
        assert check_details(client.post("/v1/prompt", json=prompt), 422, "invalid-prompt")["field"] == "project"
    with pytest.raises(ValueError, match="besides FLORIST_PROJECTS_FOLDER"):
        Settings(projects_folder=Path("projects"))


@pytest.mark.parametrize("name", ["my birds", "", "-birds", "b" * 65, "vögel"])
def test_a_name_of_a_project_is_refused_in_plain_words(client: httpx.Client, name: str) -> None:
    response = client.post("/v1/projects", json={"name": name})
    detail = check_details(response, 422, "invalid-request")["detail"]
    assert detail.startswith("name: must have 1 to 64 characters: letters from a to z, digits, dots, dashes and under")
