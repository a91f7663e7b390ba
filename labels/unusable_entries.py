"""Reports the unusable entries of datasets: the first ones on the terminal, all of them in a file."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from labels.dataset import UnusableEntry

FILE_NAME = "unusable.txt"
_SHOWN = 10


def print_unusable(entries: Sequence[UnusableEntry], console: Console, hint: str) -> None:
    """Prints the first entries. `hint` says how to see the rest."""
    for entry in entries[:_SHOWN]:
        console.print(f"left out: {escape(str(entry))}", soft_wrap=True, highlight=False)
    if (more := len(entries) - _SHOWN) > 0:
        console.print(f"… and {more} more: {escape(hint)}", soft_wrap=True, highlight=False)


def write_unusable(folder: Path, entries: Sequence[UnusableEntry]) -> None:
    """Writes all entries to unusable.txt in the folder, one a line; removes the file if there are none.

    Raises OSError.
    """
    path = folder / FILE_NAME
    if entries:
        lines = (" ".join(str(entry).split()) for entry in entries)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
    else:
        path.unlink(missing_ok=True)
