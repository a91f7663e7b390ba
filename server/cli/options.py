"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from prompts.tasks import InputKind, PromptError, Task, find_task
from server.cli.console import fail

ModelOption = Annotated[
    str | None, typer.Option(envvar="FLORIST_MODEL", help="The checkpoint: seedling, a folder, or a hub ID.")
]
DeviceOption = Annotated[str | None, typer.Option(envvar="FLORIST_DEVICE", help="auto, cpu, cuda, cuda:1, …")]
AdapterOption = Annotated[Path | None, typer.Option(help="The folder of a LoRA adapter, as PEFT saves it.")]
TextOption = Annotated[str | None, typer.Option(help="The text input, for tasks that take text.")]


def find_task_or_exit(token: str, text: str | None, region: str | None = None) -> Task:
    """Returns a task. Exits if it does not exist or the text does not fit, before a model is loaded."""
    try:
        task = find_task(token)
        if task.input_kind is not InputKind.REGION and region is None:
            task.build_prompt(text)
    except PromptError as error:
        fail(str(error).replace("GET /v1/tasks (or `florist tasks`) lists", "`florist tasks` lists"))
    return task
