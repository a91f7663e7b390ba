"""Output of the commands: results to stdout, messages to stderr."""

import errno
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

console, error_console = Console(), Console(stderr=True)


def fail(message: str, code: int = 2) -> NoReturn:
    """Prints an error message and exits."""
    error_console.print(f"[bold red]florist:[/] {escape(to_printable(message))}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def describe_os_error(error: OSError, out: Path) -> str:
    """Returns what went wrong with a file. `out`: what was being written, for errors that name no file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{out}: no space is left on the disk, and the dataset that did not fit was not written: free some, or use "
            "--images link or --images none"
        )
    if error.strerror is None and str(out) in str(error):
        return str(error)
    return f"{error.filename or out}: {error.strerror or error}"


def print_line(text: str) -> None:
    """Prints a line of plain text, such as a path, without wrapping or markup."""
    console.print(escape(to_printable(text)), soft_wrap=True, highlight=False)


def to_printable(text: str) -> str:
    """Returns text that UTF-8 can represent: file names on Linux can contain half a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()
