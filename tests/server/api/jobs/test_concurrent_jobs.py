"""Clients that start and control the same job at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.server.api.jobs.job_client import COUNT, FINAL_STATES, get_job, list_results, start_job, wait_for_end


def test_a_job_is_started_once(client: httpx.Client, images: Path) -> None:
    body = {"source": str(images), "recipe": "detect", "output": "mine"}
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda _: client.post("/v1/jobs", json=body), range(8)))
    assert sorted(response.status_code for response in responses) == [200] * 7 + [201]
    (number,) = {response.json()["id"] for response in responses}
    assert wait_for_end(client, number)["images"]["done"] == COUNT + 1
    assert len(client.get("/v1/jobs").json()["jobs"]) == 1
    assert len({image["position"] for image in list_results(client, number)}) == COUNT + 1


def test_the_state_of_a_job_changes_in_one_order(client: httpx.Client, images: Path) -> None:
    number = start_job(client, images, "caption")["id"]

    def change(step: int) -> int:
        return client.post(f"/v1/jobs/{number}/{('pause', 'resume', 'retry')[step % 3]}").status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(change, range(40))) <= {200, 409}
    if get_job(client, number)["state"] == "paused":
        assert client.post(f"/v1/jobs/{number}/resume").status_code == 200
    done = wait_for_end(client, number)
    assert (done["state"], done["images"]["done"]) == ("done", COUNT + 1)


def test_a_cancelled_job_stays_cancelled(client: httpx.Client, images: Path) -> None:
    number = start_job(client, images, "caption")["id"]
    actions = ["pause", "cancel", "resume", "retry"] * 5
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda action: client.post(f"/v1/jobs/{number}/{action}"), actions))
    assert {answer.status_code for answer in answers} <= {200, 409}
    ended = wait_for_end(client, number)
    assert ended["state"] in FINAL_STATES
    cancelled = [answer for action, answer in zip(actions, answers, strict=True) if action == "cancel"]
    if any(answer.status_code == 200 for answer in cancelled):
        assert ended["state"] == "cancelled"
