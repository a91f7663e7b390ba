"""A newcomer's path, by the command line and HTTP: label, correct, tune twice, backtest, promote, label, export."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.newcomer.images import CLASSES, draw_newcomer_image
from benchmarks.reliability.server import ROOT, KillableServer
from finetune.evaluation.corrections import CorrectionCounts, count_corrections
from labels.labeled_image import LabeledImage
from labels.opening import open_dataset
from prompts.tasks import TASKS

POOL_SEED, TEST_SEED = 230_000, 240_000
PROJECT = "newcomer"
_POLL_SECONDS = 1.0


@dataclass
class Round:
    """A fine-tune run and what became of it."""

    corrected: int
    run: dict[str, Any]
    minutes: float
    backtest: dict[str, Any] = field(default_factory=dict)
    promoted: bool = False


class NewcomerPath:
    """The images, the server and the outputs of the path, in the folder `root`."""

    def __init__(self, root: Path, images: int, test_images: int) -> None:
        self.root = root
        self.pool = write_images(root / "images", range(POOL_SEED, POOL_SEED + images))
        self.test = write_images(root / "test", range(TEST_SEED, TEST_SEED + test_images))
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("FLORIST_")},
            "FLORIST_JOBS_FOLDER": str(root / "jobs"), "FLORIST_PROJECTS_FOLDER": str(root / "projects"),
        }  # fmt: skip

    def label(self, images: str, out: str, *options: str) -> list[LabeledImage]:
        """Returns the images that `florist label` has labeled."""
        self.run_florist("label", str(self.root / images), "--out", str(self.root / out), "--images", "copy", *options)
        return list(open_dataset(str(self.root / out / "coco")).images)

    def run_florist(self, *arguments: str) -> str:
        """Returns what a command prints. Raises RuntimeError if it fails."""
        command = [sys.executable, "-m", "server.cli.main", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"florist {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done.stdout + done.stderr

    def write_recipe(self) -> str:
        """Writes a recipe that asks the champion of the project, and returns its path."""
        path = self.root / "project.yaml"
        path.write_text(f"name: project\nsteps:\n  - {{id: objects, task: <OD>, project: {PROJECT}}}\n")
        return str(path)


class ProjectClient:
    """A project on a server."""

    def __init__(self, server: KillableServer) -> None:
        self._client = httpx.Client(base_url=server.url, timeout=120)
        self._path = ""

    def create(self, classes: Sequence[str]) -> None:
        """Creates the project with its classes."""
        body = {"name": PROJECT, "tasks": ["<OD>"], "holdout_share": 0.25, "classes": list(classes)}
        self._path = f"/v1/projects/{self._post('/v1/projects', body)['id']}"

    def correct(self, images: Iterable[LabeledImage]) -> None:
        """Sends the true labels of images, as a person leaves them."""
        for image in images:
            annotations = json.dumps([each.model_dump(mode="json") for each in image.annotations])
            answer = self._client.post(
                f"{self._path}/corrections",
                files={"image": (image.name, image.read())},
                data={"annotations": annotations},
            )
            answer.raise_for_status()

    def tune(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Returns a fine-tune run that has ended."""
        return self._wait(f"{self._path}/runs/{self._post(f'{self._path}/runs', settings)['id']}")

    def backtest(self, model: int) -> dict[str, Any]:
        """Returns a backtest that has ended."""
        return self._wait(f"{self._path}/backtests/{self._post(f'{self._path}/backtests', {'model': model})['id']}")

    def promote(self, model: int) -> bool:
        """Returns whether the model was promoted: only one that has won its backtest is."""
        return self._client.post(f"{self._path}/promote", json={"model": model}).is_success

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.post(path, json=body)
        if answer.is_error:
            raise RuntimeError(f"{path}: {answer.text}")
        return dict(answer.json())

    def _wait(self, path: str) -> dict[str, Any]:
        while not (state := self._client.get(path).raise_for_status().json())["ended"]:
            time.sleep(_POLL_SECONDS)
        return dict(state)


def write_images(folder: Path, seeds: Iterable[int]) -> dict[str, LabeledImage]:
    """Draws images into a folder, and returns them with their true labels, by name."""
    folder.mkdir(parents=True)
    images = {image.name: image for image in map(draw_newcomer_image, seeds)}
    for name, image in images.items():
        (folder / name).write_bytes(image.read())
    return images


def count_left(labeled: Iterable[LabeledImage], truth: dict[str, LabeledImage]) -> float:
    """Returns the corrections per 100 labels that a person has to make. Raises ValueError for missing images."""
    found = {Path(image.name).name: image.annotations for image in labeled}
    if found.keys() != truth.keys():
        raise ValueError(f"{len(found)} of {len(truth)} images were labeled")
    counts = [count_corrections(found[name], image.annotations, TASKS["<OD>"]) for name, image in truth.items()]
    return sum(counts, CorrectionCounts()).per_hundred


def list_unknown_names(labeled: Iterable[LabeledImage]) -> list[str]:
    """Returns the labels that are no class of the project."""
    return sorted({each.label for image in labeled for each in image.annotations} - set(CLASSES))
