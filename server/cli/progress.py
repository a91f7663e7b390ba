"""The progress of a job on the terminal: a bar with rate, time left and failures, and a line of text below it."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class ProgressDisplay:
    """Shows the progress during a `with` block. Images that ended earlier count for the bar, but not for the rate."""

    def __init__(self, title: str, total: int, ended: int, console: Console) -> None:
        self._console, self._ended_before, self._start = console, ended, time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("[red]{task.fields[failed]}"),
            console=console,
        )  # fmt: skip
        self._bar = self._progress.add_task(escape(title), total=total, completed=ended, rate="", failed="")
        self._text = Text("")
        self._live = Live(Group(self._progress, self._text), console=console)

    def show(self, ended: int, failed: int, text: str) -> None:
        """Shows the number of images that have ended, how many of them failed, and a line of text."""
        rate = f"{(ended - self._ended_before) / (time.monotonic() - self._start):.1f}/s"
        self._progress.update(self._bar, completed=ended, rate=rate, failed=f"{failed} failed" if failed else "")
        self._text.plain = text

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()
        if not self._console.is_terminal:
            self._console.print()  # the last frame has no line end there
