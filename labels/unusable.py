"""What of datasets cannot be used, told: the first of it on the terminal, all of it in a file."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from labels.dataset import UnusableEntry

FILE = "unusable.txt"
_SHOWN = 10


def show(unusable: Sequence[UnusableEntry], console: Console, whole: str) -> None:
    """Prints the first of it. `whole`: how to see the rest."""
    for one in unusable[:_SHOWN]:
        console.print(f"left out: {escape(str(one))}", soft_wrap=True, highlight=False)
    if (more := len(unusable) - _SHOWN) > 0:
        console.print(f"… and {more} more: {escape(whole)}", soft_wrap=True, highlight=False)


def write(folder: Path, unusable: Sequence[UnusableEntry]) -> None:
    """All of it into the folder's unusable.txt, one a line; where there is none, there is no file. Raises OSError."""
    path = folder / FILE
    if unusable:
        lines = (" ".join(str(one).split()) for one in unusable)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
    else:
        path.unlink(missing_ok=True)
