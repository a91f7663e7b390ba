"""Models made of others: what is checked before, and what is written."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune import ensembling
from server.engine.adapters import lora
from server.store.projects.ensembles import AdapterSum, EnsembleDefinition, InvalidEnsembleError
from server.store.projects.records import ModelVersion


def task_of(models: Sequence[ModelVersion]) -> str:
    """The task that all of them answer. Raises CannotCombine."""
    for model in models:
        if model.task != models[0].task:
            first = f"model {models[0].id} answers {models[0].task}"
            raise InvalidEnsembleError(f"{first}, and model {model.id} {model.task}; combine models of one task")
        if model.combined is not None and not isinstance(model.combined, AdapterSum):
            raise InvalidEnsembleError(f"model {model.id} is of several that answer together; combine those themselves")
    return models[0].task


def sha256_of(combined: EnsembleDefinition, models: Sequence[ModelVersion]) -> str:
    """Of all that answers."""
    parts = [combined.model_dump_json(), *(model.sha256 for model in models)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def add(combined: AdapterSum, folders: Mapping[int, Path], out: Path) -> str:
    """Writes the adapter that is the sum of those of the models (number → folder): the SHA-256 of its weights. Raises
    CannotCombine, and OSError, and then nothing is left."""
    try:
        # On a thread that ends: see `Engine.load`.
        with ThreadPoolExecutor(1, thread_name_prefix="florist-combine") as thread:
            thread.submit(ensembling.add, list(folders.values()), combined.shares, out).result()
        with (out / lora.WEIGHTS[0]).open("rb") as weights:
            return hashlib.file_digest(weights, "sha256").hexdigest()
    except BaseException as error:
        shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, ensembling.CombineError):
            said = str(error)
            for model, folder in folders.items():  # where a server keeps things is not for its clients
                said = said.replace(str(folder), f"model {model}")
            raise InvalidEnsembleError(said) from error
        raise
