"""`florist evaluate`: the options of the command. `evaluate_runner` runs the evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli import evaluate_runner
from server.cli.console import fail
from server.cli.datasets import DatasetOpener
from server.cli.engine import get_adapter_name, load_engine
from server.cli.options import AdapterOption, AnyClassOption, DeviceOption

if TYPE_CHECKING:
    from server.engine.engine import Engine


def evaluate(
    model: Annotated[str, typer.Argument(help="The checkpoint: seedling, a folder, or a hub ID.")],
    dataset: Annotated[
        str, typer.Argument(help="Labeled images: a file or folder, such as a COCO dataset, project:NAME, or job:ID.")
    ],
    task: Annotated[list[str], typer.Option(help="Evaluate this task only. Can be repeated.")] = [],  # noqa: B006
    suite: Annotated[
        str | None, typer.Option(help="The dataset is a public test set: coco, refcoco, flickr30k or textvqa.")
    ] = None,
    adapter: AdapterOption = None,
    any_class: AnyClassOption = False,
    out: Annotated[Path | None, typer.Option(help="The folder for the metrics and an HTML report.")] = None,
    device: DeviceOption = None,
) -> None:
    """Evaluates a model on a labeled dataset: metrics, and the corrections that its answers would need."""
    if suite is not None and task:
        fail("a suite has its own tasks: remove --task")

    def load() -> "Engine":
        return load_engine(model, device, adapter)

    name = get_adapter_name(adapter)
    try:
        if suite is not None:
            evaluate_runner.evaluate_suite(suite, dataset, load, name, out, any_class=any_class)
        else:
            opener = DatasetOpener()
            evaluate_runner.evaluate_dataset(dataset, task, load, name, out, opener, any_class=any_class)
    except evaluate_runner.EvaluateError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)
