"""The settings of a run: reading, validation, and the learning rate."""

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
        ("stepps: 3", "stepps: Extra inputs are not permitted; the settings are base, tasks, method"),
        ("steps: 0", "steps: Input should be greater than 0"),
        ("tasks: ['<OOD>']", "tasks: no such task: '<OOD>'. Did you mean <OD>?"),
        ("method: dora", "method: Input should be 'lora', 'full' or 'decoder'"),
        ("1: 2", "1: Keys should be strings"),
        ("- steps", "must contain settings by name"),
        ("a: [", "is not YAML"),
        ("{anchor: kl, replay_share: 0}", "set replay_share above 0"),
    ],
)
def test_an_invalid_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)


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
