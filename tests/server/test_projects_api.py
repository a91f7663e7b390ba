"""Projects over HTTP, with the real seedling and SQLite: from corrections to a promotion, and back."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import PATIENCE, serving

from server.app import create_app
from server.engine.engine import Engine
from server.projects import tuner
from server.settings import Settings

sys.path.insert(0, str(Path(__file__).parent / "projects"))
from scenes import scenes

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
    done = ended(client, f"{project}/runs/{run['id']}")
    assert done["state"] == "done", done["reason"]
    assert done["progress"]["step"] == 2
    assert done["metrics"]["before"] > 0

    (model,) = got(client, f"{project}/models")["models"]
    assert (model["run"], model["task"], model["answers"]) == (run["id"], "<OD>", False)
    refused = posted(client, f"{project}/promote", 409, model=model["id"])
    assert "has no backtest against the base" in refused["detail"]

    test = posted(client, f"{project}/backtests", 201, model=model["id"])
    tested = ended(client, f"{project}/backtests/{test['id']}")
    assert tested["state"] == "done", tested["reason"]
    assert tested["champion"] is None
    assert {row["picture"] for row in tested["tallies"]} == {row["picture"] for row in kept if row["held"]}
    figures = tested["figures"]
    assert figures["low"] <= figures["difference"] <= figures["high"]
    # Two steps teach next to nothing.
    assert not figures["won"]
    refused = posted(client, f"{project}/promote", 409, model=model["id"])
    assert "did not win its backtest" in refused["detail"]
    assert posted(client, f"{project}/promote", 422, model=model["id"], forced=True)["field"] == "reason"

    ask = {"image": pictures[0].body["image"], "task": "<OD>", "max_new_tokens": 12}
    base = posted(client, "/v1/prompt", **ask)
    before = posted(client, "/v1/prompt", **ask, project="emoji")
    assert (before["adapter"], before["text"]) == (None, base["text"])
    forced = posted(client, f"{project}/promote", model=model["id"], forced=True, reason="a test")
    assert (forced["model"], forced["forced"], forced["reason"]) == (model["id"], True, "a test")
    after = posted(client, "/v1/prompt", **ask, project="emoji")
    assert after["adapter"] == f"projects/emoji/run-{run['id']}"
    caption = posted(client, "/v1/prompt", **{**ask, "task": "<CAPTION>"}, project="emoji")
    assert caption["adapter"] is None

    back = posted(client, f"{project}/rollback", task="<OD>")
    assert (back["model"], back["rollback"]) == (None, True)
    assert posted(client, "/v1/prompt", **ask, project="emoji")["adapter"] is None
    assert [p["model"] for p in got(client, f"{project}/models")["promotions"]] == [model["id"], None]
    assert "the base alone answers" in posted(client, f"{project}/rollback", 409, task="<OD>")["detail"]
