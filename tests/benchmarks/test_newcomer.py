"""The newcomer's path, as `python -m benchmarks.newcomer` measures it: about half an hour on two cores."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.newcomer.images import CLASSES, draw_newcomer_image
from labels.opening import open_dataset
from tests.labels.formats.own_tools import TOOLS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def figures(folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.newcomer", "--folder", folder / "files", "--out", folder / "out.json"]
    subprocess.run(command, cwd=ROOT, check=True)
    return list(json.loads((folder / "out.json").read_text()))


def test_images_show_the_new_classes() -> None:
    images = [draw_newcomer_image(seed) for seed in range(20)]
    counts = Counter(each.label for image in images for each in image.annotations)
    assert counts["cactus"] > 3
    assert counts["octopus"] > 3
    assert counts.keys() <= set(CLASSES)
    assert images[3].annotations == draw_newcomer_image(3).annotations


@pytest.mark.slow
def test_a_project_with_new_classes_leaves_fewer_corrections(figures: list[dict[str, Any]]) -> None:
    before, *_, after = [each["value"] for each in figures]
    assert after < before - 10
    assert not any("no class" in each["note"] for each in figures)
    assert "promoted" in figures[-1]["note"]
    assert "not promoted" not in figures[-1]["note"]


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("tool", TOOLS)
def test_each_export_opens_in_its_own_tool(tool: str, folder: Path) -> None:
    name, read = TOOLS[tool]
    out = folder / "files/final" / name
    expected = {
        Path(image.name).name: Counter(each.label for each in image.annotations)
        for image in open_dataset(str(folder / "files/final/coco")).images
    }
    assert {path.name: classes for path, classes in read(out)} == expected
    assert set().union(*expected.values()) <= set(CLASSES)
