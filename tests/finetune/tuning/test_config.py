"""The settings: read, refused, and the learning rate that they make."""

from pathlib import Path

import pytest

from finetune.tuning.config import ConfigError, TuneConfig, load


def test_a_file_and_over_it_what_is_given(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("steps: 30\nrate: 0.0005\ntasks: ['<OD>']\n")
    config = load(path, steps=40, rate=None)
    assert (config.steps, config.rate, config.tasks) == (40, 0.0005, ("<OD>",))
    assert load() == TuneConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepps: 3", "stepps: Extra inputs are not permitted; there are base, tasks, method"),
        ("steps: 0", "steps: Input should be greater than 0"),
        ("tasks: ['<OOD>']", "tasks: no such task: '<OOD>'. Did you mean <OD>?"),
        ("method: dora", "method: Input should be 'lora', 'full' or 'decoder'"),
        ("1: 2", "1: Keys should be strings"),
        ("- steps", "must be settings by name"),
        ("a: [", "is not YAML"),
        ("{anchor: kl, replay: 0}", "give a replay share above 0"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert said in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.yaml")


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    config = TuneConfig(steps=100, rate=1.0, warmup=0.1)
    rates = [config.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[54] == pytest.approx(0.5, abs=0.02)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_one_step_is_a_run() -> None:
    assert TuneConfig(steps=1, rate=1.0).rate_at(0) == 1.0
