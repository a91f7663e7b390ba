"""The wheel: what an installed florist needs lies in it. A plain install serves projects, and does not tune."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from seedling.scenes.drawing import draw_scene
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from tests.server.engine.tiny import create_tiny_model, save_checkpoint
from tests.server.helpers import TIMEOUT, FloristProcess, wait_until
from tests.server.projects.project_setup import (
    QUICK,
    add_random_model,
    create_project,
    force_promotion,
    open_projects,
)
from tests.server.projects.scenes import draw_scenes

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `make wheel` builds, built elsewhere."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, capture_output=True)
    (built,) = out.glob("florist-*.whl")
    return built


def make_venv(folder: Path) -> Path:
    """Makes an environment with pip in it; returns its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def ask_for_boxes(python: Path, folder: Path) -> str:
    """Asks the installed florist for the objects of a drawn scene, away from the checkout."""
    image = folder / "scene.png"
    draw_scene(7, objects=(3, 3), words=(0, 0)).image.save(image)
    command = [str(python.with_name("florist")), "prompt", str(image), "<OD>", "--json", "--device", "cpu"]
    return subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True).stdout


def test_the_pages_lie_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("server/api/documentation/assets", "server/jobs/summary/page", "server/jobs/summary/page/script"):
        files = {path.name for path in (ROOT / folder).iterdir() if path.is_file() and path.name != "tsconfig.json"}
        assert files
        assert {f"{folder}/{name}" for name in files} <= names


def test_an_installed_wheel_answers_a_prompt(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the libraries of this one, but not this checkout."""
    python = make_venv(tmp_path / "venv")
    (site_packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # A path in a .pth file brings the libraries, and not the editable florist, whose own .pth file is not read there.
    (site_packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    where = "import server; print(server.__file__)"
    found = subprocess.run([str(python), "-c", where], check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    assert found.startswith(str(site_packages))
    assert '"kind": "box"' in ask_for_boxes(python, tmp_path)


@pytest.mark.slow
def test_a_wheel_installs_into_an_empty_environment_with_all_it_needs(wheel: Path, tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    assert '"kind": "box"' in ask_for_boxes(python, tmp_path)
    # The newest libraries, which this environment may not have.
    command = [str(python.with_name("florist")), "label", "scene.png", "--task", "<OD>", "--out", "out"]
    subprocess.run([*command, "--device", "cpu"], check=True, cwd=tmp_path, capture_output=True)


def list_training_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(each) for each in project["optional-dependencies"]["train"]]


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with florist from the wheel, the libraries of this one, and none of `[train]`."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder / "venv", symlinks=True)
    (site_packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    left_out = {each.name.lower().replace("-", "_") for each in list_training_requirements()}
    libraries = folder / "libraries"
    libraries.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        name = path.name.lower().replace("-", "_").removesuffix(".py")
        if not any(name == each or name.startswith(f"{each}_") for each in (*left_out, "florist", "__editable__")):
            (libraries / path.name).symlink_to(path)
    (site_packages / "libraries.pth").write_text(str(libraries))
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def plain_server(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server of that environment with a project: six corrections, a champion, and a run in the queue."""
    folder = tmp_path_factory.mktemp("server")
    checkpoint = str(save_checkpoint(folder / "base", create_tiny_model()))
    with (
        Engine.load(EngineConfig(checkpoint, device="cpu")) as engine,
        open_projects(folder, engine, start=False) as projects,
    ):
        project = create_project(projects)
        force_promotion(projects, project, add_random_model(projects, project, 1))
        projects.runs.start_run(project, QUICK, "Ada")
    options = ["--device", "cpu", "--model", checkpoint, "--jobs-folder", str(folder)]
    options += ["--projects-folder", str(folder / "projects")]
    process = FloristProcess(folder / "log", *options, python=plain)
    process.wait_ready()
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        yield client
    process.kill()


def test_a_plain_install_serves_projects(plain_server: httpx.Client) -> None:
    (project,) = plain_server.get("/v1/projects").json()["projects"]
    assert project["images"] == 6
    (scene,) = draw_scenes(1, seed=77)
    added = plain_server.post("/v1/projects/1/corrections", json=scene.body)
    assert added.status_code == 201, added.text
    assert plain_server.delete(f"/v1/projects/1/corrections/{added.json()['id']}").status_code == 200
    prompt = {"image": scene.body["image"], "task": "<OD>", "project": "emoji"}
    answer = plain_server.post("/v1/prompt", json=prompt)
    assert answer.status_code == 200, answer.text
    assert answer.json()["adapter"]
    assert plain_server.post("/v1/projects/1/rollback", json={"task": "<OD>"}).status_code == 200
    assert plain_server.post("/v1/projects/1/backtests", json={"model": 1, "forgetting_images": 2}).status_code == 201
    path = "/v1/projects/1/backtests/1"
    wait_until(lambda: plain_server.get(path).json()["ended"])
    backtest = plain_server.get(path).json()
    assert backtest["state"] == "done", backtest


def test_a_plain_install_says_what_tuning_needs(plain: Path, plain_server: httpx.Client) -> None:
    names = {each.name for each in list_training_requirements()}
    overview = plain_server.get("/v1").json()
    assert (overview["projects"], overview["tuning"]) == (True, False)
    assert {Requirement(each).name for each in overview["tuning_needs"]} == names
    wait_until(lambda: plain_server.get("/v1/projects/1/runs/2").json()["state"] == "failed")
    reason = plain_server.get("/v1/projects/1/runs/2").json()["reason"]
    for refused in (
        plain_server.post("/v1/projects/1/runs", json={"steps": 1}),
        plain_server.post("/v1/projects/1/runs/2/resume"),
    ):
        problem = refused.json()
        assert (refused.status_code, problem["type"]) == (403, "urn:florist:problem:training-not-installed")
        assert problem["detail"] == reason
        assert all(f"'{each}'" in reason for each in overview["tuning_needs"])
        assert "pip install 'accelerate" in reason
    command = [str(plain), "-m", "server.cli.main", "tune", "my/corrected", "--out", "out"]
    tuned = subprocess.run(command, cwd=plain.parent, capture_output=True, text=True, check=False)
    assert tuned.returncode == 2
    assert "python -m pip install 'accelerate" in tuned.stderr
