"""Creates models that are built from other models: what is checked first, and the files that are written."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune import ensembling
from prompts.tasks import TASKS, AnswerKind
from server.engine.adapters.lora import WEIGHT_FILES
from server.projects.errors import InvalidEnsembleError
from server.store.projects.ensembles import AdapterSum, BoxFusion, EnsembleDefinition, LabelRouting
from server.store.projects.records import ModelVersion

_FUSABLE = (AnswerKind.BOXES, AnswerKind.PHRASES)
_ROUTABLE = (*_FUSABLE, AnswerKind.BOXES_OR_POLYGONS)


def check_models(definition: EnsembleDefinition, models: Sequence[ModelVersion]) -> str:
    """Returns the task of the models. Raises InvalidEnsembleError if these models cannot be combined."""
    for model in models:
        if model.task != models[0].task:
            first = f"model {models[0].id} answers {models[0].task}"
            raise InvalidEnsembleError(f"{first}, and model {model.id} {model.task}; combine models of one task")
        if isinstance(model.ensemble, BoxFusion | LabelRouting):
            raise InvalidEnsembleError(f"model {model.id} is an ensemble; combine its members instead")
    check_task(definition, models[0].task)
    return models[0].task


def check_task(definition: EnsembleDefinition, task: str) -> None:
    """Raises InvalidEnsembleError if answers of a task cannot be merged in this way."""
    kind = TASKS[task].answer_kind
    match definition:
        case BoxFusion() if kind not in _FUSABLE:
            raise InvalidEnsembleError(f"{task} returns {kind}, and only boxes can be fused", "combine")
        case LabelRouting() if kind not in _ROUTABLE:
            raise InvalidEnsembleError(f"{task} returns {kind}, which have no labels to route", "combine")


def hash_ensemble(definition: EnsembleDefinition, models: Sequence[ModelVersion]) -> str:
    """Returns the SHA-256 of an ensemble's definition and of the weights of its members."""
    parts = [definition.model_dump_json(), *(model.sha256 for model in models)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_adapter_sum(definition: AdapterSum, folders: Mapping[int, Path], out: Path) -> str:
    """Writes the sum of adapters as one adapter, and returns the SHA-256 of its weights.

    `folders`: model id → folder of its adapter. Raises InvalidEnsembleError and OSError. Then nothing is left in `out`.
    """
    try:
        # In a thread that ends, so that OpenMP keeps no helper threads: see `Engine.load`.
        with ThreadPoolExecutor(1, thread_name_prefix="florist-ensemble") as executor:
            executor.submit(ensembling.add_adapters, list(folders.values()), definition.effective_weights, out).result()
        with (out / WEIGHT_FILES[0]).open("rb") as weights:
            return hashlib.file_digest(weights, "sha256").hexdigest()
    except BaseException as error:
        shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, ensembling.CombineError):
            message = str(error)
            for model_id, folder in folders.items():  # clients do not need to know the server's paths
                message = message.replace(str(folder), f"model {model_id}")
            raise InvalidEnsembleError(message) from error
        raise
