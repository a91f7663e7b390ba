"""Generation settings of a checkpoint: the part of generation_config.json that florist supports."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

logger = logging.getLogger(__name__)

# Settings without effect on the generated tokens, and values that disable a setting.
_WITHOUT_EFFECT = {
    *("bos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache", "max_length"),
    *("cache_implementation", "return_dict_in_generate", "output_scores", "output_attentions", "output_hidden_states"),
    *("temperature", "top_k", "top_p", "num_return_sequences"),  # used for sampling only
}
_DISABLED: tuple[Any, ...] = (None, 0, False, 1, 1.0, [], {}, "")
_DEFAULT_NEW_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Names, defaults and meanings are those of `transformers.GenerationConfig`."""

    num_beams: int = 1
    max_new_tokens: int | None = None
    no_repeat_ngram_size: int = 0
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    decoder_start_token_id: int = 2
    eos_token_id: int = 2

    @classmethod
    def merge(cls, *sources: Mapping[str, Any]) -> Self:
        """Takes each setting from the first source that has it. Raises ValueError for unsupported values."""
        names = [f.name for f in fields(cls)]
        values: dict[str, Any] = {}
        for source in reversed(sources):
            values |= {name: source[name] for name in names if source.get(name) is not None}
        for name in ("eos_token_id", "forced_eos_token_id"):
            match values.get(name):
                case [one]:
                    values[name] = one
                case [_, *_]:
                    raise ValueError(f"{name} lists several tokens; florist supports one")
        config = cls(**values)
        if config.num_beams < 1 or config.early_stopping not in (True, False, "never"):
            raise ValueError(f"num_beams {config.num_beams} or early_stopping {config.early_stopping!r} is invalid")
        return config

    def limit_new_tokens(self, limit: int) -> Self:
        """Returns a copy whose `max_new_tokens` is set and at most `limit`, the number of decoder positions."""
        return replace(self, max_new_tokens=min(self.max_new_tokens or _DEFAULT_NEW_TOKENS, limit))


# Published by florence-community with Florence-2. Used for checkpoints without a generation_config.json.
PUBLISHED_SETTINGS: dict[str, Any] = {
    "num_beams": 3,
    "no_repeat_ngram_size": 3,
    "early_stopping": True,
    "length_penalty": 1.0,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
}


def warn_about_ignored_settings(settings: Mapping[str, Any], origin: str) -> None:
    """Logs the settings that would change answers in transformers, but are not supported by florist."""
    known = {f.name for f in fields(GenerationConfig)} | _WITHOUT_EFFECT
    ignored = {
        k: v for k, v in settings.items() if k not in known and not any(v is off or v == off for off in _DISABLED)
    }
    if settings.get("do_sample"):
        ignored["do_sample"] = True
    if ignored:
        logger.warning("%s sets %s, which florist does not support", origin, ignored)
