"""Generation settings: their sources, limits and unsupported values."""

from typing import Any

import pytest

from server.engine.checkpoints.generation_config import (
    PUBLISHED_SETTINGS,
    GenerationConfig,
    warn_about_ignored_settings,
)


def test_the_first_source_has_priority() -> None:
    config = GenerationConfig.merge(
        {"num_beams": 4, "length_penalty": None}, {"num_beams": 2, "length_penalty": 0.5}, PUBLISHED_SETTINGS
    )
    assert (config.num_beams, config.length_penalty, config.no_repeat_ngram_size) == (4, 0.5, 3)


def test_the_defaults_are_those_of_transformers() -> None:
    config = GenerationConfig.merge()
    assert (config.num_beams, config.no_repeat_ngram_size, config.early_stopping) == (1, 0, False)
    assert config.forced_bos_token_id is None


def test_new_tokens_are_limited_to_the_positions() -> None:
    assert GenerationConfig().limit_new_tokens(4096).max_new_tokens == 1024
    assert GenerationConfig().limit_new_tokens(512).max_new_tokens == 512
    assert GenerationConfig(max_new_tokens=256).limit_new_tokens(512).max_new_tokens == 256


@pytest.mark.parametrize(
    "settings", [{"num_beams": 0}, {"early_stopping": "sometimes"}, {"eos_token_id": [2, 3]}], ids=str
)
def test_invalid_settings_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        GenerationConfig.merge(settings)


def test_a_list_of_one_end_token_is_accepted() -> None:
    assert GenerationConfig.merge({"eos_token_id": [2]}).eos_token_id == 2


def test_settings_without_effect_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    warn_about_ignored_settings(
        PUBLISHED_SETTINGS | {"repetition_penalty": 1.0, "do_sample": False, "temperature": 0.7}, "x"
    )
    assert not caplog.text
