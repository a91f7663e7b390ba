"""Every script in examples/ runs against a live server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from seedling.scenes.drawing import draw_scene
from tests.server.helpers import FloristProcess

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three drawn scenes."""
    folder = tmp_path_factory.mktemp("images")
    for seed in (1, 2, 3):
        draw_scene(seed, objects=(2, 3), words=(0, 1)).image.save(folder / f"scene-{seed}.png")
    return folder


@pytest.fixture(scope="module")
def server(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with jobs and projects that may read the images."""
    folder = tmp_path_factory.mktemp("server")
    options = ["--jobs-folder", str(folder / "jobs"), "--projects-folder", str(folder / "projects")]
    process = FloristProcess(folder / "log", "--device", "cpu", "--jobs-sources", str(images), *options)
    process.wait_ready()
    yield process.url
    process.kill()


def run(script: str, *arguments: str, server: str, folder: Path) -> str:
    """Runs an example as its docstring says; returns what it prints."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    environment = os.environ | {"FLORIST_URL": server}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in source} == set()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("detect_objects.py", " to "),
        ("ask_many_prompts.py", "<OCR_WITH_REGION> ["),
        ("stream_annotations.py", "annotation "),
    ],
)
def test_examples_with_one_image(script: str, expected: str, server: str, images: Path, tmp_path: Path) -> None:
    assert expected in run(script, str(images / "scene-1.png"), server=server, folder=tmp_path)


def test_constrained_classes_are_the_only_ones(server: str, images: Path, tmp_path: Path) -> None:
    printed = run(
        "constrain_classes.py", str(images / "scene-1.png"), "cat", "dog", server=server, folder=tmp_path
    ).splitlines()
    assert printed
    assert {line.split()[0] for line in printed} <= {"cat", "dog"}


def test_regions_are_cropped_and_described(server: str, images: Path, tmp_path: Path) -> None:
    printed = run("crop_regions.py", str(images / "scene-1.png"), "crops", server=server, folder=tmp_path)
    assert len(list((tmp_path / "crops").glob("*.png"))) == len(printed.splitlines()) > 0


def test_a_folder_is_labeled_as_coco(server: str, images: Path, tmp_path: Path) -> None:
    run("label_folder.py", str(images), server=server, folder=tmp_path)
    assert (tmp_path / "labels.zip").stat().st_size > 100


def test_corrections_are_sent_to_a_project(server: str, images: Path, tmp_path: Path) -> None:
    assert "3 corrections" in run("correct_labels.py", str(images), server=server, folder=tmp_path)
    body = {"name": "one-class", "tasks": ["<OD>"], "classes": ["a class that no image has"]}
    project = httpx.post(f"{server}/v1/projects", json=body).raise_for_status().json()["id"]
    out = run("correct_labels.py", str(images), "one-class", server=server, folder=tmp_path)
    assert "3 corrections in project one-class" in out
    answer = httpx.get(f"{server}/v1/projects/{project}/corrections").json()
    assert [correction["annotations"] for correction in answer["corrections"]] == [[], [], []]
