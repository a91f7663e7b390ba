"""Micro-models together: LoRA arithmetic, weighted box fusion, and each label by the model that knows it best.

What comes of each is backtested as any single adapter is: answers against held-out labels, picture by picture.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from finetune.evaluation.matching import box_iou
from prompts.annotations import Annotation, Box
from server.engine.adapters import lora

_A, _B = ".lora_A.weight", ".lora_B.weight"


class CombineError(ValueError):
    """Adapters that cannot be combined; the message says why."""


def add(folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Writes the adapter whose change of every matrix is Σ wᵢ · ΔWᵢ (task arithmetic: Ilharco et al. 2023,
    arXiv:2212.04089), exactly: the halves are stacked, so its rank is the sum of theirs.

    `folders`: PEFT's, of one base, each of one rank and alpha throughout; a negative weight unlearns. Raises
    CombineError.
    """
    if not folders or len(folders) != len(weights):
        raise CombineError(f"{len(folders)} adapters need as many weights, not {len(weights)}")
    read = [_read(folder) for folder in folders]
    settings, states = [own for own, _ in read], [state for _, state in read]
    bases = {str(s.get(lora.BASE)) for s in settings}
    if len(bases) > 1:
        raise CombineError(f"the adapters have different bases: {' and '.join(sorted(bases))}")
    for folder, (own, state) in zip(folders, read, strict=True):
        if own.get("rank_pattern") or own.get("alpha_pattern"):
            raise CombineError(f"{folder} has ranks or alphas by pattern; combine adapters of one rank throughout")
        if odd := sorted(name for name in state if not name.endswith((_A, _B))):
            raise CombineError(f"{folder} holds {odd[0]}, which is no LoRA weight; combine adapters of plain LoRA")
    modules = sorted({name.removesuffix(_A) for state in states for name in state if name.endswith(_A)})
    rank = sum(int(own["r"]) for own in settings)
    stacked: dict[str, torch.Tensor] = {}
    for module in modules:
        halves = [(state.get(module + _A), state.get(module + _B)) for state in states]
        shapes = {(a.shape[1], b.shape[0]) for a, b in halves if a is not None and b is not None}
        if len(shapes) != 1:
            raise CombineError(f"{module} has other sizes in the one than in the other: they are of different bases")
        inputs, outputs = shapes.pop()
        first, second = [], []
        for (a, b), own, weight in zip(halves, settings, weights, strict=True):
            missing = a is None or b is None  # what an adapter leaves alone it changes by nothing
            own_rank = int(own["r"])
            scale = own["lora_alpha"] / (own_rank**0.5 if own.get("use_rslora") else own_rank)
            first.append(torch.zeros(own_rank, inputs) if missing or a is None else a.float())
            second.append(torch.zeros(outputs, own_rank) if missing or b is None else b.float() * weight * scale)
        stacked[module + _A], stacked[module + _B] = torch.cat(first), torch.cat(second, 1)
    names = sorted({module.removeprefix("base_model.model.") for module in modules})
    made = settings[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False, "target_modules": names}
    out.mkdir(parents=True, exist_ok=True)
    (out / lora.CONFIG).write_text(json.dumps(made, indent=2))
    save_file({name: value.contiguous() for name, value in stacked.items()}, out / lora.WEIGHTS[0])


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """An adapter's settings and weights."""
    try:
        own, state = json.loads((folder / lora.CONFIG).read_text()), load_file(folder / lora.WEIGHTS[0])
        if int(own["r"]) < 1 or not float(own["lora_alpha"]):
            raise ValueError("its rank and alpha must be above 0")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CombineError(f"{folder} is no adapter that PEFT has saved as safetensors: {error}") from error
    return own, state


def fuse(answers: Sequence[Sequence[Annotation]], weights: Sequence[float] = (), overlap: float = 0.55) -> list[Box]:
    """Weighted box fusion (Solovyev et al. 2021, arXiv:1910.13302, section 3): boxes of one label that overlap become
    their mean, weighted by score; what few of the models say loses score.

    `answers`: of each model on the same picture, boxes with scores (one without counts as 0.5); `weights`: how far
    each is trusted by the others, above 0, 1 where none are given; `overlap`: the IoU from which two are of one thing.
    Raises CombineError.
    """
    trust = list(weights) or [1.0] * len(answers)
    if len(trust) != len(answers):
        raise CombineError(f"{len(answers)} answers need as many weights, not {len(trust)}")
    if not all(0 < weight < math.inf for weight in trust):
        raise CombineError(f"a weight is above 0, not {min(trust)}; leave out a model that is not trusted")
    boxes = [
        (note, (note.score if note.score is not None else 0.5) * weight)
        for answer, weight in zip(answers, trust, strict=True)
        for note in answer
        if isinstance(note, Box)
    ]
    boxes.sort(key=lambda pair: -pair[1])
    clusters: list[list[tuple[Box, float]]] = []
    fused: list[Box] = []
    for box, score in boxes:
        alike = [box_iou(box.box, f.box) if f.label == box.label else 0.0 for f in fused]
        best = int(np.argmax(alike)) if alike else -1
        if best >= 0 and alike[best] >= overlap:
            clusters[best].append((box, score))
            fused[best] = _mean(clusters[best], trust)
        else:
            clusters.append([(box, score)])
            fused.append(_mean(clusters[-1], trust))
    return sorted(fused, key=lambda box: -(box.score or 0.0))


def _mean(cluster: Sequence[tuple[Box, float]], trust: Sequence[float]) -> Box:
    """One box of a cluster: corners weighted by score; the mean score, by how many models agree (eq. 1, 2, 5)."""
    scores = np.array([score for _, score in cluster])
    corners = (np.array([box.box for box, _ in cluster]) * scores[:, None]).sum(0) / scores.sum()
    score = scores.mean() * min(len(cluster), len(trust)) / sum(trust)
    x1, y1, x2, y2 = corners.tolist()
    return Box(label=cluster[0][0].label, box=(x1, y1, x2, y2), score=float(np.clip(score, 1e-6, 1 - 1e-6)))


def route(answers: Mapping[str, Sequence[Annotation]], routes: Mapping[str, str], default: str) -> list[Annotation]:
    """Each label as the model says that is best at it. `answers`: by model; `routes`: label → model; labels without a
    route come from `default`. Raises CombineError for a model that did not answer."""
    if unknown := {*routes.values(), default} - answers.keys():
        raise CombineError(f"{', '.join(sorted(unknown))} did not answer; there are {', '.join(sorted(answers))}")
    return [note for model, answer in answers.items() for note in answer if routes.get(note.label, default) == model]
