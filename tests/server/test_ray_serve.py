"""The server on Ray Serve, asked over HTTP."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prompts.tasks import TASKS
from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from server.engine.request import Request
from server.settings import SettingsError
from tests.server.helpers import free_port

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray of this machine; the URL at which it serves."""
    import ray
    from ray import serve

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else whatever else runs on this machine goes first
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()


def test_the_server_on_ray_answers_as_it_does_alone(
    serving: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import serve

    from server.ray_serve import Scale, app

    monkeypatch.setenv("FLORIST_MAX_TEXT_LENGTH", "33")  # of this process: a replica has it all the same
    scene = draw_scene(4711).image
    expected = engine.submit(Request(scene, TASKS["<OD>"])).wait()
    scene.save(file := io.BytesIO(), "PNG")
    serve.run(app(Scale()))

    def ask(**fields: str) -> httpx.Response:
        return httpx.post(f"{serving}/v1/prompt", files={"image": file.getvalue()}, data=fields, timeout=180)

    answer = ask(task="<OD>")
    assert answer.status_code == 200, answer.text
    assert [note["label"] for note in answer.json()["annotations"]] == [note.label for note in expected.annotations]
    assert answer.json()["text"] == expected.text
    too_long = ask(task="<OPEN_VOCABULARY_DETECTION>", text="a" * 34)
    assert too_long.status_code == 422, too_long.text
    assert httpx.get(f"{serving}/readyz", timeout=180).status_code == 200
    refused = httpx.delete(f"{serving}/v1/adapters/project", timeout=180)
    assert refused.status_code == 405
    assert "change the folder that FLORIST_ADAPTERS_FOLDER names" in refused.json()["detail"]


def test_what_one_replica_alone_would_know_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from server.ray_serve import Scale, app

    monkeypatch.setenv("FLORIST_JOBS_FOLDER", str(tmp_path))
    with pytest.raises(SettingsError, match="no replica runs jobs"):
        app(Scale())
    with pytest.raises(ValueError, match=r"most_replicas \(1\) is less than replicas \(2\)"):
        Scale(replicas=2, most_replicas=1)
