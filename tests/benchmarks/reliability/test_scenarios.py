"""A command that is killed and repeated is compared with an undisturbed one."""

import random
from pathlib import Path

from benchmarks.reliability.kills import split_kills
from benchmarks.reliability.scenarios import CommandScenario, Outcome


def test_kills_are_divided_among_all_kinds_of_work() -> None:
    counts = split_kills(100)
    assert sum(counts.values()) == 100
    assert min(counts.values()) >= 10


class WritingScenario(CommandScenario):
    """A command that is never killed, and whose second run writes something else."""

    def _finish(self, out: Path) -> None:
        out.mkdir(exist_ok=True)
        number = len(list(self.folder.iterdir()))
        (out / "labels.txt").write_text("same")
        if number > 1:
            (out / ".florist").write_text("a marker differs")
            (out / "more.txt").write_text(str(number))
            (out / "labels.txt").unlink()


def test_files_that_are_missing_or_left_over_are_wrong(tmp_path: Path) -> None:
    scenario = WritingScenario("write", tmp_path, lambda out: ["models"], every=1)
    outcome = scenario.run(1, random.Random(0))
    assert outcome.kills == 1
    assert outcome.details == [
        "wrong: write-0: labels.txt is missing",
        "wrong: write-0: more.txt is left over",
    ]
    assert (outcome.lost, outcome.twice, outcome.wrong) == (0, 0, 2)


def test_a_fault_is_counted_with_its_details() -> None:
    outcome = Outcome()
    outcome.add("lost", "correction 7")
    assert (outcome.lost, outcome.details) == (1, ["lost: correction 7"])
