"""Output of the commands: results to stdout, messages to stderr."""

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

console, error_console = Console(), Console(stderr=True)


def fail(message: str, code: int = 2) -> NoReturn:
    """Prints an error message and exits."""
    error_console.print(f"[bold red]florist:[/] {escape(to_printable(message))}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def print_line(text: str) -> None:
    """Prints a line of plain text, such as a path, without wrapping or markup."""
    console.print(escape(to_printable(text)), soft_wrap=True, highlight=False)


def to_printable(text: str) -> str:
    """Returns text that UTF-8 can represent: file names on Linux can contain half a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()
