"""What `florist tune` shows: lines without a terminal, and what is known of the classes before it starts."""

import io
import threading
from typing import Any

import pytest
from rich.console import Console

from finetune.tuning.class_facts import ClassFacts
from finetune.tuning.config import TuneConfig
from finetune.tuning.progress import TuneProgress
from server.cli.tune_display import TuneDisplay, describe_classes, describe_progress

LOSSES = {"text_loss": 1.234, "location_loss": 2.0}


def make_progress(**fields: Any) -> TuneProgress:
    values = {
        "step": 40, "steps": 400, "validated": None, "losses": LOSSES, "before": 29.3, "validation": 24.1,
        "seconds_left": 725.0, "step_seconds": 0.84, "validation_seconds": 21.0, "validations_left": 8,
    }  # fmt: skip
    return TuneProgress(**{**values, **fields})


class SignalingFile(io.StringIO):
    """A file that tells when it has a number of lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines, self.is_full = lines, threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count("\n") >= self.lines:
            self.is_full.set()
        return written


def test_without_a_terminal_a_line_comes_at_each_interval() -> None:
    file = SignalingFile(5)
    with TuneDisplay(TuneConfig(), Console(file=file, width=40), interval=0.02) as display:
        display.show(make_progress(seconds_left=None))
        display.show(make_progress())
        display.show(make_progress(step=41, seconds_left=700.0))
        assert file.is_full.wait(30)
    lines = file.getvalue().splitlines()
    estimate = "this takes about 12 min: 360 steps of 0.84 s and 8 validations of 21 s"
    assert lines.count(estimate) == 1  # only the first estimate is announced
    assert lines[-1] == (
        "step 41 of 400, text loss 1.23, location loss 2.00, holdout: 24.1 corrections per 100 labels (29.3 before), "
        "about 12 min left"
    )


def test_a_terminal_shows_a_bar_with_the_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with TuneDisplay(TuneConfig(), console) as display:
        display.show(make_progress(validated=0.5))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "validating 50%" in shown
    assert "40/400" in shown
    assert "about 12 min left" in shown


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"step": 0, "validated": 0.25, "losses": {}, "validation": None, "seconds_left": None},
            "step 0 of 400, validating: 25%, time left: not known yet",
        ),
        (
            {"seconds_left": 30.0, "validation": None},
            "step 40 of 400, text loss 1.23, location loss 2.00, about 30 s left",
        ),
    ],
)
def test_a_line_says_what_is_known(fields: dict[str, Any], line: str) -> None:
    assert describe_progress(make_progress(**fields), "corrections") == line


def test_classes_are_known_or_new_and_rare_ones_are_named() -> None:
    classes = [ClassFacts("cat", 40, 60, known=True), ClassFacts("cactus", 5, 6, known=False)]
    known, rare, frozen = describe_classes(TuneConfig(frozen_stages=4), classes)
    assert known == "1 of 2 classes are known to seedling; new, with their training images: cactus (5)"
    assert rare.startswith("warning: few training images (fewer than 10) of cactus (5): ")
    assert frozen.startswith("warning: frozen_stages is 4, and cactus is new to the base: ")
    assert describe_classes(TuneConfig(frozen_stages=4), classes[:1]) == ["1 of 1 classes are known to seedling"]
    assert describe_classes(TuneConfig(), []) == []


def test_classes_that_cannot_be_told_are_counted() -> None:
    classes = [ClassFacts("cat", 40, 60, known=True), ClassFacts("owl", 12, 12)]
    (line,) = describe_classes(TuneConfig(base="a/base"), classes)
    assert line == "1 of 2 classes are known to a/base; 1 cannot be told, as the holdout does not show them"
