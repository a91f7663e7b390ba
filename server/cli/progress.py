"""How far a job is, on the terminal: a bar with rate, time left and failures, and a line below."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class Display:
    """Shown while it is entered. Pictures that ended before count for the bar, not for the rate."""

    def __init__(self, title: str, total: int, ended: int, console: Console) -> None:
        self._console, self._before, self._began = console, ended, time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("[red]{task.fields[failed]}"),
            console=console,
        )  # fmt: skip
        self._bar = self._progress.add_task(escape(title), total=total, completed=ended, rate="", failed="")
        self._below = Text("")
        self._live = Live(Group(self._progress, self._below), console=console)

    def show(self, ended: int, failed: int, below: str) -> None:
        """So many have ended, so many of them as failures."""
        rate = f"{(ended - self._before) / (time.monotonic() - self._began):.1f}/s"
        self._progress.update(self._bar, completed=ended, rate=rate, failed=f"{failed} failed" if failed else "")
        self._below.plain = below

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()
        if not self._console.is_terminal:
            self._console.print()  # the last frame has no end of line there
