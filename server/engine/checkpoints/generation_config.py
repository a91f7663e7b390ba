"""How a checkpoint wants its answers searched for: the part of its generation config that florist follows."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

logger = logging.getLogger(__name__)

# Settings that say nothing about which tokens come out, and values that switch a setting off.
_SILENT = {
    *("bos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache", "max_length"),
    *("cache_implementation", "return_dict_in_generate", "output_scores", "output_attentions", "output_hidden_states"),
    *("temperature", "top_k", "top_p", "num_return_sequences"),  # these matter to sampling only
}
_OFF: tuple[Any, ...] = (None, 0, False, 1, 1.0, [], {}, "")


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Names, defaults and meaning are those of `transformers.GenerationConfig`."""

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
    def read(cls, *sources: Mapping[str, Any]) -> Self:
        """Takes each setting from the first source that has it. Raises ValueError for what florist cannot follow."""
        known = [f.name for f in fields(cls)]
        found: dict[str, Any] = {}
        for source in reversed(sources):
            found |= {name: source[name] for name in known if source.get(name) is not None}
        for name in ("eos_token_id", "forced_eos_token_id"):
            match found.get(name):
                case [one]:
                    found[name] = one
                case [_, *_]:
                    raise ValueError(f"{name} lists several tokens; only one can end an answer here")
        config = cls(**found)
        if config.num_beams < 1 or config.early_stopping not in (True, False, "never"):
            raise ValueError(f"num_beams {config.num_beams} or early_stopping {config.early_stopping!r} means nothing")
        return config

    def within(self, limit: int) -> Self:
        """The same with a `max_new_tokens` that is set and at most `limit`, the decoder's number of positions."""
        return replace(self, max_new_tokens=min(self.max_new_tokens or 1024, limit))


# What florence-community publishes with Florence-2; for a folder that says nothing itself.
PUBLISHED_SETTINGS: dict[str, Any] = {
    "num_beams": 3,
    "no_repeat_ngram_size": 3,
    "early_stopping": True,
    "length_penalty": 1.0,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
}


def warn_about_ignored_settings(settings: Mapping[str, Any], origin: str) -> None:
    """Logs the settings of a generation_config.json that would change the answer elsewhere and do not here."""
    known = {f.name for f in fields(GenerationConfig)} | _SILENT
    ignored = {k: v for k, v in settings.items() if k not in known and not any(v is off or v == off for off in _OFF)}
    if settings.get("do_sample"):
        ignored["do_sample"] = True
    if ignored:
        logger.warning("%s asks for %s, which florist does not do", origin, ignored)
