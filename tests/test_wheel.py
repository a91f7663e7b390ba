"""The wheel: what an installed florist needs lies in it."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from seedling.scenes.drawing import draw_scene

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


def test_the_page_of_the_api_lies_in_the_wheel(wheel: Path) -> None:
    assets = "server/api/documentation/assets"
    files = {path.name for path in (ROOT / assets).iterdir()}
    with zipfile.ZipFile(wheel) as archive:
        assert files
        assert {f"{assets}/{name}" for name in files} <= set(archive.namelist())


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
