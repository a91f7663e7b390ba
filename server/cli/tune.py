"""`florist tune`, and the same as a plain script: `python -m server.cli.tune DATASET --out DIR`.

On several GPUs: `accelerate launch -m server.cli.tune DATASET --out DIR`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from labels.extras import describe_install
from server.cli.console import fail

NO_GAIN_STATUS = 3
"""The exit status of a run that gains nothing."""


def tune(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="A dataset in any format that florist reads; project:NAME, job:ID.")],
    out: Annotated[Path, typer.Option(help="Folder of the run. The same command continues a run that was stopped.")],
    config: Annotated[Path | None, typer.Option(help="YAML file with settings; options override them.")] = None,
    holdout: Annotated[str | None, typer.Option(help="Dataset that selects the best checkpoint.")] = None,
    holdout_share: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the images, without --holdout.")] = 0.2,
    replay_dataset: Annotated[str | None, typer.Option(help="Dataset of the base's own domain.")] = None,
    base: Annotated[str | None, typer.Option(help="seedling, a folder, or a hub ID.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, full, or decoder.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task to train, such as '<OD>'; can be repeated.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of updates.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of order, prompts and augmentation.")] = None,
    any_class: Annotated[bool, typer.Option("--any-class", help="Validations accept any class.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the result of a run that gains nothing too.")] = False,
    forgetting: Annotated[bool, typer.Option(help="Measure forgetting on the base's own domain.")] = True,
) -> None:  # fmt: skip
    """Fine-tunes a model on corrected labels, in minutes: a LoRA adapter, the best one on the holdout.

    Datasets of a server work too: `project:NAME` for the corrections of a project, `job:ID` for the labels of a job.
    A run that gains nothing on the holdout says what to try, keeps no result, and exits with status 3.
    """
    try:
        from server.cli import tune_runner
    except ModuleNotFoundError as error:
        fail(f"fine-tuning needs packages that are not installed, such as {error.name}: {describe_install('train')}")

    options = {
        "base": base, "method": method, "tasks": tuple(task) if task else None, "steps": steps,
        "learning_rate": learning_rate, "seed": seed, "replay_dataset": replay_dataset,
        "any_class": any_class or None,
    }  # fmt: skip
    try:
        with _collect_signals() as signals:
            runner = tune_runner.TuneRunner(config, options, out, context.obj)
            runner.load_data(dataset, holdout, holdout_share)
            result = runner.train(should_stop=lambda: bool(signals))
    except tune_runner.EXPECTED_ERRORS as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; run the same command to continue", 128 + signal.SIGINT)
    if signals:
        fail(f"stopped after step {result.steps}; run the same command to continue", 128 + signals[0])
    try:
        has_gained = runner.report(result, forgetting=forgetting, keep=keep)
    except tune_runner.EXPECTED_ERRORS as error:
        fail(f"{error}; the result in {result.folder} is complete, run the same command to evaluate it again")
    if not has_gained:
        raise typer.Exit(NO_GAIN_STATUS)


@contextmanager
def _collect_signals() -> Iterator[list[int]]:
    """Yields a list of the received signals, SIGINT (Ctrl-C) and SIGTERM.

    After the first one the run should save its state and end; the second one raises KeyboardInterrupt.
    """
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    typer.run(tune)
