"""Output of the commands: results to stdout, messages to stderr."""

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

console, error_console = Console(), Console(stderr=True)


def fail(message: str, code: int = 2) -> NoReturn:
    """Prints an error message and exits."""
    error_console.print(f"[bold red]florist:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)
