"""Image files that were made to keep a server busy."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from server.app import create_app
from server.cli.main import app as florist
from server.settings import Settings
from tests.labels.attack_images import (
    draw_noise,
    encode,
    make_comments,
    make_padding,
    make_scans,
    make_text_ppm,
    make_thin_png,
)
from tests.server.helpers import TIMEOUT, AnsweringEngine, FloristProcess, run_app, wait_until

NOISE = encode(draw_noise(), "JPEG")
SLOW = make_text_ppm(2000)  # takes half a minute
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a million comments": (lambda: make_comments(10**6), "more than 4,096 segments"),
    "four megabytes of padding": (lambda: make_padding(4 * 10**6), "bytes of padding"),
    "a million escaped bytes": (lambda: make_padding(10**6, b"\xff\x00"), "bytes of padding"),
    "3,000 scans": (lambda: make_scans(3000, 600), "scans, more than the limit of 100"),
    "1×4,000,000 pixels": (lambda: make_thin_png(4 * 10**6), "the limit of a side is 1,000,000"),
    "a PPM as text": (lambda: make_text_ppm(1000), "this is a PPM, PGM or PBM image"),
    "100 scans of 16 megapixels": (lambda: make_scans(89, 4000), "takes more than 0.2 s to decode"),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = create_app(Settings(decode_timeout=0.2), AnsweringEngine())  # type: ignore[arg-type]
    with run_app(app) as (_, port):
        yield f"http://127.0.0.1:{port}"


def list_decoders(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "decoder_process" in " ".join(child.cmdline())]


def send(url: str, data: bytes) -> httpx.Response:
    return httpx.post(f"{url}/v1/prompt", files={"image": data}, data={"task": "<OD>"}, timeout=TIMEOUT)


@pytest.mark.situation("A1", "An image that takes minutes to decode is refused with the limit")
@pytest.mark.parametrize("name", REFUSED)
def test_an_image_that_takes_minutes_is_refused(url: str, name: str) -> None:
    make, message = REFUSED[name]
    response = send(url, make())
    assert response.status_code == 422, response.text
    assert message in response.json()["detail"]
    assert response.json()["field"] == "image"


@pytest.mark.situation("A1", "An image that takes minutes to decode, in a job")
def test_a_job_sets_such_images_aside(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(NOISE)
    (folder / "comments.jpg").write_bytes(make_comments(10**5))
    (folder / "scans.jpg").write_bytes(make_scans(3000, 600))
    (folder / "thin.png").write_bytes(make_thin_png(2 * 10**6))
    command = ["label", str(folder), "--task", "<OD>", "--out", str(tmp_path / "out"), "--format", "coco"]
    result = CliRunner().invoke(florist, command, env={"COLUMNS": "300", "FLORIST_DEVICE": "cpu"})
    assert result.exit_code == 1, result.output
    for name, reason in (("comments.jpg", "segments"), ("scans.jpg", "scans"), ("thin.png", "limit of a side")):
        assert any(name in line and reason in line for line in result.output.splitlines()), result.output
    assert "annotations on 1 images" in result.output


@pytest.mark.situation("A2", "Ordinary prompts are answered while images are decoded that take long")
def test_ordinary_images_do_not_wait() -> None:
    settings = Settings(decode_timeout=600, allow_netpbm=True, shutdown_timeout=0.1)
    app = create_app(settings, AnsweringEngine())  # type: ignore[arg-type]
    with run_app(app) as (server, port), ThreadPoolExecutor(4) as pool:
        url = f"http://127.0.0.1:{port}"
        pending = [pool.submit(send, url, SLOW) for _ in range(4)]
        wait_until(lambda: len(list_decoders(psutil.Process())) > 1)
        assert send(url, NOISE).status_code == 200
        assert not any(each.done() for each in pending)
        assert httpx.get(f"{url}/readyz", timeout=TIMEOUT).status_code == 200
        server.handle_exit(signal.SIGTERM, None)
        assert [each.result().json()["type"] for each in pending] == ["urn:florist:problem:shutting-down"] * 4


@pytest.mark.situation("A3", "SIGTERM ends the server while prompts and a job decode slow images, and others wait")
def test_sigterm_ends_the_server_while_it_decodes(tmp_path: Path) -> None:
    (images := tmp_path / "images").mkdir()
    (images / "slow.ppm").write_bytes(SLOW)
    options = "--device", "cpu", "--decode-timeout", "600", "--allow-netpbm", "--shutdown-timeout", "0.1"
    jobs = "--jobs-folder", str(tmp_path / "jobs"), "--jobs-sources", str(images)
    server = FloristProcess(tmp_path / "log", *options, *jobs)
    try:
        server.wait_ready()
        job = {"source": str(images), "recipe": "detect"}
        assert httpx.post(f"{server.url}/v1/jobs", json=job, timeout=TIMEOUT).status_code == 201
        with ThreadPoolExecutor(4) as pool:
            pending = [pool.submit(send, server.url, SLOW) for _ in range(4)]
            wait_until(lambda: len(list_decoders(psutil.Process(server.running.pid))) > 2)
            decoders = list_decoders(psutil.Process(server.running.pid))
            server.terminate()
            assert server.wait() == 0
            for each in pending:  # all have ended, also those that were still sending
                each.exception()
        psutil.wait_procs(decoders, TIMEOUT)
        assert not any(decoder.is_running() for decoder in decoders)
    finally:
        server.kill()


@pytest.mark.situation("A4", "Images of many frames, segments or huge sizes in their headers")
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_of_many_frames_is_decoded(url: str, kind: str) -> None:
    frames = [Image.new("L", (64, 48), gray) for gray in range(200)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert send(url, data).json()["width"] == 64
