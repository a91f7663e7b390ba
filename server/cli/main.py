"""`florist`: registers the commands. Each is in its own file, and imports torch only when it runs a model."""

from importlib.metadata import version
from typing import Annotated

import typer

from server.cli import recipe
from server.cli.convert import convert
from server.cli.datasets import DatasetOpener
from server.cli.evaluate import evaluate
from server.cli.inspect import inspect
from server.cli.key import key
from server.cli.label import label
from server.cli.models import models
from server.cli.prompt import prompt
from server.cli.serve import serve
from server.cli.tasks import tasks
from server.cli.tune import tune

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"florist {version('florist')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """The labeling server for Florence-2: an image and a prompt in; boxes, polygons, words and captions out."""


app.command()(serve)
app.command()(prompt)
app.command()(label)
app.add_typer(recipe.app, name="recipe")
app.command(context_settings={"obj": DatasetOpener()})(tune)
app.command()(evaluate)
app.command()(inspect)
app.command()(convert)
app.command()(models)
app.command()(tasks)
app.command()(key)


if __name__ == "__main__":
    app()
