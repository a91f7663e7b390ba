"""What `florist tune` shows while it trains: a bar on a terminal, elsewhere a line every 30 seconds."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from finetune.tuning.advice import describe_frozen, list_names
from finetune.tuning.class_facts import FEW_IMAGES, ClassFacts, list_new, list_rare
from finetune.tuning.config import TuneConfig
from finetune.tuning.gain import format_metric
from finetune.tuning.progress import TuneProgress
from finetune.tuning.time_estimate import format_duration

INTERVAL = 30.0  # seconds between two lines where there is no terminal
METRICS = {"corrections": "corrections per 100 labels", "loss": "loss"}


class TuneDisplay:
    """Shows the progress of a run during a `with` block."""

    def __init__(self, config: TuneConfig, console: Console, interval: float = INTERVAL) -> None:
        self._config, self._console, self._interval = config, console, interval
        self._newest: TuneProgress | None = None
        self._is_estimated = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._print_lines, name="florist-progress", daemon=True)
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _TimeLeft(self._get_newest))
            self._progress = Progress(*columns, TextColumn("{task.fields[text]}"), console=console)
            self._bar = self._progress.add_task("loading", total=config.steps, text="")

    def show_classes(self, classes: Sequence[ClassFacts]) -> None:
        """Prints, before the first step, which classes are new to the base, and what is hard to learn."""
        for line in describe_classes(self._config, classes):
            self._print(line)

    def show(self, progress: TuneProgress) -> None:
        """Shows the progress."""
        self._newest = progress
        if progress.seconds_left is not None and not self._is_estimated:
            self._is_estimated = True
            self._print(describe_estimate(progress))
        if self._progress is not None:
            description = "training" if progress.validated is None else f"validating {progress.validated:.0%}"
            description = "done" if progress.is_complete else description
            text = ", ".join(describe_state(progress, self._config.metric))
            self._progress.update(self._bar, completed=progress.step, description=description, text=text)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.set()
        if self._progress is not None:
            self._progress.stop()
        else:
            self._thread.join()

    def _get_newest(self) -> TuneProgress | None:
        return self._newest

    def _print(self, line: str) -> None:
        self._console.print(escape(line), soft_wrap=True, highlight=False)

    def _print_lines(self) -> None:
        """Runs in the thread, so that lines come during a long step or validation too."""
        while not self._closing.wait(self._interval):
            if (progress := self._newest) is not None:
                self._print(describe_progress(progress, self._config.metric))
            else:
                self._print("loading the model")


class _TimeLeft(ProgressColumn):
    """The time that is left, which counts down between two steps."""

    def __init__(self, get_newest: Callable[[], TuneProgress | None]) -> None:
        super().__init__(Column(no_wrap=True))
        self._get_newest = get_newest

    def render(self, task: Task) -> Text:
        newest = self._get_newest()
        left = None if newest is None or newest.is_complete else newest.count_down()
        return Text("" if left is None else f"about {format_duration(left)} left", no_wrap=True)


def describe_progress(progress: TuneProgress, metric: str) -> str:
    """Returns a line about a run, such as "step 40 of 400, text loss 1.2, …, about 12 min left"."""
    parts = [f"step {progress.step} of {progress.steps}"]
    if progress.validated is not None:
        parts.append(f"validating: {progress.validated:.0%}")
    left = progress.count_down()
    parts += describe_state(progress, metric)
    parts.append("time left: not known yet" if left is None else f"about {format_duration(left)} left")
    return ", ".join(parts)


def describe_state(progress: TuneProgress, metric: str) -> list[str]:
    """Returns the newest losses and the newest validation."""
    parts = []
    if "text_loss" in progress.losses:
        losses = progress.losses
        parts.append(f"text loss {losses['text_loss']:.2f}, location loss {losses['location_loss']:.2f}")
    if progress.validation is not None:
        before = f" ({format_metric(progress.before)} before)" if progress.before is not None and progress.step else ""
        parts.append(f"holdout: {format_metric(progress.validation)} {METRICS[metric]}{before}")
    return parts


def describe_estimate(progress: TuneProgress) -> str:
    """Returns how long the run takes."""
    assert progress.seconds_left is not None
    parts = [f"{progress.steps - progress.step} steps of {format_seconds(progress.step_seconds)}"]
    if progress.validations_left and progress.validation is not None:
        validation = format_seconds(progress.validation_seconds)
        parts.append(f"{progress.validations_left} validations of {validation}")
    return f"this takes about {format_duration(progress.seconds_left)}: {' and '.join(parts)}"


def describe_classes(config: TuneConfig, classes: Sequence[ClassFacts]) -> list[str]:
    """Returns which classes are known and new to the base, and warnings."""
    lines = []
    new, known = list_new(classes), [each for each in classes if each.known]
    name = config.start_adapter or config.base
    if new or known:
        counts = f"{len(known)} of {len(classes)} classes are known to {name}"
        lines.append(f"{counts}; new, with their training images: {list_names(new, counted=True)}" if new else counts)
        unsure = len(classes) - len(new) - len(known)
        if unsure:
            lines[-1] += f"; {unsure} cannot be told, as the holdout does not show them"
    if rare := list_rare(classes):
        lines.append(
            f"warning: few training images (fewer than {FEW_IMAGES}) of {list_names(rare, counted=True)}: "
            "expect mistakes with them, or add images"
        )
    if frozen := describe_frozen(config, classes):
        lines.append(f"warning: {frozen}")
    return lines


def format_seconds(seconds: float) -> str:
    """Returns seconds with two digits, such as 0.84 s or 21 s."""
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
