"""Loads checkpoints: a name or a path → a model, its tokenizer and its settings.

Florence-2 checkpoints have one of two layouts: the native layout of transformers, or the layout of Microsoft's remote
code. Weights in Microsoft's layout are converted when they are read; the remote code never runs. Fine-tuning saves the
native layout.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import Florence2Config

from prompts.locations import BINS
from prompts.vocabulary import Vocabulary
from server.engine.adapters.class_list import ClassListFileError, read_class_list
from server.engine.calibration import Calibration, CalibrationError, StaleCalibrationError, read_calibration
from server.engine.checkpoints import conversion
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.generation_config import (
    PUBLISHED_SETTINGS,
    GenerationConfig,
    warn_about_ignored_settings,
)
from server.engine.checkpoints.sources import SEEDLING, locate_checkpoint
from server.engine.checkpoints.tokenizer import Tokenizer
from server.engine.checkpoints.weights import hash_weights, read_weights
from server.engine.model.florence2 import Florence2
from server.engine.model.preprocessing import ImagePreprocessor, count_image_tokens
from server.engine.task_tokens import read_task_tokens

_MAX_LISTED_KEYS = 8  # in an error message; a wrong layout has hundreds of wrong keys
_EMBEDDING_PADDING = 64  # rows of an embedding are padded to a multiple of this
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with its tokenizer and settings.

    `folder`: the folder of its files. `generation`: its generation config, with `max_new_tokens` set.
    `image_tokens`: tokens per image. `max_prompt_tokens`: the longest prompt, with `<s>` and `</s>`.
    `max_new_tokens`: the longest answer, which is the number of positions of the decoder.
    `unused_tokens` [V]: True for ids without a token. `sha256`: of the weight files.
    `calibration`: of its scores, if the folder contains a calibration.json.
    `task_tokens`: of tasks besides those of the table, which its files name.
    `class_list`: the classes that it knows, if the folder contains a class_list.json.
    """

    name: str
    folder: Path
    model: Florence2
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    preprocessor: ImagePreprocessor
    generation: GenerationConfig
    image_tokens: int
    max_prompt_tokens: int
    max_new_tokens: int
    unused_tokens: Tensor
    sha256: str
    calibration: Calibration | None = None
    task_tokens: frozenset[str] = frozenset()
    class_list: tuple[str, ...] = ()

    @property
    def location_ids(self) -> range:
        """The ids of the location tokens, in order."""
        return range(self.tokenizer.first_location_id, self.tokenizer.first_location_id + BINS)


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The content of a checkpoint's folder, with a native config and native weight keys.

    `state`: the weights in the dtype of the files. `generation`: its `max_new_tokens` may exceed the model's positions.
    """

    name: str
    folder: Path
    config: Florence2Config
    state: dict[str, Tensor]
    tokenizer: Tokenizer
    preprocessor: ImagePreprocessor
    generation: GenerationConfig


def read_checkpoint(name: str = SEEDLING) -> CheckpointFiles:
    """Reads a checkpoint by name or path without building a model. Raises CheckpointError."""
    folder = locate_checkpoint(name)
    config = _read_json(folder, "config.json")
    settings = _read_json(folder, "generation_config.json", optional=True)
    if config.get("model_type") != "florence2":
        raise CheckpointError(f"{name} is a {config.get('model_type')} model; florist serves only Florence-2")
    tokenizer = _read_tokenizer(name, folder)
    state = read_weights(folder)
    with _convert_errors(name):
        if conversion.is_microsoft_config(config):
            # Microsoft's `generate` runs the inner BART, so its text_config has priority.
            sources: list[dict[str, Any]] = [config["text_config"], settings, PUBLISHED_SETTINGS]
            tokens = max(len(tokenizer), config["text_config"]["vocab_size"])
            rows = -(-tokens // _EMBEDDING_PADDING) * _EMBEDDING_PADDING
            config = conversion.to_native_config(config, rows) | {"image_token_id": tokenizer.image_id}
        else:
            warn_about_ignored_settings(settings, f"{name}'s generation_config.json")
            # A text_config may contain leftover generation settings. Use only those that every answer needs.
            text = config["text_config"]
            required = {k: text.get(k) for k in ("decoder_start_token_id", "eos_token_id")}
            sources = [settings or PUBLISHED_SETTINGS, required]
        native = Florence2Config.from_dict(config)
        if conversion.is_microsoft_layout(state):
            state = conversion.to_native_state(state, native.text_config.vocab_size)
        preprocessor = _read_preprocessor(name, folder)
        generation = GenerationConfig.merge(*sources)
    if native.image_token_id != tokenizer.image_id or len(tokenizer) > native.text_config.vocab_size:
        raise CheckpointError(
            f"{name}'s tokenizer does not match its model: it has {len(tokenizer)} tokens and <image> is "
            f"{tokenizer.image_id}, the model has {native.text_config.vocab_size} and {native.image_token_id}; copy "
            "the right tokenizer.json"
        )
    with _convert_errors(name):
        _merge_tied_embeddings(name, state)
        _check_weights(name, native, state)
    return CheckpointFiles(name, folder, native, state, tokenizer, preprocessor, generation)


def load_checkpoint(
    name: str = SEEDLING, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Loads a checkpoint by name (`seedling`, a hub id) or path onto a device, with its weights converted to `dtype`.

    Raises CheckpointError.
    """
    files = read_checkpoint(name)
    config, tokenizer = files.config, files.tokenizer
    try:
        with _convert_errors(name):
            image_tokens = count_image_tokens(config, files.preprocessor)
            model = _build_model(name, config, files.state, device, dtype)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(f"{name} does not fit into the memory of {device}: {error}") from error
    sha256 = hash_weights(files.folder)
    known_ids = set(tokenizer.ids.values())
    positions = config.text_config.max_position_embeddings
    unused = [i not in known_ids for i in range(config.text_config.vocab_size)]
    return Checkpoint(
        name=name,
        folder=files.folder,
        model=model,
        tokenizer=tokenizer,
        vocabulary=tokenizer.build_vocabulary(),
        preprocessor=files.preprocessor,
        generation=files.generation.limit_new_tokens(positions),
        image_tokens=image_tokens,
        max_prompt_tokens=positions - image_tokens,
        max_new_tokens=positions,
        unused_tokens=torch.tensor(unused, device=device),
        sha256=sha256,
        calibration=_read_calibration(name, files.folder, sha256),
        task_tokens=read_task_tokens(files.folder, tokenizer.ids),
        class_list=_read_class_list(name, files.folder),
    )


@contextmanager
def _convert_errors(name: str) -> Iterator[None]:
    """Raises CheckpointError for every error that a broken config can cause."""
    try:
        yield
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        StrictDataclassError,
    ) as error:
        reason = f"{error.args[0]!r} is missing from its config" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{name} is not a Florence-2 checkpoint that florist can load: {reason}") from error


def _merge_tied_embeddings(name: str, state: dict[str, Tensor]) -> None:
    """Keeps one key for the token embedding. Raises CheckpointError when its copies differ."""
    tables = [state.pop(key) for key in conversion.TIED_EMBEDDING_KEYS if key in state]
    if tables:
        if any(not torch.equal(tables[0], table) for table in tables[1:]):
            raise CheckpointError(
                f"{name}'s embedding and lm_head differ, but Florence-2 ties them; merge its adapter without lm_head"
            )
        state[conversion.EMBEDDING_KEY] = tables[0]


def _check_weights(name: str, config: Florence2Config, state: dict[str, Tensor]) -> None:
    """Raises CheckpointError when weights are missing, unexpected, or have wrong shapes."""
    shapes = Florence2(config).get_weight_shapes()
    problems = {
        "missing": sorted(shapes.keys() - state.keys()),
        "unexpected": sorted(state.keys() - shapes.keys()),
        "with a wrong shape": [
            f"{k} {list(state[k].shape)} instead of {list(shape)}"
            for k, shape in shapes.items()
            if k in state and state[k].shape != shape
        ],
    }
    if any(problems.values()):
        details = "; ".join(
            f"{len(keys)} {problem}: {', '.join(keys[:_MAX_LISTED_KEYS])}{' …' if len(keys) > _MAX_LISTED_KEYS else ''}"
            for problem, keys in problems.items()
            if keys
        )
        raise CheckpointError(f"{name}'s weights do not fit its config. {details}")


def _build_model(
    name: str, config: Florence2Config, state: dict[str, Tensor], device: str | torch.device, dtype: torch.dtype
) -> Florence2:
    converted = {k: v.to(device, dtype if v.is_floating_point() else None).contiguous() for k, v in state.items()}
    model = Florence2(config)
    model.load_weights(converted)
    if empty := [k for k, v in (*model.named_parameters(), *model.named_buffers()) if v.is_meta]:
        raise CheckpointError(
            f"{name} left {', '.join(empty[:_MAX_LISTED_KEYS])} without values; this is a bug in florist"
        )
    return model


def _read_calibration(name: str, folder: Path, sha256: str) -> Calibration | None:
    try:
        return read_calibration(folder, sha256)
    except StaleCalibrationError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except CalibrationError as error:  # a file of this name from another program
        logger.warning("%s: %s; its scores are not calibrated", name, error)
        return None


def _read_class_list(name: str, folder: Path) -> tuple[str, ...]:
    try:
        return read_class_list(folder)
    except ClassListFileError as error:  # a file of this name from another program
        logger.warning("%s: %s; nothing tells which classes it knows", name, error)
        return ()


def _read_json(folder: Path, file: str, *, optional: bool = False) -> dict[str, Any]:
    path = folder / file
    if not path.exists():
        if optional:
            return {}
        if (folder / "adapter_config.json").exists():
            raise CheckpointError(f"{folder} contains an adapter, not a model; merge it into its base and save that")
        raise CheckpointError(f"{folder} lacks {file}; pass the folder of a complete checkpoint")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object; download it again")
    return content


def _read_tokenizer(name: str, folder: Path) -> Tokenizer:
    if not (folder / "tokenizer.json").exists():
        raise CheckpointError(
            f"{folder} lacks tokenizer.json; copy it from the checkpoint that this one was fine-tuned from"
        )
    try:
        return Tokenizer.from_folder(folder)
    except ValueError as error:
        raise CheckpointError(f"{name}'s tokenizer.json: {error}") from error


def _read_preprocessor(name: str, folder: Path) -> ImagePreprocessor:
    """Reads preprocessor_config.json, or the processor_config.json of newer transformers versions."""
    config = _read_json(folder, "preprocessor_config.json", optional=True)
    config = config or _read_json(folder, "processor_config.json", optional=True).get("image_processor") or {}
    if not config:
        raise CheckpointError(
            f"{folder} lacks preprocessor_config.json (or processor_config.json); copy it from the checkpoint that "
            "this one was fine-tuned from"
        )
    try:
        return ImagePreprocessor.from_config(config)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}'s image preprocessing is not supported: {error}") from error
