"""The real server: over a socket, through signals, and when it cannot start."""

import json
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn

from prompts.annotations import Box
from server.api import examples
from server.app import create_app
from server.process import Server
from server.settings import Settings
from tests.server.helpers import PATIENCE, Process, StuckEngine, free_port, serving, until

ASK = examples.body()["detect"]["value"]


def posted(body: bytes, path: str = "/v1/prompt", length: int | None = None) -> bytes:
    """A request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: florist\r\nContent-Type: application/json\r\nContent-Length: "
    return head.encode() + str(len(body) if length is None else length).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("path", ["/v1/prompt", "/v1/prompt?stream=true"])
def test_a_client_that_goes_away_frees_its_places(stuck: StuckEngine, path: str) -> None:
    app = create_app(Settings(), stuck)  # type: ignore[arg-type]
    with serving(app) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0)) as client:
            body = {"image": ASK["image"], "prompts": [{"task": "<OD>"}, {"task": "<CAPTION>"}]}
            client.sendall(posted(json.dumps(body).encode(), path))
            until(lambda: len(stuck.handles) == 2)
        until(lambda: all(handle.cancelled for handle in stuck.handles))
        until(lambda: app.state.serving.running == 0)
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_an_annotation_is_streamed_before_the_answer_is_whole(stuck: StuckEngine) -> None:
    box = Box(label="ball", score=0.9, box=(1, 2, 3, 4))
    with (
        serving(create_app(Settings(), stuck)) as url,  # type: ignore[arg-type]
        httpx.stream("POST", f"{url}/v1/prompt?stream=true", json=ASK, timeout=PATIENCE) as answer,
    ):
        lines = answer.iter_lines()
        until(lambda: stuck.handles)
        stuck.handles[0].publish([box])
        assert next(lines) == "event: annotation"
        assert json.loads(next(lines).removeprefix("data: "))["box"] == [1, 2, 3, 4]
        assert not stuck.handles[0].done()
        stuck.finish(0, [box])
        assert "event: result" in list(lines)


def test_a_client_gone_in_the_middle_of_its_body(stuck: StuckEngine) -> None:
    app = create_app(Settings(), stuck)  # type: ignore[arg-type]
    with serving(app) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0)) as client:
            client.sendall(posted(b'{"image": ', length=1000))
            until(lambda: app.state.serving.running == 1)
        until(lambda: app.state.serving.running == 0)
        assert 'status="500"' not in httpx.get(f"{url}/metrics").text


def test_a_body_that_never_comes_frees_its_place(stuck: StuckEngine) -> None:
    app = create_app(Settings(timeout=0.3), stuck)  # type: ignore[arg-type]
    with serving(app) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0), PATIENCE) as client:
            client.sendall(posted(b'{"image": ', length=1000))
            assert client.recv(1000).startswith(b"HTTP/1.1 408")
        assert app.state.serving.running == 0


def test_a_body_too_large_is_told_so_though_it_is_still_being_sent() -> None:
    with serving(create_app(Settings(max_body_bytes=10_000), StuckEngine())) as url:  # type: ignore[arg-type]
        answered = httpx.post(f"{url}/v1/prompt", content=b"x" * 5_000_000, timeout=PATIENCE)
        assert answered.status_code == 413
        chunked = httpx.post(f"{url}/v1/prompt", content=(b"x" * 1000 for _ in range(5000)), timeout=PATIENCE)
        assert chunked.status_code == 413


def test_serving_asking_and_sigterm(start: Callable[..., Process]) -> None:
    """One process for several things, since each start costs seconds."""
    server = start("--log-format", "json")
    until(lambda: server.status("/healthz") == 200)  # perhaps before the model is there
    server.wait_ready()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{server.url}/v1/prompt", json=ASK, timeout=PATIENCE), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    # Batches of other sizes round the last bit of a score otherwise.
    said = [[{**note, "score": round(note["score"], 4)} for note in a.json()["annotations"]] for a in answers]
    assert all(notes == said[0] for notes in said)

    # A request that has begun when the signal comes is finished; what comes after it is refused.
    body = json.dumps(ASK).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as begun:
        begun.sendall(posted(body[:-10], length=len(body)))
        until(lambda: 'route="/v1/prompt"' in httpx.get(f"{server.url}/metrics").text)
        server.terminate()
        until(lambda: server.status("/readyz") == 503)
        refused = httpx.post(f"{server.url}/v1/prompt", json=ASK, timeout=PATIENCE)
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:florist:problem:shutting-down"
        assert "retry-after" in refused.headers
        assert server.status("/healthz") == 200
        begun.sendall(body[-10:])
        begun.settimeout(PATIENCE)
        assert begun.recv(100).startswith(b"HTTP/1.1 200")
    assert server.wait() == 0

    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request" and line["path"] == "/v1/prompt"]
    assert {line["status"] for line in requests} == {200, 503}
    assert all(line["request_id"] and line["ms"] >= 0 for line in requests)
    assert ASK["image"][:40] not in server.log.read_text()


def test_a_request_that_outlasts_the_shutdown_is_told_so(stuck: StuckEngine) -> None:
    app = create_app(Settings(shutdown_timeout=0.3), stuck)  # type: ignore[arg-type]
    port = free_port()
    server = Server(uvicorn.Config(app, port=port, log_config=None))
    running = threading.Thread(target=server.run)
    running.start()
    with ThreadPoolExecutor(1) as pool:
        until(lambda: server.started)
        asked = pool.submit(httpx.post, f"http://127.0.0.1:{port}/v1/prompt", json=ASK, timeout=PATIENCE)
        until(lambda: stuck.handles)
        server.handle_exit(signal.SIGTERM, None)
        answered = asked.result()
    running.join(PATIENCE)
    assert (answered.status_code, answered.json()["type"]) == (503, "urn:florist:problem:shutting-down")
    assert not server.failed


def test_a_model_that_is_not_there_ends_the_server(start: Callable[..., Process]) -> None:
    server = start(model="/no/such/folder")
    assert server.wait() == 1
    assert "there is no folder /no/such/folder" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_port_in_use_is_told_at_once(start: Callable[..., Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start("--port", str(taken.getsockname()[1]))
        assert server.wait() == 2
    said = server.log.read_text()
    assert "Address already in use" in said
    assert "Traceback" not in said
