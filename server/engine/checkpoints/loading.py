"""Checkpoints: a name or a path → a model, its tokenizer and how it wants to be asked.

Four kinds load: `seedling`, which comes with florist; transformers' native layout, from the hub or a folder;
Microsoft's remote-code layout, converted as it is read, its code never run; and what fine-tuning saved, native again.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    StrictDataclassError,
)
from torch import Tensor
from transformers import Florence2Config

from prompts.locations import BINS
from prompts.vocabulary import Vocabulary
from server.engine.calibration import Calibration, CalibrationError, StaleCalibrationError, read_calibration
from server.engine.checkpoints import conversion
from server.engine.checkpoints.conversion import (
    EMBEDDING_KEY,
    TIED_EMBEDDING_KEYS,
    is_microsoft_layout,
    to_native_config,
    to_native_state,
)
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.sources import SEEDLING, locate_checkpoint
from server.engine.checkpoints.generation_config import (
    PUBLISHED_SETTINGS,
    GenerationConfig,
    warn_about_ignored_settings,
)
from server.engine.checkpoints.tokenizer import Tokenizer
from server.engine.checkpoints.weights import hash_weights, read_weights
from server.engine.model.florence2 import Florence2
from server.engine.model.preprocessing import Preprocessing, count_image_tokens

_LISTED = 8  # names in an error; a layout gone wrong has hundreds
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model and all that belongs to it. `folder`: where its files are.

    `generation`: its own settings, `max_new_tokens` set. `image_tokens`: the encoder's places that a picture takes.
    `max_prompt_tokens`: what is left of them for `<s>`, prompt, `</s>`. `max_new_tokens`: the decoder's positions, and
    so the longest answer. `unused` [V]: true for ids that stand for no token. `sha256`: of the weight files.
    `calibration`: of its scores, where a `calibration.json` lies beside them.
    """

    name: str
    folder: Path
    model: Florence2
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    generation: GenerationConfig
    image_tokens: int
    max_prompt_tokens: int
    max_new_tokens: int
    unused: Tensor
    sha256: str
    calibration: Calibration | None = None

    @property
    def locations(self) -> range:
        """The ids of the location tokens, in order."""
        return range(self.tokenizer.locations, self.tokenizer.locations + BINS)


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """What a checkpoint's folder holds: the native config, the weights by native names as they were saved, and what
    belongs to them. `generation` is not yet bound by the model's positions."""

    name: str
    folder: Path
    shape: Florence2Config
    state: dict[str, Tensor]
    tokenizer: Tokenizer
    preprocessing: Preprocessing
    generation: GenerationConfig


def read_checkpoint(name: str = SEEDLING) -> CheckpointFiles:
    """Reads a checkpoint by name or path, its weights as they are. Raises CheckpointError, which says what to do."""
    folder = locate_checkpoint(name)
    config, settings = _json(folder, "config.json"), _json(folder, "generation_config.json", optional=True)
    if config.get("model_type") != "florence2":
        raise CheckpointError(f"{name} is a {config.get('model_type')} model; florist serves Florence-2 only")
    tokenizer = _tokenizer(name, folder)
    state = read_weights(folder)
    with _loadable(name):
        microsoft = conversion.is_microsoft_config(config)
        if microsoft:
            # Microsoft's `generate` runs the inner BART, which its text_config rules: that goes first.
            sources: list[dict[str, Any]] = [config["text_config"], settings, PUBLISHED_SETTINGS]
            rows = -(-max(len(tokenizer), config["text_config"]["vocab_size"]) // 64) * 64
            config = to_native_config(config, rows) | {"image_token_id": tokenizer.image}
        else:
            warn_about_ignored_settings(settings, f"{name}'s generation_config.json")
            sources = (
                [settings or PUBLISHED_SETTINGS, config["text_config"]]
                if settings
                else [PUBLISHED_SETTINGS, config["text_config"]]
            )
            # A model's config carries leftovers of generation settings too: only what every answer needs is taken.
            sources[1] = {k: sources[1].get(k) for k in ("decoder_start_token_id", "eos_token_id")}
        shape = Florence2Config.from_dict(config)
        if is_microsoft_layout(state):
            state = to_native_state(state, shape.text_config.vocab_size)
        preprocessing = _preprocessing(name, folder)
        generation = GenerationConfig.read(*sources)
    if shape.image_token_id != tokenizer.image or len(tokenizer) > shape.text_config.vocab_size:
        raise CheckpointError(
            f"{name}'s tokenizer does not belong to its model: it has {len(tokenizer)} tokens and <image> is "
            f"{tokenizer.image}, the model {shape.text_config.vocab_size} and {shape.image_token_id}; copy the right "
            "tokenizer.json"
        )
    with _loadable(name):
        _check(name, shape, state)
    return CheckpointFiles(name, folder, shape, state, tokenizer, preprocessing, generation)


def load_checkpoint(
    name: str = SEEDLING, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Loads a checkpoint by name (`seedling`, a hub id) or path onto a device, its weights turned into `dtype`.

    Raises CheckpointError, which says what to do.
    """
    files = read_checkpoint(name)
    shape, tokenizer = files.shape, files.tokenizer
    try:
        with _loadable(name):
            image_tokens = count_image_tokens(shape, files.preprocessing)
            model = _fill(name, shape, files.state, device, dtype)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(f"{name} does not fit into the memory of {device}: {error}") from error
    sha256 = hash_weights(files.folder)
    try:
        calibration = read_calibration(files.folder, sha256)
    except StaleCalibrationError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except CalibrationError as error:  # another program's, of that name
        logger.warning("%s: %s; its scores are served as they are", name, error)
        calibration = None
    vocabulary = tokenizer.vocabulary()
    known = set(tokenizer.ids.values())
    positions = shape.text_config.max_position_embeddings
    return Checkpoint(
        name=name,
        folder=files.folder,
        model=model,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        preprocessing=files.preprocessing,
        generation=files.generation.within(positions),
        image_tokens=image_tokens,
        max_prompt_tokens=positions - image_tokens,
        max_new_tokens=positions,
        unused=torch.tensor([i not in known for i in range(shape.text_config.vocab_size)], device=device),
        sha256=sha256,
        calibration=calibration,
    )


@contextmanager
def _loadable(name: str) -> Iterator[None]:
    """Whatever a broken config raises, as CheckpointError."""
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


def _check(name: str, shape: Florence2Config, state: dict[str, Tensor]) -> None:
    """Leaves one name for the embedding table. Raises CheckpointError when a weight is missing, left over or of another
    shape."""
    tables = [state.pop(key) for key in TIED_EMBEDDING_KEYS if key in state]
    if tables:
        if any(not torch.equal(tables[0], table) for table in tables[1:]):
            raise CheckpointError(
                f"{name}'s embedding and lm_head differ; Florence-2 ties them. Merge it again, lm_head left out"
            )
        state[EMBEDDING_KEY] = tables[0]
    wanted = Florence2(shape).shapes()
    faults = {
        "missing": sorted(wanted.keys() - state.keys()),
        "left over": sorted(state.keys() - wanted.keys()),
        "of another shape": [
            f"{k} {list(state[k].shape)} instead of {list(size)}"
            for k, size in wanted.items()
            if k in state and state[k].shape != size
        ],
    }
    if any(faults.values()):
        said = "; ".join(
            f"{len(keys)} {fault}: {', '.join(keys[:_LISTED])}{' …' if len(keys) > _LISTED else ''}"
            for fault, keys in faults.items()
            if keys
        )
        raise CheckpointError(f"{name}'s weights do not fit its config. {said}")


def _fill(
    name: str, shape: Florence2Config, state: dict[str, Tensor], device: str | torch.device, dtype: torch.dtype
) -> Florence2:
    """Our model of `shape` that holds exactly `state`."""
    ready = {k: v.to(device, dtype if v.is_floating_point() else None).contiguous() for k, v in state.items()}
    model = Florence2(shape)
    model.load(ready)
    if left := [k for k, v in (*model.named_parameters(), *model.named_buffers()) if v.is_meta]:
        raise CheckpointError(f"{name} left {', '.join(left[:_LISTED])} without values; this is a fault of florist's")
    return model


def _json(folder: Path, file: str, *, optional: bool = False) -> dict[str, Any]:
    path = folder / file
    if not path.exists():
        if optional:
            return {}
        if (folder / "adapter_config.json").exists():
            raise CheckpointError(f"{folder} holds an adapter, not a model; merge it into its base and save that")
        raise CheckpointError(f"{folder} lacks {file}; name the folder of a whole checkpoint")
    try:
        read_checkpoint = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(read_checkpoint, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch it again")
    return read_checkpoint


def _tokenizer(name: str, folder: Path) -> Tokenizer:
    if not (folder / "tokenizer.json").exists():
        raise CheckpointError(
            f"{folder} lacks tokenizer.json; copy it from the checkpoint that this one was tuned from"
        )
    try:
        return Tokenizer.load(folder)
    except ValueError as error:
        raise CheckpointError(f"{name}'s tokenizer.json: {error}") from error


def _preprocessing(name: str, folder: Path) -> Preprocessing:
    """From preprocessor_config.json, or processor_config.json, where newer versions of transformers keep it."""
    config = _json(folder, "preprocessor_config.json", optional=True)
    config = config or _json(folder, "processor_config.json", optional=True).get("image_processor") or {}
    if not config:
        raise CheckpointError(
            f"{folder} lacks preprocessor_config.json (or processor_config.json); copy it from the checkpoint that "
            "this one was tuned from"
        )
    try:
        return Preprocessing.read(config)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}'s picture preprocessing cannot be done: {error}") from error
