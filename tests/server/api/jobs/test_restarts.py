"""Jobs of a server that is restarted or killed."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from server.engine.engine import Engine
from tests.server.api.jobs.job_client import COUNT, connect_server, get_job, list_results, start_job, wait_for_end
from tests.server.api.problem_checks import check_problem
from tests.server.helpers import TIMEOUT, FloristProcess, wait_until


def test_jobs_continue_after_a_restart(engine: Engine, images: Path, tmp_path: Path) -> None:
    """The running job continues, then the waiting one runs. The results are the same as without a restart."""
    with connect_server(engine, tmp_path / "whole", images) as client:
        number = start_job(client, images, "dense")["id"]
        wait_for_end(client, number)
        uninterrupted = list_results(client, number)
    with connect_server(engine, tmp_path / "jobs", images) as client:
        start_job(client, images, "dense")
        start_job(client, images / "00.png")
        wait_until(lambda: get_job(client, 1)["images"]["done"] >= 1)
    with connect_server(engine, tmp_path / "jobs", images) as client:
        assert [one["id"] for one in client.get("/v1/jobs").json()["jobs"]] == [1, 2]
        assert wait_for_end(client, 2)["state"] == "done"
        assert get_job(client, 1)["state"] == "done"
        assert list_results(client, 1) == uninterrupted


def test_a_job_goes_on_with_a_source_that_has_changed(engine: Engine, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("00.png", "01.png", "03.png"):
        (own / name).write_bytes((images / name).read_bytes())
    with connect_server(engine, tmp_path / "jobs", own) as client:
        start_job(client, own)
        client.post("/v1/jobs/1/pause")
        wait_until(lambda: get_job(client, 1)["images"]["running"] == 0)
        done = [image["name"] for image in list_results(client, 1)]
    (own / "02.png").write_bytes((images / "02.png").read_bytes())
    (own / "03.png").unlink()
    with connect_server(engine, tmp_path / "jobs", own) as client:
        client.post("/v1/jobs/1/resume")
        ended = wait_for_end(client, 1)
        assert ended["state"] == "done"
        if "03.png" not in done:
            [failure] = client.get("/v1/jobs/1/failures").json()["failures"]
            assert (failure["name"], failure["reason"]) == ("03.png", "it is no longer in the source")
        assert client.post("/v1/jobs/1/extend").json()["names"] == {
            "added": ["02.png"], "compared": [], "removed": ["03.png"],
        }  # fmt: skip
        assert wait_for_end(client, 1)["failures"] == {}
        assert [image["name"] for image in list_results(client, 1)] == ["00.png", "01.png", "02.png"]
    with connect_server(engine, tmp_path / "jobs", images) as client:  # the setting no longer allows the source
        assert len(list_results(client, 1)) == 3
        assert (
            "is not configured to read"
            in check_problem(client.get("/v1/jobs/1/images/0"), 422, "invalid-source").detail
        )
        refused = client.get("/v1/jobs/1/export", params={"images": "copy"})
        assert "is not configured to read" in check_problem(refused, 422, "invalid-source").detail


@pytest.mark.slow
def test_a_job_survives_sigterm_and_sigkill(start: Callable[..., FloristProcess], images: Path, tmp_path: Path) -> None:
    # Two images at a time, so that the job is still running when the signal comes.
    options = "--jobs-folder", str(tmp_path / "jobs"), "--jobs-sources", str(images), "--max-batch", "1"
    before = 0  # images done before the last signal
    for how in ("terminate", "kill"):
        server = start(*options)
        server.wait_ready()
        with httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
            if how == "terminate":
                start_job(client, images, "full")
            wait_until(lambda before=before: get_job(client, 1)["images"]["done"] > before)
            before = get_job(client, 1)["images"]["done"]
            assert get_job(client, 1)["state"] == "running"
            with client.stream("GET", "/v1/jobs/1/events") as stream:
                lines = stream.iter_lines()
                assert next(lines) == "event: progress"
                getattr(server, how)()
                if how == "terminate":
                    assert "event: end" not in list(lines)  # the stream ends, but the job continues
        code = server.wait()
        assert code == 0 or how == "kill", server.log.read_text()
        assert "Traceback" not in server.log.read_text()
    server = start(*options)
    server.wait_ready()
    with httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
        done = wait_for_end(client, 1)
        assert done["state"] == "done"
        assert done["images"]["done"] == COUNT + 1
        assert len(list_results(client, 1)) == COUNT + 1


def test_only_one_server_can_use_a_folder(start: Callable[..., FloristProcess], engine: Engine, tmp_path: Path) -> None:
    with connect_server(engine, tmp_path):
        server = start("--jobs-folder", str(tmp_path))
        assert server.wait() == 1
    assert "FLORIST_JOBS_FOLDER: another server writes to" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_an_unusable_database_ends_the_server(start: Callable[..., FloristProcess], tmp_path: Path) -> None:
    server = start("--jobs-folder", str(tmp_path), FLORIST_DATABASE_URL="mysql://me:secret@localhost/florist")
    assert server.wait() == 1
    assert "FLORIST_DATABASE_URL: the database must be SQLite or PostgreSQL" in server.log.read_text()
    assert "secret" not in server.log.read_text()
