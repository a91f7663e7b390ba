"""`run.json`: everything that is needed to repeat a run, and its state."""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from finetune.tuning.config import TuneConfig
from finetune.tuning.replay import ReplaySource
from labels.dataset import UnusableEntry
from labels.labeled_image import LabeledImage
from server.engine.adapters.lora import WEIGHT_FILES

RECORD_FILE = "run.json"
_PACKAGES = ("florist", "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy", "pillow")
_MEANINGS = {
    "train.sha256": "the training images, or their labels",
    "holdout.sha256": "the holdout images, or their labels",
    "base_sha256": "the weights of the base",
    "start_adapter": "the weights of the start adapter",
}


@dataclass(frozen=True, slots=True)
class RunSource:
    """Where the images come from: the names of the datasets, and the entries that cannot be used.

    It is saved in `run.json`, but not compared when a run continues, since a dataset may be moved.
    """

    dataset: str = ""
    holdout: str | None = None
    unusable: Sequence[UnusableEntry] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `run.json`."""
        return {"dataset": self.dataset, "holdout": self.holdout, "unusable": len(self.unusable)}


@dataclass(frozen=True, slots=True)
class TuneData:
    """The data of a run.

    `train`: the training images; `holdout`: images that are never trained, by which the best checkpoint is chosen;
    `classes`: of the complete dataset; `replay`: images of the base's own domain; `source`: where they come from.
    """

    train: Sequence[LabeledImage]
    holdout: Sequence[LabeledImage] = ()
    classes: Sequence[str] = ()
    replay: ReplaySource | None = None
    source: RunSource = RunSource()


def hash_images(images: Sequence[LabeledImage]) -> str:
    """Returns the hash of names, sizes, labels and complete kinds. Pixels are not read."""
    digest = hashlib.sha256()
    for image in images:
        annotations = [annotation.model_dump(exclude={"score"}) for annotation in image.annotations]
        samples = [(s.task.token, s.text, s.region, [a.model_dump() for a in s.answer]) for s in image.samples]
        content = [image.name, image.size, annotations, samples, sorted(image.complete)]
        digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()


def describe_run(config: TuneConfig, data: TuneData, base_sha256: str, processes: int) -> dict[str, Any]:
    """Returns what identifies a run: a stopped run continues only if this is equal.

    Of the replayed images only their presence counts. Raises OSError if the start adapter cannot be read.
    """
    return {
        "classes": list(data.classes),
        "replayed": bool(config.replay_share and data.replay),
        "processes": processes,
        # The start adapter is identified by its weights, since it may be moved.
        "config": config.model_dump(mode="json", exclude={"start_adapter"}),
        "base_sha256": base_sha256,
        "start_adapter": _hash_file(Path(config.start_adapter) / WEIGHT_FILES[0]) if config.start_adapter else None,
        "train": {"images": len(data.train), "sha256": hash_images(data.train)},
        "holdout": {"images": len(data.holdout), "sha256": hash_images(data.holdout)},
    }


def find_changes(path: Path, description: dict[str, Any]) -> list[str]:
    """Returns how the run in a `run.json` differs from a description.

    Raises ValueError if the file was not written by a run.
    """
    try:
        before = json.loads(path.read_text())["run"]
        # A setting that was added after the run had its default value, except that such runs judged any class.
        before["config"] = {**TuneConfig().model_dump(mode="json"), "any_class": True, **before["config"]}
        start_folder = before["config"].pop("start_adapter")
        if "start_adapter" not in before:  # older runs have only the folder
            before["start_adapter"] = (description["start_adapter"] or start_folder) if start_folder else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was not written by a run ({error})") from error
    return _compare(before, description)


def _compare(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(before.keys() | now.keys())
            for line in _compare(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    if before == now:
        return []
    meaning = f" ({_MEANINGS[path]})" if path in _MEANINGS else ""
    return [f"{path} was {before!r}, now {now!r}{meaning}"]


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_environment() -> dict[str, Any]:
    """Returns the machine and the package versions. They are saved in `run.json`, but do not identify a run."""
    return {
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "packages": {name: _find_version(name) for name in _PACKAGES},
    }


def _find_version(package: str) -> str | None:
    """Returns the version; None for florist in a checkout that is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
