"""The server process: sockets, signals, and failures to start."""

import json
import resource
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from prompts.annotations import Box
from server import process
from server.api.prompt.examples import create_prompt_examples
from server.app import create_app
from server.connections import ConnectionLimits
from server.process import create_server, limit_connections, listen
from server.settings import Settings
from tests.server.helpers import TIMEOUT, FloristProcess, StuckEngine, serve_app, wait_until

BODY = create_prompt_examples()["detect"]["value"]


def create_request(body: bytes, path: str = "/v1/prompt", length: int | None = None) -> bytes:
    """Returns the bytes of an HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: florist\r\nContent-Type: application/json\r\nContent-Length: "
    return head.encode() + str(len(body) if length is None else length).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("path", ["/v1/prompt", "/v1/prompt?stream=true"])
def test_the_prompts_of_a_disconnected_client_are_cancelled(stuck: StuckEngine, path: str) -> None:
    app = create_app(Settings(), stuck)  # type: ignore[arg-type]
    with serve_app(app) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0)) as client:
            body = {"image": BODY["image"], "prompts": [{"task": "<OD>"}, {"task": "<CAPTION>"}]}
            client.sendall(create_request(json.dumps(body).encode(), path))
            wait_until(lambda: len(stuck.handles) == 2)
        wait_until(lambda: all(handle.cancelled for handle in stuck.handles))
        wait_until(lambda: app.state.lifecycle.running == 0)
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_an_annotation_is_streamed_before_the_answer_is_complete(stuck: StuckEngine) -> None:
    box = Box(label="ball", score=0.9, box=(1, 2, 3, 4))
    with (
        serve_app(create_app(Settings(), stuck)) as url,  # type: ignore[arg-type]
        httpx.stream("POST", f"{url}/v1/prompt?stream=true", json=BODY, timeout=TIMEOUT) as answer,
    ):
        lines = answer.iter_lines()
        wait_until(lambda: stuck.handles)
        stuck.handles[0].publish([box])
        assert next(lines) == "event: annotation"
        assert json.loads(next(lines).removeprefix("data: "))["box"] == [1, 2, 3, 4]
        assert not stuck.handles[0].done()
        stuck.finish(0, [box])
        assert "event: result" in list(lines)


def test_a_client_that_disconnects_while_it_sends_its_body(stuck: StuckEngine) -> None:
    app = create_app(Settings(), stuck)  # type: ignore[arg-type]
    with serve_app(app) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0)) as client:
            client.sendall(create_request(b'{"image": ', length=1000))
            wait_until(lambda: app.state.lifecycle.running == 1)
        wait_until(lambda: app.state.lifecycle.running == 0)
        assert 'status="500"' not in httpx.get(f"{url}/metrics").text


def test_a_body_that_does_not_arrive_times_out(stuck: StuckEngine) -> None:
    app = create_app(Settings(request_timeout=0.3), stuck)  # type: ignore[arg-type]
    with serve_app(app) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0), TIMEOUT) as client:
            client.sendall(create_request(b'{"image": ', length=1000))
            assert client.recv(1000).startswith(b"HTTP/1.1 408")
        assert app.state.lifecycle.running == 0


def test_a_client_that_still_sends_a_large_body_gets_the_error() -> None:
    with serve_app(create_app(Settings(max_body_bytes=10_000), StuckEngine())) as url:  # type: ignore[arg-type]
        response = httpx.post(f"{url}/v1/prompt", content=b"x" * 5_000_000, timeout=TIMEOUT)
        assert response.status_code == 413
        chunked = httpx.post(f"{url}/v1/prompt", content=(b"x" * 1000 for _ in range(5000)), timeout=TIMEOUT)
        assert chunked.status_code == 413


def test_the_server_answers_prompts_and_drains_on_sigterm(start: Callable[..., FloristProcess]) -> None:
    """Tests several things with one process, because each start takes seconds."""
    server = start("--log-format", "json")
    wait_until(lambda: server.get_status("/healthz") == 200)  # possibly before the model is loaded
    server.wait_ready()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{server.url}/v1/prompt", json=BODY, timeout=TIMEOUT), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    # The last bits of a score depend on the size of the batch.
    output = [
        [{**annotation, "score": round(annotation["score"], 4)} for annotation in a.json()["annotations"]]
        for a in answers
    ]
    assert all(annotations == output[0] for annotations in output)

    # A request that has started before the signal is finished. Later ones are refused.
    body = json.dumps(BODY).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(create_request(body[:-10], length=len(body)))
        wait_until(lambda: 'route="/v1/prompt"' in httpx.get(f"{server.url}/metrics").text)
        server.terminate()
        wait_until(lambda: server.get_status("/readyz") == 503)
        refused = httpx.post(f"{server.url}/v1/prompt", json=BODY, timeout=TIMEOUT)
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:florist:problem:shutting-down"
        assert "retry-after" in refused.headers
        assert server.get_status("/healthz") == 200
        connection.sendall(body[-10:])
        connection.settimeout(TIMEOUT)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert server.wait() == 0

    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request" and line["path"] == "/v1/prompt"]
    assert {line["status"] for line in requests} == {200, 503}
    assert all(line["request_id"] and line["ms"] >= 0 for line in requests)
    assert BODY["image"][:40] not in server.log.read_text()


def test_a_request_that_outlasts_the_shutdown_gets_an_error(
    stuck: StuckEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_CLOSE_TIMEOUT", 0.0)
    app = create_app(Settings(shutdown_timeout=0.3), stuck)  # type: ignore[arg-type]
    server, listener = create_server(app, ConnectionLimits()), listen("127.0.0.1", 0)
    server.on_late = (late := threading.Event()).set
    port = listener.getsockname()[1]
    running = threading.Thread(target=server.run, args=([listener],))
    running.start()
    wait_until(lambda: server.started)
    with ThreadPoolExecutor(1) as pool, socket.create_connection(("127.0.0.1", port), TIMEOUT) as slow:
        pending = pool.submit(httpx.post, f"http://127.0.0.1:{port}/v1/prompt", json=BODY, timeout=TIMEOUT)
        slow.sendall(create_request(b'{"image": ', length=1000))
        wait_until(lambda: stuck.handles and app.state.lifecycle.running == 2)
        server.handle_exit(signal.SIGTERM, None)
        response = pending.result()
        assert slow.recv(10_000).startswith(b"HTTP/1.1 503")
    running.join(TIMEOUT)
    assert late.wait(TIMEOUT)
    assert (response.status_code, response.json()["type"]) == (503, "urn:florist:problem:shutting-down")
    assert not server.failed


@pytest.mark.parametrize(("hard", "expected"), [(1024, 384), (20_000, 1000), (resource.RLIM_INFINITY, 1000)])
def test_connections_are_limited_by_descriptors(monkeypatch: pytest.MonkeyPatch, hard: int, expected: int) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert limit_connections(1000) == expected
    ((soft, same),) = raised
    assert same == hard
    assert 2 * expected < soft <= 65_536


def test_a_missing_model_ends_the_server(start: Callable[..., FloristProcess], tmp_path: Path) -> None:
    server = start(
        "--host", "0.0.0.0", "--jobs-folder", str(tmp_path), "--jobs-sources", "/no/such/images,s3://bucket",
        model="/no/such/folder", FLORIST_PROT="1",
    )  # fmt: skip
    assert server.wait() == 1
    assert "there are no such settings: FLORIST_PROT; `florist serve --help` lists them" in server.log.read_text()
    assert "jobs may read images from /no/such/images, but there is no such folder" in server.log.read_text()
    assert "from s3://bucket, but" not in server.log.read_text()
    assert "everyone who reaches 0.0.0.0 can use this server: it has no API keys" in server.log.read_text()
    assert "there is no folder /no/such/folder" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_port_in_use_is_reported_at_once(start: Callable[..., FloristProcess]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start("--port", str(taken.getsockname()[1]))
        assert server.wait() == 2
    output = server.log.read_text()
    assert "Address already in use" in output
    assert "Traceback" not in output


def test_healthz_answers_while_the_model_loads(start: Callable[..., FloristProcess]) -> None:
    server = start()
    wait_until(lambda: server.get_status("/healthz") == 200)
    # The goal is 1.5 s. CPU time does not depend on other processes, such as parallel tests.
    assert server.read_cpu_seconds() < 3
    loading = httpx.get(f"{server.url}/readyz", timeout=TIMEOUT)
    if loading.status_code != 200:  # a fast machine may have loaded the model already
        assert (loading.status_code, loading.json()["type"]) == (503, "urn:florist:problem:loading")
        assert int(loading.headers["retry-after"]) > 0
    server.wait_ready()
