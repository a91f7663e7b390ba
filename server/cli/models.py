"""`florist models`: lists checkpoints."""

from rich.markup import escape
from rich.table import Table

from server.cli.console import console


def models() -> None:
    """Lists the checkpoints that can be loaded, and whether they are on this machine."""
    from server.cli.local_models import list_models

    table = Table(title="Choose one with --model. Any folder with such a checkpoint can be loaded too.")
    table.add_column("model", no_wrap=True)
    table.add_column("kind")
    table.add_column("on this machine")
    for model in list_models():
        table.add_row(escape(model.name), model.kind, model.local)
    console.print(table)
