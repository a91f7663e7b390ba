"""The settings of a run: reading, validation, and the learning rate."""

import math
from pathlib import Path

import pytest

from finetune.tuning.config import ConfigError, TuneConfig, load_config


def test_options_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("steps: 30\nlearning_rate: 0.0005\ntasks: ['<OD>']\n")
    config = load_config(path, steps=40, learning_rate=None)
    assert (config.steps, config.learning_rate, config.tasks) == (40, 0.0005, ("<OD>",))
    assert load_config() == TuneConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepps: 3", "stepps: there is no such setting; the settings are base, tasks, method"),
        ("steps: 0", "steps: must be at least 1, not 0"),
        ("tasks: ['<OOD>']", "tasks: no such task: '<OOD>'. Did you mean <OD>?"),
        ("method: dora", "method: must be 'lora', 'full' or 'decoder', not 'dora'"),
        ("1: 2", "1: there is no such setting"),
        ("- steps", "must contain settings by name"),
        ("a: [", "is not YAML"),
        ("seed: 2026-13-45", "is not YAML"),
        (f"seed: {'9' * 5000}", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("{anchor: kl, replay_share: 0}", "set replay_share above 0"),
    ],
)
def test_an_invalid_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value", "limit"),
    [
        ("seed", -1, "must be at least 0, not -1"),
        ("seed", 10**400, "seed: "),
        ("seed", 1.5, "must be a whole number, not 1.5"),
        ("seed", "four", "must be a whole number, not 'four'"),
        ("seed", 2**32, "must be at most 4294967295"),
        ("steps", 10**12, "must be at most 1000000, not 1000000000000"),
        ("batch_size", 10**9, "must be at most 1024"),
        ("accumulation_steps", 10**9, "must be at most 1024"),
        ("prompts_per_image", 10**9, "must be at most 1024"),
        ("views_per_image", 10**9, "must be at most 1024"),
        ("evaluate_every", 10**12, "must be at most 1000000"),
        ("patience", 10**12, "must be at most 1000000"),
        ("lora_rank", 10**6, "must be at most 1024"),
        ("lora_alpha", 1e300, "has too many digits"),
        ("lora_alpha", 10**9, "must be at most 65536"),
        ("max_grad_norm", 1e-320, "must be at least 1e-06, not 1e-320"),
        ("max_grad_norm", math.inf, "must be a finite number"),
        ("learning_rate", math.nan, "must be a finite number"),
        ("learning_rate", 1e308, "must be at most 1, not 1e+308"),
        ("learning_rate", 1e-320, "must be at least 1e-12"),
        ("layer_decay", 1e-320, "must be at least 0.01"),
        ("weight_decay", 1e300, "must be at most 10"),
        ("ema_decay", 1, "must be at most 0.99999"),
        ("dropout", 1, "must be at most 0.9"),
        ("drop_path", 1, "must be at most 0.9"),
        ("lora_dropout", 1, "must be at most 0.9"),
        ("replay_share", 1.5, "must be at most 0.95"),
        ("location_sigma", 1e300, "must be at most 100"),
        ("focal_gamma", 1e300, "must be at most 10"),
        ("text_weight", 1e300, "must be at most 1000"),
        ("location_weight", 1e300, "must be at most 1000"),
        ("anchor_weight", 1e300, "must be at most 1000"),
        ("base", "", "must not be empty"),
        ("base", "a" * 5000, "has 5,000 characters; the limit is 4,096"),
        ("replay_dataset", "a" * 5000, "has 5,000 characters; the limit is 4,096"),
        ("tasks", ["<OD>"] * 200, "the limit is 100"),
        ("flip", "perhaps", "must be true or false"),
    ],
)
def test_a_setting_beyond_its_limit_is_refused(setting: str, value: object, limit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(**{setting: value})
    assert str(caught.value).startswith(f"{setting}: ")
    assert limit in str(caught.value)
    assert "Input" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_every_number_has_limits() -> None:
    for name, field in TuneConfig.model_json_schema()["properties"].items():
        if field.get("type") in ("integer", "number"):
            assert {"minimum", "maximum"} <= field.keys(), name
        if field.get("type") == "string" and "enum" not in field:
            assert "maxLength" in field, name


def test_all_invalid_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"steps: must be .*\nbatch_size: must be .*"):
        load_config(steps=0, batch_size=0)


def test_something_must_be_trained() -> None:
    with pytest.raises(ConfigError, match="both 0"):
        load_config(text_weight=0, location_weight=0)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")


def test_the_learning_rate_warms_up_and_decays_as_a_cosine() -> None:
    config = TuneConfig(steps=100, learning_rate=1.0, warmup_share=0.1)
    rates = [config.compute_learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[54] == pytest.approx(0.5, abs=0.02)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_a_run_of_one_step_has_the_peak_learning_rate() -> None:
    assert TuneConfig(steps=1, learning_rate=1.0).compute_learning_rate(0) == 1.0
