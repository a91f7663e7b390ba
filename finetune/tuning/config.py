"""Everything that decides what a fine-tune run does, beside its data: read from YAML, kept in `run.json`."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prompts.tasks import resolve


class ConfigError(ValueError):
    """A setting that cannot be; the message names it and says what it may be."""


NOTHING_TO_REPLAY = (
    "the anchor kl compares answers on replayed pictures, and nothing is at hand to replay for this base: name a "
    "dataset of the base's own world (replay_from), or take the anchor l2sp"
)


class Method(StrEnum):
    """What of the model learns."""

    LORA = "lora"  # low-rank pairs beside the matrices; the base stays as it is
    FULL = "full"
    DECODER = "decoder"  # the text decoder alone


class Anchor(StrEnum):
    """What holds the model near its base, so that it forgets less."""

    NONE = "none"
    L2SP = "l2sp"  # the weights: Li et al. 2018, arXiv:1802.01483
    KL = "kl"  # the answers on replayed pictures: Li & Hoiem 2016 (learning without forgetting), arXiv:1606.09282


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class TuneConfig(BaseModel):
    """The settings of one run. A step sees `pictures` × `accumulation` pictures with up to `prompts` questions each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field("seedling", description="seedling, a folder, or a hub id.")
    tasks: tuple[str, ...] = Field((), description="Task tokens to teach; none: all that the labels can.")
    method: Method = Method.LORA
    rank: Positive = 16
    alpha: Positive = Field(32, description="LoRA's scale is alpha / rank.")
    lora_dropout: Share = 0.0
    start: str = Field("", description="Folder of an adapter of this base to go on from; none: from the base.")
    frozen_stages: int = Field(
        0, ge=0, le=4, description="DaViT stages, from the bottom, that do not learn; what they say of a picture is "
        "kept, so that later epochs cost less. With 4 nothing of the vision learns.",
    )  # fmt: skip
    steps: Positive = 400
    pictures: Positive = 8
    prompts: Positive = 4
    accumulation: Positive = 1
    rate: float = Field(1e-3, gt=0, description="The highest learning rate.")
    layer_decay: float = Field(1.0, gt=0, le=1, description="The rate of each layer by that of the layer above it.")
    warmup: Share = 0.06
    weight_decay: float = Field(0.02, ge=0)
    dropout: Share = 0.0
    drop_path: Share = 0.0
    clip: float = Field(1.0, gt=0, description="The gradient's largest norm.")
    ema: float = Field(0.99, ge=0, lt=1, description="Decay of the average of the weights that is kept; 0: none.")
    sigma: float = Field(2.5, ge=0, description="Bins over which a location's target is spread; 0: one bin.")
    smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of words.")
    gamma: float = Field(0.0, ge=0, description="Of the focal loss for words; 0: plain cross entropy.")
    balance: Share = Field(
        0.0, description="How much more the words of rare labels count: 0, not at all; 1, by one over their number.",
    )  # fmt: skip
    text: float = Field(1.0, ge=0, description="Weight of the words' loss.")
    location: float = Field(0.7, ge=0, description="Weight of the locations' loss.")
    order: Literal["left-to-right", "given", "random", "size"] = "left-to-right"
    augment: Share = Field(0.5, description="How strongly pictures are changed, labels with them; 0: not at all.")
    flip: bool = Field(True, description="Whether a mirrored picture shows the same things.")
    hue: float = Field(
        0.0, ge=0, le=0.5, description="How far hues are turned at most, as a share of their circle, in changed "
        "pictures whose labels name no colour; 0.5: a thing may have any colour.",
    )  # fmt: skip
    views: int = Field(8, ge=1, description="Changed versions of a picture, where features of frozen stages are kept.")
    replay: Share = Field(0.25, description="The share of pictures that come from the base's own data.")
    replay_from: str = Field(
        "", description="Dataset of the base's own world; none: the seedling's drawn scenes, for another base nothing.",
    )  # fmt: skip
    anchor: Anchor = Anchor.NONE
    strength: float = Field(0.01, ge=0, description="Weight of the anchor.")
    evaluate: Positive = Field(50, description="Steps between two looks at the held-out pictures.")
    metric: Literal["loss", "corrections"] = "corrections"
    patience: int = Field(0, ge=0, description="Looks without a better one after which a run ends; 0: never.")
    seed: int = 0

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for token in tasks:
            resolve(token)  # raises TaskError, which is a ValueError
        return tasks

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.anchor is Anchor.KL and not self.replay:
            raise ValueError("the anchor kl compares answers on replayed pictures: give a replay share above 0")
        if self.start and self.method is not Method.LORA:
            raise ValueError(f"start is an adapter to go on from, and the method {self.method} makes none")
        return self

    @property
    def replays(self) -> bool:
        """Whether something is at hand to replay: a dataset, or the seedling's drawn scenes."""
        return bool(self.replay and (self.replay_from or self.base == "seedling"))

    @property
    def kept_stages(self) -> int:
        """How many DaViT stages, from the bottom, never say anything else about a picture: what they say is kept."""
        return 4 if self.method is Method.DECODER else self.frozen_stages

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, 0 … steps - 1: a linear warm-up, then a cosine to 0 (Loshchilov & Hutter 2017,
        arXiv:1608.03983)."""
        warmup = max(1.0, self.warmup * self.steps)
        if step + 1 < warmup:
            return self.rate * (step + 1) / warmup
        done = (step + 1 - warmup) / max(1.0, self.steps - warmup + 1)
        return self.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def load(path: Path | None = None, **given: Any) -> TuneConfig:
    """The settings of a YAML file, and over them those given. Raises ConfigError."""
    settings: Any = {}
    if path is not None:
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML: {error}") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{path} must be settings by name, such as `steps: 400`")
    try:
        return TuneConfig.model_validate({**settings, **{k: v for k, v in given.items() if v is not None}})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the settings"
        known = ", ".join(TuneConfig.model_fields)
        hint = f"; there are {known}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}{hint}") from error
