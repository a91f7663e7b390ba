"""Projects over HTTP, with the real seedling and SQLite: from corrections to a promotion, and back."""

import base64
import errno
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.engine.engine import Engine
from server.projects import tuner
from server.projects.image_store import ImageStore
from server.settings import Settings
from tests.server.helpers import PATIENCE, serving
from tests.server.projects.scenes import scenes

QUICK = {"steps": 2, "pictures": 2, "prompts": 1, "frozen_stages": 4, "metric": "loss", "replay": 0, "rank": 4}
ENDED = ("done", "failed", "cancelled")


@contextmanager
def running(engine: Engine, folder: Path, **settings: Any) -> Iterator[httpx.Client]:
    """A server whose jobs and projects are in `folder`, and a client of it."""
    chosen = Settings(jobs_folder=folder / "jobs", projects_folder=folder / "projects", **settings)
    with (
        serving(create_app(chosen, engine)) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        yield client


@pytest.fixture(autouse=True, scope="module")
def as_nice_as_others() -> Iterator[None]:
    """A machine that has other tests to run leaves nothing for the lowest priority."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "NICENESS", 0)
        yield


@pytest.fixture(scope="module")
def client(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with running(engine, tmp_path_factory.mktemp("server")) as connected:
        yield connected


def made(client: httpx.Client, name: str, **fields: Any) -> str:
    """A new project's path."""
    answered = client.post("/v1/projects", json={"name": name, "held_share": 0.5, **fields})
    assert answered.status_code == 201, answered.text
    return str(answered.headers["location"])


def got(client: httpx.Client, path: str, **params: Any) -> dict[str, Any]:
    answered = client.get(path, params=params)
    assert answered.status_code == 200, answered.text
    return dict(answered.json())


def posted(client: httpx.Client, path: str, status: int = 200, **fields: Any) -> dict[str, Any]:
    answered = client.post(path, json=fields)
    assert answered.status_code == status, answered.text
    return dict(answered.json())


def ended(client: httpx.Client, path: str) -> dict[str, Any]:
    """A run or a backtest once it has ended."""
    ends = time.monotonic() + 2 * PATIENCE
    while (row := got(client, path))["state"] not in ENDED:
        assert time.monotonic() < ends, row
        time.sleep(0.3)
    return row


def test_the_whole_loop(client: httpx.Client) -> None:
    project = made(client, "emoji")
    pictures = list(scenes(6))
    kept = [posted(client, f"{project}/corrections", 201, **scene.body) for scene in pictures]
    assert {row["held"] for row in kept} == {True, False}

    run = posted(client, f"{project}/tune", 201, **QUICK)
    assert run["state"] in ("queued", "running")
    assert (run["taught"], run["held"]) == tuple(sum(row["held"] is side for row in kept) for side in (False, True))
    with client.stream("GET", f"{project}/runs/{run['id']}/events") as stream:
        names = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
    assert names[0] == "progress"
    assert names[-1] == "end"
    done = ended(client, f"{project}/runs/{run['id']}")
    assert done["state"] == "done", done["reason"]
    assert done["progress"]["step"] == 2
    assert done["metrics"]["before"] is None  # of so few pictures none is set apart to choose by

    (model,) = got(client, f"{project}/models")["models"]
    assert (model["run"], model["task"], model["answers"]) == (run["id"], "<OD>", False)
    assert (run["models"], done["models"], done["start"]) == ([], [model["id"]], None)
    assert got(client, f"{project}/runs")["runs"] == [done]
    refused = posted(client, f"{project}/promote", 409, model=model["id"])
    assert "has no backtest against the base" in refused["detail"]

    test = posted(client, f"{project}/backtests", 201, model=model["id"], probe=1)
    tested = ended(client, f"{project}/backtests/{test['id']}")
    assert tested["state"] == "done", tested["reason"]
    assert tested["champion"] is None
    assert {row["picture"] for row in tested["tallies"]} == {row["picture"] for row in kept if row["held"]}
    assert (tested["forgetting"]["scenes"], "lost" in tested["forgetting"]["what"]) == (1, True)
    asked = got(client, "/openapi.json")["components"]["schemas"]["BacktestRequest"]["properties"]["probe"]
    assert asked["default"] == 40
    assert abs(tested["forgetting"]["lost"]["mean"]) <= 100
    figures = tested["figures"]
    assert figures["low"] <= figures["difference"] <= figures["high"]
    # Two steps teach next to nothing.
    assert not figures["won"]
    refused = posted(client, f"{project}/promote", 409, model=model["id"])
    assert "held-out pictures, and fewer than 10 tell nothing for sure" in refused["detail"]
    assert posted(client, f"{project}/promote", 422, model=model["id"], forced=True)["field"] == "reason"

    ask = {"image": pictures[0].body["image"], "task": "<OD>", "max_new_tokens": 12}
    base = posted(client, "/v1/prompt", **ask)
    before = posted(client, "/v1/prompt", **ask, project="emoji")
    assert (before["adapter"], before["text"]) == (None, base["text"])
    nobody = client.post(f"{project}/tune", json={**QUICK, "start": "champion"})
    assert "no model of emoji is promoted for <OD>" in problem(nobody, 409, "wrong-state")["detail"]
    forced = posted(client, f"{project}/promote", model=model["id"], forced=True, reason="a test")
    assert (forced["model"], forced["forced"], forced["reason"]) == (model["id"], True, "a test")
    after = posted(client, "/v1/prompt", **ask, project="emoji")
    assert after["adapter"] == f"projects/emoji/run-{run['id']}"
    again = posted(client, f"{project}/tune", 201, steps=2, start="champion")
    assert (again["start"], again["config"]["rank"]) == (model["id"], QUICK["rank"])
    posted(client, f"{project}/runs/{again['id']}/cancel")
    wrong = client.post(f"{project}/tune", json={"start": model["id"], "rank": 8})
    assert problem(wrong, 422, "invalid-request")["field"] == "start"
    problem(client.post(f"{project}/tune", json={"start": model["id"] + 77}), 404, "not-found")
    caption = posted(client, "/v1/prompt", **{**ask, "task": "<CAPTION>"}, project="emoji")
    assert caption["adapter"] is None

    # Models of others: asked, judged and promoted as that one.
    asked = {"combine": "fuse", "models": [model["id"], None], "weights": [2.0, 1.0]}
    fused = posted(client, f"{project}/models", 201, **asked)
    assert (fused["run"], fused["combined"]) == (None, {**asked, "overlap": 0.55, "min_score": 0.0})
    summed = posted(client, f"{project}/models", 201, combine="add", models=[model["id"]], weights=[0.5])
    assert got(client, f"{project}/models")["models"] == [{**model, "answers": True}, fused, summed]
    test = posted(client, f"{project}/backtests", 201, model=model["id"], probe=0)
    assert ended(client, f"{project}/backtests/{test['id']}")["forgetting"] == {}
    test = posted(client, f"{project}/backtests", 201, model=fused["id"], probe=1)
    tested = ended(client, f"{project}/backtests/{test['id']}")
    assert (tested["state"], tested["champion"]) == ("done", model["id"]), tested["reason"]
    assert tested["forgetting"]["lost"].keys() >= {"<OD>", "<CAPTION>", "mean"}
    posted(client, f"{project}/promote", model=fused["id"], forced=True, reason="a test")
    both = posted(client, "/v1/prompt", **ask, project="emoji")
    assert both["adapter"] == f"projects/emoji/model-{fused['id']}"
    assert both["text"] == f"{after['text']}\n{base['text']}"
    with client.stream("POST", "/v1/prompt", params={"stream": True}, json={**ask, "project": "emoji"}) as stream:
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[:-1] == events[-1]["annotations"]
    assert [event["label"] for event in events[:-1]] == [note["label"] for note in both["annotations"]]
    assert posted(client, f"{project}/rollback", task="<OD>")["model"] == model["id"]

    back = posted(client, f"{project}/rollback", task="<OD>")
    assert (back["model"], back["rollback"]) == (None, True)
    assert posted(client, "/v1/prompt", **ask, project="emoji")["adapter"] is None
    assert [p["model"] for p in got(client, f"{project}/models")["promotions"]] == [
        *(model["id"], fused["id"]),
        *(model["id"], None),
    ]
    assert "the base alone answers" in posted(client, f"{project}/rollback", 409, task="<OD>")["detail"]


def problem(answered: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answered.status_code == status, answered.text
    details = dict(answered.json())
    assert details["type"] == f"urn:florist:problem:{kind}"
    return details


def test_projects_come_and_go(client: httpx.Client, engine: Engine) -> None:
    path = made(client, "passing", tasks=["<OD>", "<CAPTION>", "<OD>"])
    row = got(client, path)
    assert (row["name"], row["tasks"], row["pictures"]) == ("passing", ["<OD>", "<CAPTION>"], 0)
    assert (row["base"], row["served"]) == (engine.checkpoint.sha256, True)
    assert row in got(client, "/v1/projects")["projects"]
    taken = problem(client.post("/v1/projects", json={"name": "passing"}), 409, "name-taken")
    assert taken["field"] == "name"
    posted(client, f"{path}/corrections", 201, **next(scenes(1)).body)
    assert got(client, path)["pictures"] == 1
    assert client.delete(path).status_code == 204
    for answered in (client.get(path), client.delete(path), client.get(f"{path}/corrections")):
        problem(answered, 404, "not-found")
    asked = client.post(
        "/v1/prompt", json={"image": next(scenes(1)).body["image"], "task": "<OD>", "project": "passing"}
    )
    assert problem(asked, 422, "invalid-prompt")["field"] == "project"


def test_corrections_as_a_form_and_paged(client: httpx.Client) -> None:
    path = made(client, "forms")
    (scene,) = scenes(1)
    annotations = json.dumps(scene.body["annotations"])
    form = {"annotations": annotations, "name": "first.png", "author": "Ada", "complete": "false"}
    first = client.post(f"{path}/corrections", data=form, files={"image": ("first.png", scene.data)})
    assert first.status_code == 201, first.text
    assert {k: first.json()[k] for k in ("name", "author", "complete", "version", "kind", "width")} == {
        "name": "first.png", "author": "Ada", "complete": False, "version": 1, "kind": "objects", "width": 120,
    }  # fmt: skip
    second = posted(client, f"{path}/corrections", 201, **{**scene.body, "annotations": [], "kind": "objects"})
    assert (second["version"], second["picture"]) == (2, first.json()["picture"])
    page = got(client, f"{path}/corrections", limit=1)
    assert page == {"corrections": [first.json()], "next": first.json()["id"]}
    assert got(client, f"{path}/corrections", after=page["next"]) == {"corrections": [second], "next": None}
    twice = client.post(f"{path}/corrections", data={"annotations": "[{"}, files={"image": ("a.png", scene.data)})
    assert problem(twice, 422, "invalid-request")["field"] == "annotations"
    problem(client.post(f"{path}/corrections", data=form), 415, "unsupported-media-type")


def box(label: str, *corners: float) -> dict[str, Any]:
    return {"kind": "box", "label": label, "box": corners}


@pytest.mark.parametrize(
    ("body", "kind", "field", "said"),
    [
        ({"annotations": [box("cat", 50, 5, 5, 40)]}, "invalid-labels", "annotations.0", "inverted"),
        ({"annotations": [box("cat", 5, 5, 5, 40)]}, "invalid-labels", "annotations.0", "no area"),
        (
            {"annotations": [box("cat", 1, 1, 9, 9), box("cat", 500, 5, 600, 40)]},
            "invalid-labels", "annotations.1", "outside the image of 120×100",
        ),
        ({"annotations": [box("a<loc_3>b", 1, 1, 9, 9)]}, "invalid-labels", "annotations.0", "reserved token <loc_3>"),
        ({"annotations": []}, "invalid-labels", "annotations", "of which kind"),
        ({"annotations": [{"kind": "circle"}]}, "invalid-request", "annotations.0", "circle"),
        ({"annotations": [box("cat", 1, 1, 9, 9)], "kind": "birds"}, "invalid-request", "kind", "objects"),
        ({"image": "AAAA", "annotations": [box("cat", 1, 1, 9, 9)]}, "invalid-picture", "image", "picture"),
        ({"image": "%", "annotations": [box("cat", 1, 1, 9, 9)]}, "invalid-picture", "image", "base64"),
        ({"image": None, "annotations": [box("cat", 1, 1, 9, 9)]}, "invalid-request", "image", "send the picture"),
        ({"annotations": [], "colour": 1}, "invalid-request", "colour", "no such field"),
    ],
)  # fmt: skip
def test_a_correction_that_cannot_be_is_refused(
    client: httpx.Client, idle: str, body: dict[str, Any], kind: str, field: str, said: str
) -> None:
    answered = client.post(f"{idle}/corrections", json={"image": next(scenes(1)).body["image"], **body})
    details = problem(answered, 422, kind)
    assert details["field"] == field
    assert said in details["detail"]
    assert got(client, f"{idle}/corrections")["corrections"] == []


@pytest.fixture(scope="module")
def idle(client: httpx.Client) -> str:
    """A project in which nothing is corrected."""
    return made(client, "idle")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "said"),
    [
        ("tune", {}, 409, "nothing-to-learn", "of 0 corrected pictures"),
        ("tune", {"steps": 0}, 422, "invalid-request", "steps"),
        ("tune", {"base": "elsewhere"}, 422, "invalid-request", "no such field"),
        ("tune", {"start": "/srv/adapter"}, 422, "invalid-request", "start: give the id of a model of this project"),
        ("tune", {"start": True}, 422, "invalid-request", "start: give the id of a model of this project"),
        ("tune", {"start": 1.0}, 422, "invalid-request", "start: give the id of a model of this project"),
        ("tune", {"method": "full"}, 422, "invalid-request", "no such field"),
        ("tune", {"tasks": ["<OOD>"]}, 422, "invalid-request", "no such task: '<OOD>'. Did you mean <OD>?"),
        ("backtests", {"model": 77}, 404, "not-found", "no model 77"),
        ("promote", {"model": True}, 422, "invalid-request", "model: "),
        ("models", {"combine": "add", "models": [True]}, 422, "invalid-request", "models.0: "),
        ("promote", {"model": 77}, 404, "not-found", "no model 77"),
        ("promote", {"model": 77, "forced": True, "reason": " "}, 422, "invalid-request", "say why"),
        ("rollback", {"task": "<OD>"}, 409, "wrong-state", "the base alone answers"),
        ("rollback", {"task": "<OOD>"}, 422, "invalid-request", "no task"),
        ("runs/77/cancel", {}, 404, "not-found", "no run 77"),
        ("runs/77/resume", {}, 404, "not-found", "no run 77"),
        ("models", {"combine": "add", "models": [77]}, 404, "not-found", "no model 77"),
        ("models", {"combine": "add", "models": [1, 2], "weights": [1]}, 422, "invalid-request", "as many weights"),
        ("models", {"combine": "add", "models": [1, 2], "weights": [1, "x"]}, 422, "invalid-request", "weights.1: "),
        ("models", {"combine": "mean", "models": [1, 2]}, 422, "invalid-request", "'add', 'fuse', 'route'"),
        ("models", {"combine": "route", "models": [1]}, 422, "invalid-request", "routes: "),
        ("corrections/job", {"job": 77}, 404, "not-found", "no job 77"),
    ],
)
def test_what_cannot_be_done_is_said(
    client: httpx.Client, idle: str, path: str, body: dict[str, Any], status: int, kind: str, said: str
) -> None:
    assert said in problem(client.post(f"{idle}/{path}", json=body), status, kind)["detail"]


def test_an_adapter_or_a_project_but_not_both(client: httpx.Client, idle: str) -> None:
    image = next(scenes(1)).body["image"]
    prompts = [
        {"task": "<OD>", "adapter": "none"},
        {"task": "<OD>", "adapter": "none", "project": "idle"},
        {"task": "<OD>"},
    ]
    ask = {"image": image, "prompts": prompts, "project": "idle", "max_new_tokens": 8}
    results = posted(client, "/v1/prompt", **ask)["results"]
    assert [result.get("field") for result in results] == ["adapter", "project", None]
    assert "not both" in results[1]["detail"]


@contextmanager
def labelling(engine: Engine, folder: Path, count: int) -> Iterator[tuple[httpx.Client, Path, int]]:
    """A server, a folder of scenes, and the job that has labelled them."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, scene in enumerate(scenes(count)):
        (pictures / f"{number}.png").write_bytes(scene.data)
    with running(engine, folder, jobs_sources=(str(pictures),)) as client:
        job = posted(client, "/v1/jobs", 201, source=str(pictures), recipe="detect")["id"]
        ended(client, f"/v1/jobs/{job}")
        yield client, pictures, job


def test_what_a_job_doubts_is_corrected_next(engine: Engine, tmp_path: Path) -> None:
    with labelling(engine, tmp_path, 4) as (client, pictures, job):
        project = made(client, "doubts")
        results = {row["name"]: row for row in got(client, f"/v1/jobs/{job}/results")["pictures"]}
        page = got(client, f"{project}/next", job=job, count=2)
        assert (len(page["pictures"]), page["left"]) == (2, 4)
        everything = got(client, f"{project}/next", job=job)["pictures"]
        assert everything[:2] == page["pictures"]
        doubts = [row["doubt"] for row in everything]
        assert doubts == sorted(doubts, reverse=True)
        for row in everything:
            assert row == {**results[row["name"]], "doubt": row["doubt"], "held": row["held"]}

        first = everything[0]
        file = client.get(f"/v1/jobs/{job}/pictures/{first['position']}")
        assert file.content == (pictures / first["name"]).read_bytes()
        body = {
            "image": base64.b64encode(file.content).decode(),
            "annotations": [label["annotation"] for label in first["labels"] if label["parent"] is None],
            "kind": "objects",
        }
        kept = posted(client, f"{project}/corrections", 201, **body)
        assert (kept["picture"], kept["held"]) == (first["sha256"], first["held"])
        assert got(client, f"{project}/next", job=job) == {"pictures": everything[1:], "left": 3, "waiting": 0}
        assert "no job 77" in problem(client.get(f"{project}/next", params={"job": 77}), 404, "not-found")["detail"]
        problem(client.get("/v1/projects/77/next", params={"job": job}), 404, "not-found")
        assert problem(client.get(f"{project}/next"), 422, "invalid-request")["field"] == "job"
        problem(client.get(f"{project}/next", params={"job": job, "count": 0}), 422, "invalid-request")


def test_a_jobs_labels_are_taken_as_they_stand(engine: Engine, tmp_path: Path) -> None:
    with labelling(engine, tmp_path, 3) as (client, _, job):
        project = made(client, "taken")
        labels = {row["name"]: row["labels"] for row in got(client, f"/v1/jobs/{job}/results")["pictures"]}
        labelled = {name for name, own in labels.items() if own}
        assert posted(client, f"{project}/corrections/job", job=job, author="Ada") == {"pictures": len(labelled)}
        rows = got(client, f"{project}/corrections")["corrections"]
        assert {row["name"] for row in rows} == labelled
        assert all(len(row["annotations"]) == len(labels[row["name"]]) and row["author"] == "Ada" for row in rows)


def test_what_is_replayed_lies_where_jobs_may_read(engine: Engine, tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    (tmp_path / "link").symlink_to("/etc")
    with running(engine, tmp_path, jobs_sources=(str(world),)) as client:
        project = made(client, "replaying")
        for scene in scenes(6):
            posted(client, f"{project}/corrections", 201, **scene.body)
        named = ["/etc", f"{world}/../secret", f"{tmp_path}/link", "http://localhost/a.zip", "a\0b", "relative"]
        for each in named:
            answered = client.post(f"{project}/tune", json={"replay_from": each})
            refused = problem(answered, 403, "source-refused")
            assert refused["field"] == "replay_from"
            assert "FLORIST_JOBS_SOURCES" in refused["detail"]
        run = posted(client, f"{project}/tune", 201, **{**QUICK, "replay": 0.5, "replay_from": f"{world}/none"})
        assert run["config"]["replay_from"] == f"{world}/none"
        posted(client, f"{project}/runs/{run['id']}/cancel")


def test_a_full_disk_is_told(client: httpx.Client, idle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ImageStore, "keep", full)
    answered = client.post(f"{idle}/corrections", json=next(scenes(1)).body)
    assert "No space left on device" in problem(answered, 507, "no-room")["detail"]


def test_a_server_without_projects_says_so(engine: Engine) -> None:
    with serving(create_app(Settings(), engine)) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        assert "FLORIST_PROJECTS_FOLDER" in problem(client.get("/v1/projects"), 403, "no-projects")["detail"]
        ask = {"image": next(scenes(1)).body["image"], "task": "<OD>", "project": "birds"}
        assert problem(client.post("/v1/prompt", json=ask), 422, "invalid-prompt")["field"] == "project"
    with pytest.raises(ValueError, match="beside FLORIST_PROJECTS_FOLDER"):
        Settings(projects_folder=Path("projects"))
