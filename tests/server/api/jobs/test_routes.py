"""Jobs over HTTP, on a real socket, with the seedling and SQLite: start, watch and control them."""

import json
from pathlib import Path
from typing import Any

import httpx

from server.engine.engine import Engine
from tests.server.api.jobs.job_client import (
    COUNT,
    connect_server,
    get_job,
    list_results,
    read_events,
    start_job,
    wait_for_end,
)
from tests.server.api.problem_checks import check_problem
from tests.server.helpers import wait_until


def without_recipe(job: dict[str, Any]) -> dict[str, Any]:
    """Returns what lists and events show of a job."""
    assert job["recipe_name"] == job["recipe"]["name"]
    return {name: value for name, value in job.items() if name not in ("recipe", "warnings")}


def test_a_job_labels_a_folder(client: httpx.Client, images: Path) -> None:
    first = start_job(client, images, output="first")
    assert first["state"] in ("queued", "running")
    assert first["images"]["total"] == COUNT + 2
    done = wait_for_end(client, first["id"])
    assert done["state"] == "done"
    assert done["images"] == {
        "total": COUNT + 2,
        "waiting": 0,
        "running": 0,
        "done": COUNT + 1,
        "failed": 1,
        "removed": 0,
    }
    assert list(done["failures"].values()) == [1]
    assert done["created"] <= done["started"] <= done["ended"]
    assert (done["output"], done["recipe"]["name"], done["source"]) == ("first", "detect", str(images))

    found = list_results(client, first["id"])
    assert [image["name"] for image in found] == [*(f"{n:02}.png" for n in range(COUNT)), "99 again.png"]
    assert list_results(client, first["id"], limit=4) == found
    assert found[-1]["annotations"] == found[3]["annotations"]
    labels = [label for image in found for label in image["annotations"]]
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
    assert client.get("/v1/jobs").json()["jobs"] == [without_recipe(get_job(client, first["id"]))]


def test_a_recipe_can_be_yaml_or_an_object(client: httpx.Client, images: Path) -> None:
    text = "name: mine\nsteps:\n  - id: message\n    task: <CAPTION>\n"
    as_object = {"name": "mine", "steps": [{"id": "message", "task": "<CAPTION>"}]}
    one = wait_for_end(client, start_job(client, images / "0[0-2].png", text)["id"])
    other = wait_for_end(client, start_job(client, images / "0[0-2].png", as_object)["id"])
    assert one["recipe"] == other["recipe"] == as_object
    assert one["output"] != other["output"]
    assert list_results(client, one["id"]) == list_results(client, other["id"])
    assert len(list_results(client, one["id"])) == 3


def test_the_same_request_with_the_same_output_is_the_same_job(client: httpx.Client, images: Path) -> None:
    first = start_job(client, images, output="mine")
    again = client.post("/v1/jobs", json={"source": str(images), "recipe": "detect", "output": "mine"})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    recipe = {"name": "detect", "steps": [{"id": "objects", "task": "<OD>", "filter": {"min_score": 0.5}}]}
    other = client.post("/v1/jobs", json={"source": str(images), "recipe": recipe, "output": "mine"})
    refused = check_problem(other, 409, "output-taken")
    assert "step objects: filter.min_score was not set, is 0.5" in refused.detail
    fewer = client.post("/v1/jobs", json={"source": f"{images}/0*.png", "recipe": "detect", "output": "mine"})
    assert (
        "does not contain the same images as when the job started" in check_problem(fewer, 409, "output-taken").detail
    )
    assert "/extend" not in fewer.text  # it is another source
    client.post(f"/v1/jobs/{first['id']}/cancel")


def test_a_job_is_extended(engine: Engine, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("00.png", "02.png", "04.png"):
        (own / name).write_bytes((images / name).read_bytes())
    with connect_server(engine, tmp_path / "jobs", own) as client:
        number = start_job(client, own, output="mine")["id"]
        wait_for_end(client, number)
        first = {image["name"]: image for image in list_results(client, number)}
        nothing = client.post(f"/v1/jobs/{number}/extend").json()
        assert (nothing["job"]["state"], nothing["added"], nothing["kept"]) == ("done", 0, 3)

        (own / "01.png").write_bytes((images / "01.png").read_bytes())
        (own / "02.png").write_bytes((images / "03.png").read_bytes())
        (own / "04.png").unlink()
        again = client.post("/v1/jobs", json={"source": str(own), "recipe": "detect", "output": "mine"})
        assert f"POST /v1/jobs/{number}/extend" in check_problem(again, 409, "output-taken").detail
        with_images = client.get(f"/v1/jobs/{number}/export", params={"format": "coco", "images": "copy"})
        left_out = json.loads(with_images.headers["x-export-report"])
        assert left_out["images"] == 1  # one has changed, and one is gone

        response = client.post(f"/v1/jobs/{number}/extend")
        assert response.status_code == 200, response.text
        extended = response.json()
        assert extended["job"]["state"] in ("queued", "running", "done")
        assert (extended["added"], extended["kept"], extended["compared"], extended["removed"]) == (1, 1, 1, 1)
        assert extended["names"] == {"added": ["01.png"], "compared": ["02.png"], "removed": ["04.png"]}
        assert wait_for_end(client, number)["images"] == {
            "total": 3, "waiting": 0, "running": 0, "done": 3, "failed": 0, "removed": 1,
        }  # fmt: skip
        second = list_results(client, number)
        assert [(image["position"], image["name"]) for image in second] == [(0, "00.png"), (1, "02.png"), (3, "01.png")]
        assert second[0] == first["00.png"]
        assert second[1]["sha256"] != first["02.png"]["sha256"]
        assert client.get(f"/v1/jobs/{number}/images/3").content == (images / "01.png").read_bytes()
        gone = check_problem(client.get(f"/v1/jobs/{number}/images/2"), 422, "invalid-source")
        assert "04.png cannot be read: it is no longer in the source" in gone.detail
        check_problem(client.get(f"/v1/jobs/{number}/images/4"), 404, "not-found")


def test_a_running_job_is_extended(engine: Engine, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("00.png", "01.png", "02.png"):
        (own / name).write_bytes((images / name).read_bytes())
    with connect_server(engine, tmp_path / "jobs", own) as client:
        number = start_job(client, own, "dense")["id"]
        wait_until(lambda: get_job(client, number)["state"] != "queued")
        (own / "03.png").write_bytes((images / "03.png").read_bytes())
        assert client.post(f"/v1/jobs/{number}/extend").json()["added"] == 1
        wait_until(lambda: get_job(client, number)["images"]["done"] == 4)
        assert wait_for_end(client, number)["images"]["failed"] == 0
        assert [image["name"] for image in list_results(client, number)] == [f"0{n}.png" for n in range(4)]

        client.post(f"/v1/jobs/{start_job(client, own, output='other')['id']}/cancel")
        refused = check_problem(client.post("/v1/jobs/2/extend"), 409, "invalid-state")
        assert "job 2 is cancelled" in refused.detail or "is done" in refused.detail


def test_jobs_run_one_at_a_time_in_order_of_arrival(client: httpx.Client, images: Path) -> None:
    numbers = [
        start_job(client, images, "caption")["id"],
        start_job(client, images)["id"],
        start_job(client, images)["id"],
    ]
    ends = [wait_for_end(client, number) for number in numbers]
    assert [one["state"] for one in ends] == ["done"] * 3
    assert ends[0]["ended"] <= ends[1]["started"] < ends[1]["ended"] <= ends[2]["started"]
    assert list_results(client, numbers[1]) == list_results(client, numbers[2])


def test_progress_is_streamed_until_the_job_ends(client: httpx.Client, images: Path) -> None:
    number = start_job(client, images)["id"]
    with client.stream("GET", f"/v1/jobs/{number}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = read_events(stream)
    assert {name for name, _ in events[:-1]} == {"progress"}
    assert events[-1] == ("end", without_recipe(get_job(client, number)))
    done = [row["images"]["done"] for _, row in events]
    assert done == sorted(done)
    assert done[-1] == COUNT + 1
    with client.stream("GET", f"/v1/jobs/{number}/events") as stream:
        assert [name for name, _ in read_events(stream)] == ["progress", "end"]


def test_jobs_can_be_paused_resumed_cancelled_and_retried(client: httpx.Client, images: Path) -> None:
    number = start_job(client, images, "caption")["id"]
    address = f"/v1/jobs/{number}"
    assert client.post(f"{address}/pause").json()["state"] == "paused"
    wait_until(lambda: get_job(client, number)["images"]["running"] == 0)
    paused = get_job(client, number)
    assert paused["state"] == "paused"
    assert paused["rate"] is None
    assert client.post(f"{address}/pause").status_code == 200  # a second time
    assert "can be resumed" not in client.post(f"{address}/resume").text
    assert wait_for_end(client, number)["state"] == "done"
    assert "job 1 is done" in check_problem(client.post(f"{address}/pause"), 409, "invalid-state").detail
    check_problem(client.post(f"{address}/resume"), 409, "invalid-state")
    check_problem(client.post(f"{address}/cancel"), 409, "invalid-state")

    assert client.post(f"{address}/retry", params={"kind": "unreachable"}).json()["state"] == "done"
    opened = client.post(f"{address}/retry").json()
    assert opened["state"] in ("queued", "running", "done")
    assert wait_for_end(client, number)["images"]["failed"] == 1

    other = start_job(client, images, output="other")["id"]
    assert client.post(f"/v1/jobs/{other}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/v1/jobs/{other}/cancel").status_code == 200
    check_problem(client.post(f"/v1/jobs/{other}/resume"), 409, "invalid-state")
    check_problem(client.post(f"/v1/jobs/{other}/retry"), 409, "invalid-state")


def test_a_retry_labels_an_image_that_was_fixed(engine: Engine, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "good.png").write_bytes((images / "00.png").read_bytes())
    (own / "bad.png").write_bytes(b"x" * (images / "01.png").stat().st_size)
    with connect_server(engine, tmp_path / "jobs", own) as client:
        number = start_job(client, own)["id"]
        assert wait_for_end(client, number)["images"]["failed"] == 1
        (own / "bad.png").write_bytes((images / "01.png").read_bytes())
        client.post(f"/v1/jobs/{number}/retry")
        wait_until(lambda: get_job(client, number)["images"]["done"] == 2)
        assert wait_for_end(client, number)["failures"] == {}


def test_jobs_are_listed_in_pages(client: httpx.Client, images: Path) -> None:
    assert client.get("/v1/jobs").json() == {"jobs": [], "next": None}
    numbers = [start_job(client, images / "00.png")["id"] for _ in range(3)]
    for number in numbers:
        wait_for_end(client, number)
    pages = [client.get("/v1/jobs", params={"limit": 2}).json()]
    pages.append(client.get("/v1/jobs", params={"limit": 2, "after": pages[0]["next"]}).json())
    assert [[job["id"] for job in page["jobs"]] for page in pages] == [numbers[:2], numbers[2:]]
    assert pages[1]["next"] is None
    assert client.get("/v1/jobs", params={"after": numbers[2]}).json()["jobs"] == []
    check_problem(client.get("/v1/jobs", params={"limit": 0}), 422, "invalid-request")


def test_a_job_warns_of_a_task_that_the_model_does_not_know(client: httpx.Client, images: Path) -> None:
    recipe = {"name": "wrong", "steps": [{"id": "a", "task": "<DETECT>"}, {"id": "b", "task": "<CAPTION>"}]}
    job = start_job(client, images, recipe)
    (warning,) = job["warnings"]
    assert "<DETECT> is no task" in warning
    assert "<OD>" in warning
    assert get_job(client, job["id"])["warnings"] == [warning]
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert start_job(client, images)["warnings"] == []
