"""`florist tasks`: lists the tasks."""

from rich.table import Table

from prompts.tasks import TASKS
from server.cli.console import console


def tasks() -> None:
    """Lists the tasks: the input that each takes besides the image, and the annotations that it returns."""
    table = Table()
    table.add_column("task", no_wrap=True)
    for column in ("title", "input", "answer"):
        table.add_column(column)
    for task in TASKS.values():
        table.add_row(task.token, task.title, task.input_kind, task.answer_kind)
    console.print(table)
