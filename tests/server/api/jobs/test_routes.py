"""Jobs over HTTP, over a real socket, with the real seedling and SQLite: from their beginning through restarts."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from labels.formats import FORMATS
from seedling.scenes.drawing import draw_scene
from server.api.auth import new_key
from server.api.problems import ProblemDetails
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.helpers import TIMEOUT, FloristProcess, serve_app, wait_until

COUNT = 6
ENDED = ("done", "failed", "cancelled")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes in a folder, one of them twice, and one that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(COUNT):
        draw_scene(5000 + seed, size=(200, 160)).image.save(folder / f"{seed:02}.png")
    (folder / "99 again.png").write_bytes((folder / "03.png").read_bytes())
    (folder / "50.jpg").write_bytes(b"no picture")
    return folder


@contextmanager
def running(
    engine: Engine, folder: Path, *sources: Path | str, key: str | None = None, **settings: Any
) -> Iterator[httpx.Client]:
    """A server whose jobs are in `folder`, and a client of it."""
    chosen = Settings(jobs_folder=folder, jobs_sources=tuple(map(str, sources)), **settings)
    headers = {"X-API-Key": key} if key else {}
    with (
        serve_app(create_app(chosen, engine)) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT, headers=headers) as client,
    ):
        yield client


@pytest.fixture
def client(engine: Engine, pictures: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with running(engine, tmp_path / "jobs", pictures) as connect:
        yield connect


@pytest.fixture(scope="module")
def idle(engine: Engine, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that never gets a job, for requests that are refused."""
    with running(engine, tmp_path_factory.mktemp("idle"), pictures) as connect:
        yield connect


def begun(client: httpx.Client, source: Path | str, recipe: Any = "detect", **fields: Any) -> dict[str, Any]:
    """A new job."""
    answered = client.post("/v1/jobs", json={"source": str(source), "recipe": recipe, **fields})
    assert answered.status_code == 201, answered.text
    job: dict[str, Any] = answered.json()
    assert answered.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def job(client: httpx.Client, number: int) -> dict[str, Any]:
    answered = client.get(f"/v1/jobs/{number}")
    assert answered.status_code == 200, answered.text
    return dict(answered.json())


def ended(client: httpx.Client, number: int) -> dict[str, Any]:
    """The job once it has ended."""
    wait_until(lambda: job(client, number)["state"] in ENDED)
    return job(client, number)


def results(client: httpx.Client, number: int, limit: int = 100) -> list[dict[str, Any]]:
    """All pages of them."""
    found, after = [], None
    while True:
        page = client.get(f"/v1/jobs/{number}/results", params={"limit": limit} | ({"after": after} if after else {}))
        assert page.status_code == 200, page.text
        found += page.json()["pictures"]
        after = page.json()["next"]
        assert len(page.json()["pictures"]) == limit or after is None
        if after is None:
            return found


def problem(answered: httpx.Response, status: int, kind: str) -> ProblemDetails:
    assert answered.status_code == status, answered.text
    details = ProblemDetails.model_validate(answered.json())
    assert details.type == f"urn:florist:problem:{kind}"
    return details


def test_from_the_beginning_to_the_end(client: httpx.Client, pictures: Path) -> None:
    first = begun(client, pictures, output="first")
    assert first["state"] in ("queued", "running")
    assert first["pictures"]["total"] == COUNT + 2
    done = ended(client, first["id"])
    assert done["state"] == "done"
    assert done["pictures"] == {"total": COUNT + 2, "waiting": 0, "running": 0, "done": COUNT + 1, "failed": 1}
    assert list(done["failures"].values()) == [1]
    assert done["created"] <= done["started"] <= done["ended"]
    assert (done["output"], done["recipe"]["name"], done["source"]) == ("first", "detect", str(pictures))

    found = results(client, first["id"])
    assert [picture["name"] for picture in found] == [*(f"{n:02}.png" for n in range(COUNT)), "99 again.png"]
    assert results(client, first["id"], limit=4) == found
    assert found[-1]["labels"] == found[3]["labels"]
    labels = [label for picture in found for label in picture["labels"]]
    assert labels
    for label in labels:
        assert label["step"] == "objects"
        assert label["annotation"]["kind"] == "box"
        assert label["model"] == done["model"]
        assert label["raw"]

    failures = client.get(f"/v1/jobs/{first['id']}/failures").json()
    assert [failure["name"] for failure in failures["failures"]] == ["50.jpg"]
    assert failures["failures"][0]["reason"]
    assert failures["next"] is None
    assert client.get("/v1/jobs").json()["jobs"] == [job(client, first["id"])]


def test_recipes_as_text_and_as_an_object(client: httpx.Client, pictures: Path) -> None:
    text = "name: mine\nsteps:\n  - id: said\n    task: <CAPTION>\n"
    as_object = {"name": "mine", "steps": [{"id": "said", "task": "<CAPTION>"}]}
    one = ended(client, begun(client, pictures / "0[0-2].png", text)["id"])
    other = ended(client, begun(client, pictures / "0[0-2].png", as_object)["id"])
    assert one["recipe"] == other["recipe"] == as_object
    assert one["output"] != other["output"]
    assert results(client, one["id"]) == results(client, other["id"])
    assert len(results(client, one["id"])) == 3


def test_the_same_output_is_the_same_job(client: httpx.Client, pictures: Path) -> None:
    first = begun(client, pictures, output="mine")
    again = client.post("/v1/jobs", json={"source": str(pictures), "recipe": "detect", "output": "mine"})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    recipe = {"name": "detect", "steps": [{"id": "objects", "task": "<OD>", "filter": {"score": 0.5}}]}
    other = client.post("/v1/jobs", json={"source": str(pictures), "recipe": recipe, "output": "mine"})
    refused = problem(other, 409, "job-changed")
    assert "step objects: filter.score was not given, is 0.5" in refused.detail
    fewer = client.post("/v1/jobs", json={"source": f"{pictures}/0*.png", "recipe": "detect", "output": "mine"})
    assert "does not hold the same pictures" in problem(fewer, 409, "job-changed").detail
    client.post(f"/v1/jobs/{first['id']}/cancel")


def test_one_at_a_time_in_the_order_of_arrival(client: httpx.Client, pictures: Path) -> None:
    numbers = [begun(client, pictures, "caption")["id"], begun(client, pictures)["id"], begun(client, pictures)["id"]]
    ends = [ended(client, number) for number in numbers]
    assert [one["state"] for one in ends] == ["done"] * 3
    assert ends[0]["ended"] <= ends[1]["started"] < ends[1]["ended"] <= ends[2]["started"]
    assert results(client, numbers[1]) == results(client, numbers[2])


def test_events_until_the_end(client: httpx.Client, pictures: Path) -> None:
    number = begun(client, pictures)["id"]
    with client.stream("GET", f"/v1/jobs/{number}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = told(stream)
    assert {name for name, _ in events[:-1]} == {"progress"}
    assert events[-1] == ("end", job(client, number))
    done = [row["pictures"]["done"] for _, row in events]
    assert done == sorted(done)
    assert done[-1] == COUNT + 1
    with client.stream("GET", f"/v1/jobs/{number}/events") as stream:
        assert [name for name, _ in told(stream)] == ["progress", "end"]


def told(stream: httpx.Response) -> list[tuple[str, Any]]:
    """The events of a stream that ends."""
    lines = [line for line in stream.iter_lines() if line.startswith(("event: ", "data: "))]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def test_pause_resume_cancel_retry(client: httpx.Client, pictures: Path) -> None:
    number = begun(client, pictures, "caption")["id"]
    address = f"/v1/jobs/{number}"
    assert client.post(f"{address}/pause").json()["state"] == "paused"
    wait_until(lambda: job(client, number)["pictures"]["running"] == 0)
    paused = job(client, number)
    assert paused["state"] == "paused"
    assert paused["rate"] is None
    assert client.post(f"{address}/pause").status_code == 200  # said twice
    assert "can be resumed" not in client.post(f"{address}/resume").text
    assert ended(client, number)["state"] == "done"
    assert "job 1 is done" in problem(client.post(f"{address}/pause"), 409, "wrong-state").detail
    problem(client.post(f"{address}/resume"), 409, "wrong-state")
    problem(client.post(f"{address}/cancel"), 409, "wrong-state")

    assert client.post(f"{address}/retry", params={"kind": "unreachable"}).json()["state"] == "done"
    opened = client.post(f"{address}/retry").json()
    assert opened["state"] in ("queued", "running", "done")
    assert ended(client, number)["pictures"]["failed"] == 1

    other = begun(client, pictures, output="other")["id"]
    assert client.post(f"/v1/jobs/{other}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/v1/jobs/{other}/cancel").status_code == 200
    problem(client.post(f"/v1/jobs/{other}/resume"), 409, "wrong-state")
    problem(client.post(f"/v1/jobs/{other}/retry"), 409, "wrong-state")


def test_a_failure_that_is_mended_is_labelled_by_a_retry(engine: Engine, pictures: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "good.png").write_bytes((pictures / "00.png").read_bytes())
    (own / "bad.png").write_bytes(b"x" * (pictures / "01.png").stat().st_size)
    with running(engine, tmp_path / "jobs", own) as client:
        number = begun(client, own)["id"]
        assert ended(client, number)["pictures"]["failed"] == 1
        (own / "bad.png").write_bytes((pictures / "01.png").read_bytes())
        client.post(f"/v1/jobs/{number}/retry")
        wait_until(lambda: job(client, number)["pictures"]["done"] == 2)
        assert ended(client, number)["failures"] == {}


def test_exports_in_every_format(client: httpx.Client, pictures: Path) -> None:
    number = begun(client, pictures, output="mine")["id"]
    ended(client, number)
    for name, format in FORMATS.items():
        answered = client.get(f"/v1/jobs/{number}/export", params={"format": name})
        assert answered.status_code == 200, answered.text
        ending = format.suffix or ".zip"
        assert answered.headers["content-disposition"] == f'attachment; filename="mine-{name}{ending}"'
        if format.suffix:
            assert len(answered.text.splitlines()) >= COUNT
        else:
            with zipfile.ZipFile(io.BytesIO(answered.content)) as archive:
                assert archive.testzip() is None
                assert len(archive.namelist()) >= 1
                assert all(entry.startswith(f"mine-{name}/") for entry in archive.namelist())
    answered = client.get(f"/v1/jobs/{number}/export", params={"pictures": True})
    with zipfile.ZipFile(io.BytesIO(answered.content)) as archive:
        copies = [entry for entry in archive.namelist() if entry.endswith("00.png")]
        assert [archive.read(copy) for copy in copies] == [(pictures / "00.png").read_bytes()]
    no_place = client.get(f"/v1/jobs/{number}/export", params={"format": "jsonl", "pictures": True})
    assert problem(no_place, 422, "invalid-request").field == "pictures"
    unknown = client.get(f"/v1/jobs/{number}/export", params={"format": "psd"})
    assert "coco" in problem(unknown, 422, "invalid-request").detail


def test_pictures_by_their_places(engine: Engine, pictures: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(pictures, own)
    (own / "00.png").write_bytes(b"<script>alert(1)</script>")
    with running(engine, tmp_path / "jobs", own) as client:
        number = begun(client, own)["id"]
        ended(client, number)
        for row in results(client, number):
            shown = client.get(f"/v1/jobs/{number}/pictures/{row['position']}")
            assert shown.content == (own / row["name"]).read_bytes()
        broken = client.get(f"/v1/jobs/{number}/pictures/0")  # as it is, and taken for no page
        assert (broken.headers["content-type"], broken.headers["x-content-type-options"]) == (
            "application/octet-stream",
            "nosniff",
        )
        behind = client.get(f"/v1/jobs/{number}/pictures/{len(list(own.iterdir()))}")
        assert "the first is at 0" in problem(behind, 404, "not-found").detail
        problem(client.get(f"/v1/jobs/{number}/pictures/-1"), 422, "invalid-request")


def test_the_page_to_look_at(engine: Engine, pictures: Path, tmp_path: Path) -> None:
    own = tmp_path / "<own>"
    shutil.copytree(pictures, own)
    (own / "<script>alert(1)<").mkdir()
    (own / "00.png").rename(own / "<script>alert(1)<" / "script>.png")
    with running(engine, tmp_path / "jobs", own) as client:
        number = begun(client, own, output="mine")["id"]
        ended(client, number)
        answered = client.get(f"/v1/jobs/{number}/summary")
        assert answered.status_code == 200, answered.text
        assert answered.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answered.headers["content-security-policy"]
        page = answered.text
        assert page.count("<img") >= COUNT
        assert all(said in page for said in ("mine", "seedling", "50.jpg", "&lt;own&gt;"))
        assert "<script" not in page
        assert list((tmp_path / "jobs" / "exports").iterdir()) == []

        shutil.rmtree(own)
        without = client.get(f"/v1/jobs/{number}/summary").text
        assert "<img" not in without
        assert "there is no" in without


def test_the_list_page_by_page(client: httpx.Client, pictures: Path) -> None:
    assert client.get("/v1/jobs").json() == {"jobs": [], "next": None}
    numbers = [begun(client, pictures / "00.png")["id"] for _ in range(3)]
    for number in numbers:
        ended(client, number)
    pages = [client.get("/v1/jobs", params={"limit": 2}).json()]
    pages.append(client.get("/v1/jobs", params={"limit": 2, "after": pages[0]["next"]}).json())
    assert [[job["id"] for job in page["jobs"]] for page in pages] == [numbers[:2], numbers[2:]]
    assert pages[1]["next"] is None
    assert client.get("/v1/jobs", params={"after": numbers[2]}).json()["jobs"] == []
    problem(client.get("/v1/jobs", params={"limit": 0}), 422, "invalid-request")


def test_nothing_of_an_export_stays(client: httpx.Client, pictures: Path, tmp_path: Path) -> None:
    number = begun(client, pictures)["id"]
    ended(client, number)
    client.get(f"/v1/jobs/{number}/export")
    with client.stream("GET", f"/v1/jobs/{number}/export"):
        pass  # a client that goes before it has read anything
    wait_until(lambda: not list((tmp_path / "jobs" / "exports").iterdir()))


def test_a_restart_midway(engine: Engine, pictures: Path, tmp_path: Path) -> None:
    """The one that runs goes on, the one that waits has its turn; what comes out is as if nothing had happened."""
    with running(engine, tmp_path / "whole", pictures) as client:
        number = begun(client, pictures, "dense")["id"]
        ended(client, number)
        undisturbed = results(client, number)
    with running(engine, tmp_path / "jobs", pictures) as client:
        begun(client, pictures, "dense")
        begun(client, pictures / "00.png")
        wait_until(lambda: job(client, 1)["pictures"]["done"] >= 1)
    with running(engine, tmp_path / "jobs", pictures) as client:
        assert [one["id"] for one in client.get("/v1/jobs").json()["jobs"]] == [1, 2]
        assert ended(client, 2)["state"] == "done"
        assert job(client, 1)["state"] == "done"
        assert results(client, 1) == undisturbed


def test_a_source_that_has_changed_over_a_restart(engine: Engine, pictures: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("00.png", "01.png"):
        (own / name).write_bytes((pictures / name).read_bytes())
    with running(engine, tmp_path / "jobs", own) as client:
        begun(client, own)
        client.post("/v1/jobs/1/pause")
        wait_until(lambda: job(client, 1)["pictures"]["running"] == 0)
    (own / "new.png").write_bytes((pictures / "02.png").read_bytes())
    with running(engine, tmp_path / "jobs", own) as client:
        client.post("/v1/jobs/1/resume")
        failed = ended(client, 1)
        assert failed["state"] == "failed"
        assert "does not hold the same pictures" in failed["reason"]
        (own / "new.png").unlink()
        client.post("/v1/jobs/1/resume")
        assert ended(client, 1)["state"] == "done"
    with running(engine, tmp_path / "jobs", pictures) as client:  # the setting no longer names its place
        assert len(results(client, 1)) == 2
        assert "is not set to read" in problem(client.get("/v1/jobs/1/pictures/0"), 422, "invalid-source").detail
        refused = client.get("/v1/jobs/1/export", params={"pictures": True})
        assert "is not set to read" in problem(refused, 422, "invalid-source").detail


@pytest.mark.slow
def test_sigterm_and_sigkill_midway(start: Callable[..., FloristProcess], pictures: Path, tmp_path: Path) -> None:
    # Two pictures in hand at a time, so that there is a midway.
    options = "--jobs-folder", str(tmp_path / "jobs"), "--jobs-sources", str(pictures), "--max-batch", "1"
    before = 0  # pictures done when the server last stood still
    for how in ("terminate", "kill"):
        server = start(*options)
        server.wait_ready()
        with httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
            if how == "terminate":
                begun(client, pictures, "full")
            wait_until(lambda before=before: job(client, 1)["pictures"]["done"] > before)
            before = job(client, 1)["pictures"]["done"]
            assert job(client, 1)["state"] == "running"
            with client.stream("GET", "/v1/jobs/1/events") as stream:
                lines = stream.iter_lines()
                assert next(lines) == "event: progress"
                getattr(server, how)()
                if how == "terminate":
                    assert "event: end" not in list(lines)  # the stream ends, the job does not
        code = server.wait()
        assert code == 0 or how == "kill", server.log.read_text()
        assert "Traceback" not in server.log.read_text()
    server = start(*options)
    server.wait_ready()
    with httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
        done = ended(client, 1)
        assert done["state"] == "done"
        assert done["pictures"]["done"] == COUNT + 1
        assert len(results(client, 1)) == COUNT + 1


@pytest.mark.parametrize(
    ("fields", "status", "kind", "field", "said"),
    [
        ({"source": "/etc"}, 403, "source-refused", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "{pictures}/../../.."}, 403, "source-refused", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "http://localhost/a.zip"}, 403, "source-refused", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "file:///etc/passwd"}, 403, "source-refused", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "/a\0b"}, 403, "source-refused", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "{pictures}/none"}, 422, "invalid-source", "source", "there is no"),
        ({"source": "{pictures}/*.gif"}, 422, "invalid-source", "source", "matches no picture"),
        ({"source": "{pictures}/" + "a" * 300}, 422, "invalid-source", "source", ""),
        ({"source": ""}, 422, "invalid-request", "source", ""),
        ({"source": None}, 422, "invalid-request", "source", ""),
        ({"recipe": "detekt"}, 422, "invalid-recipe", "recipe", "there are caption, dense, detect"),
        ({"recipe": "/etc/passwd"}, 422, "invalid-recipe", "recipe", ""),
        ({"recipe": "name: x\nsteps: 3\n"}, 422, "invalid-recipe", "recipe", "line 2:8"),
        ({"recipe": {"name": "x", "steps": []}}, 422, "invalid-recipe", "recipe", "steps"),
        (
            {"recipe": {"name": "x", "steps": [{"id": "a", "task": "<OD>", "adapter": "mine"}]}},
            *(422, "invalid-recipe", "recipe", "no adapter 'mine' is loaded"),
        ),
        ({"recipe": 3}, 422, "invalid-request", "recipe", "ready recipe's name"),
        ({"output": "../out"}, 422, "invalid-request", "output", ""),
        ({"colour": "red"}, 422, "invalid-request", "colour", "there is no such field"),
    ],
)
def test_what_is_wrong_is_said(
    idle: httpx.Client, pictures: Path, fields: dict[str, Any], status: int, kind: str, field: str, said: str
) -> None:
    asked: dict[str, Any] = {"source": str(pictures), "recipe": "detect"} | fields
    if isinstance(asked["source"], str):
        asked["source"] = asked["source"].replace("{pictures}", str(pictures))
    refused = problem(idle.post("/v1/jobs", json=asked), status, kind)
    assert refused.field == field
    assert said in refused.detail
    assert idle.get("/v1/jobs").json()["jobs"] == []


def test_bodies_that_are_none(idle: httpx.Client) -> None:
    problem(idle.post("/v1/jobs", content=b"{"), 400, "bad-body")
    assert '"source"' in problem(idle.post("/v1/jobs", json=[]), 400, "bad-body").detail
    problem(idle.post("/v1/jobs", data={"source": "x"}), 415, "unsupported-media-type")
    problem(idle.post("/v1/jobs", json={"recipe": "x" * 2_000_000}), 413, "too-large")


def test_links_lead_nowhere_else(engine: Engine, pictures: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "good.png").write_bytes((pictures / "00.png").read_bytes())
    (own / "link.png").symlink_to(pictures / "01.png")
    with running(engine, tmp_path / "jobs", own) as client:
        assert ended(client, begun(client, own)["id"])["failures"] == {"refused": 1}
        (own / "loop").symlink_to(own / "loop")
        refused = client.post("/v1/jobs", json={"source": str(own / "loop"), "recipe": "detect"})
        problem(refused, 422, "invalid-source")


@pytest.mark.parametrize("path", ["", "/events", "/results", "/failures", "/export", "/summary", "/pictures/0"])
def test_a_job_that_is_not_there(idle: httpx.Client, path: str) -> None:
    assert "GET /v1/jobs" in problem(idle.get(f"/v1/jobs/7{path}"), 404, "not-found").detail
    problem(idle.get(f"/v1/jobs/none{path}"), 422, "invalid-request")
    problem(idle.get(f"/v1/jobs/{2**64}{path}"), 422, "invalid-request")


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry"])
def test_steering_a_job_that_is_not_there(idle: httpx.Client, action: str) -> None:
    problem(idle.post(f"/v1/jobs/7/{action}"), 404, "not-found")


def test_jobs_are_off_until_they_have_a_folder(engine: Engine) -> None:
    with serve_app(create_app(Settings(), engine)) as url:
        for answered in (
            httpx.get(f"{url}/v1/jobs"),
            httpx.get(f"{url}/v1/jobs/1"),
            httpx.post(f"{url}/v1/jobs", json={"source": "/", "recipe": "detect"}),
            httpx.post(f"{url}/v1/jobs/1/pause"),
        ):
            assert "FLORIST_JOBS_FOLDER" in problem(answered, 403, "no-jobs").detail


def test_keys(engine: Engine, pictures: Path, tmp_path: Path) -> None:
    key, hashed = new_key()
    with running(engine, tmp_path, pictures, key=key, api_keys=(hashed,)) as client:
        number = begun(client, pictures / "00.png")["id"]
        ended(client, number)
        del client.headers["X-API-Key"]
        problem(client.get("/v1/jobs"), 401, "unauthorized")
        problem(client.post("/v1/jobs", json={}), 401, "unauthorized")
        problem(client.get(f"/v1/jobs/{number}/export"), 401, "unauthorized")
        problem(client.get(f"/v1/jobs/{number}/summary"), 401, "unauthorized")


def test_a_folder_has_one_server(start: Callable[..., FloristProcess], engine: Engine, tmp_path: Path) -> None:
    with running(engine, tmp_path):
        server = start("--jobs-folder", str(tmp_path))
        assert server.wait() == 1
    assert "FLORIST_JOBS_FOLDER: another job writes to" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_database_that_cannot_be_used_ends_the_server(start: Callable[..., FloristProcess], tmp_path: Path) -> None:
    server = start("--jobs-folder", str(tmp_path), FLORIST_DATABASE_URL="mysql://me:secret@localhost/florist")
    assert server.wait() == 1
    assert "FLORIST_DATABASE_URL: jobs are kept in SQLite or PostgreSQL" in server.log.read_text()
    assert "secret" not in server.log.read_text()
