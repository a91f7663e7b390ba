"""The server on Ray Serve, over HTTP."""

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
from tests.server.helpers import find_free_port

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def ray_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Starts Ray on this machine. Yields the URL at which it serves."""
    import ray
    from ray import serve

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # otherwise all other processes have priority
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        port = find_free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()


def test_the_server_on_ray_gives_the_same_answers(
    ray_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import serve

    from server.ray_serve import DeploymentSize, app

    monkeypatch.setenv("FLORIST_MAX_TEXT_LENGTH", "33")  # of this process: it is sent to the replicas
    scene = draw_scene(4711).image
    expected = engine.submit(Request(scene, TASKS["<OD>"])).wait()
    scene.save(file := io.BytesIO(), "PNG")
    serve.run(app(DeploymentSize()))

    def ask(**fields: str) -> httpx.Response:
        return httpx.post(f"{ray_url}/v1/prompt", files={"image": file.getvalue()}, data=fields, timeout=180)

    answer = ask(task="<OD>")
    assert answer.status_code == 200, answer.text
    assert [annotation["label"] for annotation in answer.json()["annotations"]] == [
        annotation.label for annotation in expected.annotations
    ]
    assert answer.json()["text"] == expected.text
    too_long = ask(task="<OPEN_VOCABULARY_DETECTION>", text="a" * 34)
    assert too_long.status_code == 422, too_long.text
    assert httpx.get(f"{ray_url}/readyz", timeout=180).status_code == 200
    refused = httpx.delete(f"{ray_url}/v1/adapters/project", timeout=180)
    assert refused.status_code == 405
    assert "change the folder that FLORIST_ADAPTERS_FOLDER names" in refused.json()["detail"]


def test_settings_that_only_one_replica_could_use_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from server.ray_serve import DeploymentSize, app

    monkeypatch.setenv("FLORIST_JOBS_FOLDER", str(tmp_path))
    with pytest.raises(SettingsError, match="replicas on Ray Serve run no jobs"):
        app(DeploymentSize())
    with pytest.raises(ValueError, match=r"max_replicas \(1\) is less than replicas \(2\)"):
        DeploymentSize(replicas=2, max_replicas=1)
