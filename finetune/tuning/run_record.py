"""What a run leaves to read: `run.json`, all that is needed to repeat it; `unusable.txt`, what of its datasets could
not be used; `log.jsonl`; `curves.png`; TensorBoard's."""

import hashlib
import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from finetune.tuning.config import TuneConfig
from labels.dataset import UnusableEntry
from labels.labeled_image import LabeledImage
from server.engine.adapters.lora import WEIGHT_FILES

_PACKAGES = ("florist", "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy", "pillow")
_MEANT = {
    "train.sha256": "the pictures that are taught, or their labels",
    "held.sha256": "the held-out pictures, or their labels",
    "base_sha256": "the base's weights",
    "start": "the weights of the adapter that it goes on from",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a run's pictures come from: what was named to be taught and to be held out, as it was given, which
    `run.json` tells and nothing is compared with, since a dataset may be moved; and what of it cannot be used."""

    dataset: str = ""
    held: str | None = None
    unusable: Sequence[UnusableEntry] = ()

    def told(self) -> dict[str, Any]:
        """For `run.json`."""
        return {"dataset": self.dataset, "held": self.held, "unusable": len(self.unusable)}


def fingerprint(examples: Sequence[LabeledImage]) -> str:
    """The hash of names, sizes, labels and of what is completely labelled; pixels are not read for it."""
    digest = hashlib.sha256()
    for example in examples:
        notes = [note.model_dump(exclude={"score"}) for note in example.annotations]
        asked = [(q.task.token, q.text, q.region, [a.model_dump() for a in q.answer]) for q in example.samples]
        told = [example.name, example.size, notes, asked, sorted(example.complete)]
        digest.update(json.dumps(told, sort_keys=True).encode())
    return digest.hexdigest()


def described(
    config: TuneConfig, base: str, train: Sequence[LabeledImage], held: Sequence[LabeledImage], labels: Sequence[str], *,
    replayed: bool, processes: int,
) -> dict[str, Any]:  # fmt: skip
    """What makes a run what it is: a stopped one goes on only where these are equal. What is replayed is not told
    apart, only whether anything is. Raises OSError for the adapter that it starts from."""
    return {
        "labels": list(labels),
        "replayed": replayed,
        "processes": processes,
        # An adapter may be moved, as datasets may: which one it is, its weights tell.
        "config": config.model_dump(mode="json", exclude={"start"}),
        "base_sha256": base,
        "start": _sha256(Path(config.start) / WEIGHT_FILES[0]) if config.start else None,
        "train": {"pictures": len(train), "sha256": fingerprint(train)},
        "held": {"pictures": len(held), "sha256": fingerprint(held)},
    }


def changes(path: Path, about: dict[str, Any]) -> list[str]:
    """How the run that a `run.json` tells of differs from one that is described as `about`. Raises ValueError where it
    is not what a run wrote."""
    try:
        before = json.loads(path.read_text())["run"]
        # A setting that came later than the run had its default.
        before["config"] = {**TuneConfig().model_dump(mode="json"), **before["config"]}
        start = before["config"].pop("start")
        if "start" not in before:  # an older one told only where that adapter lay
            before["start"] = (about["start"] or start) if start else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what a run wrote ({error})") from error
    return _changed(before, about)


def _changed(before: Any, now: Any, path: str = "") -> list[str]:
    """Where two descriptions differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(before.keys() | now.keys())
            for line in _changed(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    if before == now:
        return []
    meant = f" ({_MEANT[path]})" if path in _MEANT else ""
    return [f"{path} was {before!r}, now {now!r}{meant}"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def surroundings() -> dict[str, Any]:
    """The machine and the packages, told in `run.json` but no part of what a run is."""
    return {
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    """None of florist itself where it runs from a checkout that is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_log(out: Path) -> list[dict[str, Any]]:
    """The log's lines, each step once: a run that went on wrote some anew."""
    path = out / "log.jsonl"
    lines: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):  # a kill or a full disk may cut a line short, and the next one follows in it
            read = json.loads(line)
            lines = {step: kept for step, kept in lines.items() if step < read["step"]} | {read["step"]: read}
    return list(lines.values())


def draw_curves(out: Path, metric: str) -> None:
    """`curves.png`: the parts of the loss, and the held-out metric, over steps."""
    from matplotlib.figure import Figure

    lines = read_log(out)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for part in ("text", "location", "kind", "anchor"):
        points = [(line["step"], line[part]) for line in lines if part in line]
        if points:
            left.plot(*zip(*points, strict=True), label=part)
    left.set(xlabel="step", title="loss on the pictures taught")
    if left.lines:
        left.legend()
    points = [(line["step"], line["held"]) for line in lines if "held" in line]
    if points:
        right.plot(*zip(*points, strict=True), marker="o")
        best = min(points, key=lambda point: point[1])
        right.annotate(f"{best[1]:.3g}", best, textcoords="offset points", xytext=(4, 6))
    held = "corrections per 100 labels" if metric == "corrections" else "loss"
    right.set(xlabel="step", title=f"{held}, held-out pictures", ylim=(0, None))
    figure.savefig(out / "curves.png", dpi=110)
