"""The state of a run, from which it continues."""

from pathlib import Path

from finetune.tuning.run_state import RunState


def test_the_start_of_a_run_of_an_older_version_is_no_trained_step(tmp_path: Path) -> None:
    RunState(step=5, before=20.0, best=20.0, best_step=0).save(tmp_path, {})  # as older versions saved it
    saved = RunState.load(tmp_path)
    assert saved is not None
    assert (saved[0].step, saved[0].before, saved[0].best) == (5, 20.0, None)


def test_a_state_is_read_as_it_was_saved(tmp_path: Path) -> None:
    state = RunState(step=9, before=20.0, best=12.0, best_step=9, errors={0: [2.0], 9: [1.0]}, found={"cat": (1, 2)})
    state.save(tmp_path, {"optimizer": 1})
    assert RunState.load(tmp_path) == (state, {"optimizer": 1})
