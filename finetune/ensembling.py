"""Combination of micro-models: LoRA arithmetic, weighted box fusion, and routing of classes to models.

Each result is evaluated in a backtest, as a single adapter is.
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

from labels.geometry import box_iou
from prompts.annotations import Annotation, Box
from server.engine.adapters.class_list import ClassListFileError, read_class_list, write_class_list
from server.engine.adapters.lora import BASE_HASH_KEY, CONFIG_FILE, WEIGHT_FILES
from server.engine.task_tokens import read_task_tokens

_A, _B = ".lora_A.weight", ".lora_B.weight"


class CombineError(ValueError):
    """The adapters or predictions cannot be combined. The message says why."""


def add_adapters(folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Writes an adapter that changes every matrix by Σ wᵢ · ΔWᵢ, exactly.

    Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089). The low-rank factors are stacked, so that the rank is the
    sum of the ranks. A negative weight unlearns. `folders`: PEFT adapters of the same base, each with one rank and
    alpha for all modules. The class list is the union of theirs; there is none if one of them has none. Raises
    CombineError.
    """
    if not folders or len(folders) != len(weights):
        raise CombineError(f"{len(folders)} adapters need as many weights, not {len(weights)}")
    adapters = [_load_adapter(folder) for folder in folders]
    try:
        lists = [read_class_list(folder) for folder in folders]
    except ClassListFileError as error:
        raise CombineError(str(error)) from error
    configs, states = [config for config, _ in adapters], [state for _, state in adapters]
    bases = {str(config.get(BASE_HASH_KEY)) for config in configs}
    if len(bases) > 1:
        raise CombineError(f"the adapters have different bases: {' and '.join(sorted(bases))}")
    for folder, (config, state) in zip(folders, adapters, strict=True):
        if config.get("rank_pattern") or config.get("alpha_pattern"):
            raise CombineError(f"{folder} has ranks or alphas by pattern; combine adapters with one rank")
        if unknown := sorted(name for name in state if not name.endswith((_A, _B))):
            raise CombineError(
                f"{folder} contains {unknown[0]}, which is not a LoRA weight; combine plain LoRA adapters"
            )
    modules = sorted({name.removesuffix(_A) for state in states for name in state if name.endswith(_A)})
    rank = sum(int(config["r"]) for config in configs)
    stacked: dict[str, torch.Tensor] = {}
    for module in modules:
        factors = [(state.get(module + _A), state.get(module + _B)) for state in states]
        shapes = {(a.shape[1], b.shape[0]) for a, b in factors if a is not None and b is not None}
        if len(shapes) != 1:
            raise CombineError(f"{module} has different sizes in the adapters: they have different bases")
        inputs, outputs = shapes.pop()
        stacked_a, stacked_b = [], []
        for (a, b), config, weight in zip(factors, configs, weights, strict=True):
            own_rank = int(config["r"])
            scale = config["lora_alpha"] / (own_rank**0.5 if config.get("use_rslora") else own_rank)
            if a is None or b is None:  # this adapter does not change the module
                stacked_a.append(torch.zeros(own_rank, inputs))
                stacked_b.append(torch.zeros(outputs, own_rank))
            else:
                stacked_a.append(a.float())
                stacked_b.append(b.float() * weight * scale)
        stacked[module + _A], stacked[module + _B] = torch.cat(stacked_a), torch.cat(stacked_b, 1)
    if not all(bool(value.isfinite().all()) for value in stacked.values()):
        raise CombineError("the weighted sum is too large for its numbers: use smaller weights")
    names = sorted({module.removeprefix("base_model.model.") for module in modules})
    combined = configs[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False, "target_modules": names}
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG_FILE).write_text(json.dumps(combined, indent=2))
    classes = [name for names in lists for name in names] if all(lists) else ()
    write_class_list(out, classes, sorted({token for folder in folders for token in read_task_tokens(folder)}))
    save_file({name: value.contiguous() for name, value in stacked.items()}, out / WEIGHT_FILES[0])


def _load_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Returns an adapter's configuration and weights."""
    try:
        config, state = json.loads((folder / CONFIG_FILE).read_text()), load_file(folder / WEIGHT_FILES[0])
        if int(config["r"]) < 1 or not float(config["lora_alpha"]):
            raise ValueError("its rank and alpha must be above 0")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CombineError(f"{folder} is not an adapter that PEFT has saved as safetensors: {error}") from error
    return config, state


def fuse_boxes(
    predictions: Sequence[Sequence[Annotation]], weights: Sequence[float] = (), min_iou: float = 0.55
) -> list[Box]:
    """Fuses the boxes of several models on one image.

    Weighted box fusion (Solovyev et al. 2021, arXiv:1910.13302, section 3): boxes of one class with an IoU of `min_iou`
    or more become their mean, weighted by score; the score is lower if fewer models agree. A box without a score counts
    as 0.5. `weights`: one for each model, above 0; none: all are 1. Raises CombineError.
    """
    model_weights = list(weights) or [1.0] * len(predictions)
    if len(model_weights) != len(predictions):
        raise CombineError(f"{len(predictions)} models need as many weights, not {len(model_weights)}")
    if not all(0 < weight < math.inf for weight in model_weights):
        raise CombineError(f"a weight must be above 0, not {min(model_weights)}; to ignore a model, leave it out")
    boxes = [
        (annotation, (annotation.score if annotation.score is not None else 0.5) * weight)
        for predicted, weight in zip(predictions, model_weights, strict=True)
        for annotation in predicted
        if isinstance(annotation, Box)
    ]
    boxes.sort(key=lambda pair: -pair[1])
    clusters: list[list[tuple[Box, float]]] = []
    fused: list[Box] = []
    for box, score in boxes:
        ious = [box_iou(box.box, other.box) if other.label == box.label else 0.0 for other in fused]
        best = int(np.argmax(ious)) if ious else -1
        if best >= 0 and ious[best] >= min_iou:
            clusters[best].append((box, score))
            fused[best] = _average_boxes(clusters[best], model_weights)
        else:
            clusters.append([(box, score)])
            fused.append(_average_boxes(clusters[-1], model_weights))
    return sorted(fused, key=lambda box: -(box.score or 0.0))


def _average_boxes(cluster: Sequence[tuple[Box, float]], model_weights: Sequence[float]) -> Box:
    """Returns the box of a cluster: corners weighted by score, and the score of equations 1, 2 and 5."""
    scores = np.array([score for _, score in cluster])
    corners = (np.array([box.box for box, _ in cluster]) * scores[:, None]).sum(0) / scores.sum()
    score = scores.mean() * min(len(cluster), len(model_weights)) / sum(model_weights)
    x1, y1, x2, y2 = corners.tolist()
    return Box(label=cluster[0][0].label, box=(x1, y1, x2, y2), score=float(np.clip(score, 1e-6, 1 - 1e-6)))


def route_classes(
    predictions: Mapping[str, Sequence[Annotation]], routes: Mapping[str, str], default: str
) -> list[Annotation]:
    """Returns the annotations of each class from the model that is responsible for it.

    `predictions`: by model; `routes`: class → model; other classes come from `default`. Raises CombineError if a model
    has no predictions.
    """
    if unknown := {*routes.values(), default} - predictions.keys():
        raise CombineError(f"{', '.join(sorted(unknown))} did not answer; there are {', '.join(sorted(predictions))}")
    return [
        annotation
        for model, predicted in predictions.items()
        for annotation in predicted
        if routes.get(annotation.label, default) == model
    ]
