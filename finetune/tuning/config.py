"""The settings of a fine-tune run. They are read from YAML and saved in `run.json`."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prompts.tasks import find_task
from prompts.validation import describe_error
from server.engine.checkpoints.sources import SEEDLING


class ConfigError(ValueError):
    """A setting is invalid. The message names it and says which values are allowed."""


NO_REPLAY_MESSAGE = (
    "the anchor kl compares answers on replayed images, and there is nothing to replay for this base: set "
    "replay_dataset to a dataset of the base's own domain, or use the anchor l2sp"
)


class Method(StrEnum):
    """Which parameters are trained."""

    LORA = "lora"  # low-rank matrices beside the frozen base
    FULL = "full"
    DECODER = "decoder"  # only the text decoder


class Anchor(StrEnum):
    """A regularizer that keeps the model near its base, against forgetting."""

    NONE = "none"
    L2SP = "l2sp"  # on weights: Li et al. 2018, arXiv:1802.01483
    KL = "kl"  # on answers for replayed images: Li & Hoiem 2016 (learning without forgetting), arXiv:1606.09282


# The limits are far beyond useful values. They keep a typing error from starting a run that fails hours later.
MAX_STEPS = 1_000_000
MAX_PATH = 4096  # characters
Count = Annotated[int, Field(ge=1, le=1024)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
UnitFloat = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, le=0.9)]
Weight = Annotated[float, Field(ge=0, le=1000)]


class TuneConfig(BaseModel):
    """The settings of one run.

    A step uses `batch_size` × `accumulation_steps` images with up to `prompts_per_image` prompts each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    base: str = Field(SEEDLING, min_length=1, max_length=MAX_PATH, description="seedling, a folder, or a hub ID.")
    tasks: tuple[str, ...] = Field(
        (), max_length=100, description="Task tokens to train; none: all that the labels allow."
    )
    method: Method = Method.LORA
    lora_rank: Count = 16
    lora_alpha: int = Field(32, ge=1, le=65536, description="LoRA's scale is lora_alpha / lora_rank.")
    lora_dropout: Dropout = 0.0
    start_adapter: str = Field(
        "", max_length=MAX_PATH, description="Folder of an adapter of this base to continue; none: a new adapter.",
    )  # fmt: skip
    frozen_stages: int = Field(
        0, ge=0, le=4, description="DaViT stages, from the input, that are not trained. Their features are cached, so "
        "that later epochs are faster. With 4 the whole vision encoder is frozen: then classes that are new to the "
        "base are hardly learned.",
    )  # fmt: skip
    steps: Steps = 400
    batch_size: Count = Field(8, description="Images in a batch.")
    prompts_per_image: Count = 4
    accumulation_steps: Count = Field(1, description="Batches whose gradients are averaged in a step.")
    learning_rate: float = Field(1e-3, ge=1e-12, le=1, description="The peak learning rate.")
    layer_decay: float = Field(
        1.0, ge=0.01, le=1, description="Learning rate of each layer relative to the one above.",
    )  # fmt: skip
    warmup_share: UnitFloat = Field(0.06, description="Share of the steps with a rising learning rate.")
    weight_decay: float = Field(0.02, ge=0, le=10)
    dropout: Dropout = 0.0
    drop_path: Dropout = 0.0
    max_grad_norm: float = Field(1.0, ge=1e-6, le=1e6, description="Gradients are clipped to this norm.")
    ema_decay: float = Field(
        0.99, ge=0, le=0.99999, description="Decay of the moving average that is saved; 0: no average.",
    )  # fmt: skip
    location_sigma: float = Field(
        2.5, ge=0, le=100, description="Bins by which location targets are smoothed; 0: one bin.",
    )  # fmt: skip
    label_smoothing: float = Field(0.0, ge=0, le=0.9, description="Label smoothing of words.")
    focal_gamma: float = Field(0.0, ge=0, le=10, description="Gamma of the focal loss of words; 0: cross entropy.")
    class_balance: UnitFloat = Field(
        0.0, description="Weight of the words of rare classes: 0: equal weights; 1: inverse class frequency.",
    )  # fmt: skip
    text_weight: Weight = Field(1.0, description="Weight of the loss of words.")
    location_weight: Weight = Field(0.7, description="Weight of the loss of locations.")
    object_order: Literal["left-to-right", "given", "random", "size"] = "left-to-right"
    augmentation: UnitFloat = Field(0.5, description="Strength of augmentation; 0: none.")
    flip: bool = Field(True, description="Whether images may be mirrored.")
    hue: float = Field(
        0.0, ge=0, le=0.5, description="Largest hue shift of augmented images whose labels contain no color, as a "
        "share of the color circle; 0.5: any hue.",
    )  # fmt: skip
    views_per_image: Count = Field(8, description="Augmented versions of an image if features are cached.")
    replay_share: float = Field(
        0.25, ge=0, le=0.95, description="Share of images that come from the base's own domain.",
    )  # fmt: skip
    replay_dataset: str = Field(
        "", max_length=MAX_PATH, description="Dataset of the base's own domain; none: drawn scenes for the seedling, "
        "nothing for others.",
    )  # fmt: skip
    anchor: Anchor = Anchor.NONE
    anchor_weight: Weight = Field(0.01, description="Weight of the anchor's loss.")
    evaluate_every: Steps = Field(50, description="Steps between two validations on the holdout.")
    metric: Literal["loss", "corrections"] = "corrections"
    any_class: bool = Field(
        False, description="Whether answers may name any class in validations; otherwise only the classes of the data.",
    )  # fmt: skip
    patience: int = Field(
        0, ge=0, le=MAX_STEPS, description="Validations without improvement that end the run; 0: unlimited.",
    )  # fmt: skip
    seed: int = Field(0, ge=0, le=2**32 - 1)

    @field_validator("tasks")
    @classmethod
    def _check_tasks(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for token in tasks:
            find_task(token)  # raises PromptError, which is a ValueError
        return tasks

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.anchor is Anchor.KL and not self.replay_share:
            raise ValueError("the anchor kl compares answers on replayed images: set replay_share above 0")
        if not (self.text_weight or self.location_weight):
            raise ValueError("text_weight and location_weight are both 0, and nothing is trained: set one above 0")
        if self.start_adapter and self.method is not Method.LORA:
            raise ValueError(f"start_adapter needs the method lora, not {self.method}")
        return self

    @property
    def can_replay(self) -> bool:
        """Whether there is something to replay: a dataset, or drawn scenes for the seedling."""
        return bool(self.replay_share and (self.replay_dataset or self.base == SEEDLING))

    @property
    def cached_stages(self) -> int:
        """The number of DaViT stages, from the input, whose features never change and are cached."""
        return 4 if self.method is Method.DECODER else self.frozen_stages

    def compute_learning_rate(self, step: int) -> float:
        """Returns the learning rate of step 0 … steps - 1.

        A linear warm-up, then a cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983).
        """
        warmup = max(1.0, self.warmup_share * self.steps)
        if step + 1 < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step + 1 - warmup) / max(1.0, self.steps - warmup + 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def load_config(path: Path | None = None, **overrides: Any) -> TuneConfig:
    """Reads the settings from a YAML file; overrides that are not None win. Raises ConfigError."""
    settings: Any = {}
    if path is not None:
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not YAML: {error}") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{path} must contain settings by name, such as `steps: 400`")
    try:
        return TuneConfig.model_validate({**settings, **{k: v for k, v in overrides.items() if v is not None}})
    except ValidationError as error:
        raise ConfigError("\n".join(map(_describe_problem, error.errors()))) from error


def _describe_problem(error: Any) -> str:
    where = ".".join(str(part)[:60] for part in error["loc"]) or "the settings"
    if error["type"] in ("extra_forbidden", "invalid_key"):
        return f"{where}: there is no such setting; the settings are {', '.join(TuneConfig.model_fields)}"
    return f"{where}: {describe_error(error)}"
