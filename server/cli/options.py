"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from labels.writing.image_options import ImagePlacement
from prompts.tasks import InputKind, PromptError, Task, find_task
from server.cli.console import fail

ModelOption = Annotated[
    str | None, typer.Option(envvar="FLORIST_MODEL", help="The checkpoint: seedling, a folder, or a hub ID.")
]
DeviceOption = Annotated[str | None, typer.Option(envvar="FLORIST_DEVICE", help="auto, cpu, cuda, cuda:1, …")]
AdapterOption = Annotated[Path | None, typer.Option(help="The folder of a LoRA adapter, as PEFT saves it.")]
AnyClassOption = Annotated[
    bool, typer.Option("--any-class", help="Do not hold answers to a class list, such as that of the adapter.")
]
ImagesOption = Annotated[
    ImagePlacement | None,
    typer.Option(
        "--images",
        help="How the images are in the dataset. Default: copy for formats whose tools need them in it, else none.",
    ),
]
ImageUrlOption = Annotated[
    str | None,
    typer.Option(
        "--image-url",
        metavar="PREFIX",
        help="For formats that hold addresses (label-studio, coco): an image's is PREFIX and its percent-encoded name.",
    ),
]
TextOption = Annotated[str | None, typer.Option(help="The text input, for tasks that take text.")]


def describe_images(placement: ImagePlacement, image_url: str | None) -> str:
    """Returns how the images are in a dataset, as the end of a line that names it."""
    if image_url is not None and placement is ImagePlacement.NONE:
        return f", with the addresses of the images: {image_url}NAME"
    including = {
        ImagePlacement.COPY: ", with copies of the images",
        ImagePlacement.LINK: ", with links to the images",
        ImagePlacement.NONE: ", without the images (--images copy or link puts them in)",
    }[placement]
    return including if image_url is None else f"{including}, and their addresses: {image_url}NAME"


def find_task_or_exit(token: str, text: str | None, region: str | None = None) -> Task:
    """Returns a task. Exits if it does not exist or the text does not fit, before a model is loaded."""
    try:
        task = find_task(token)
        if task.input_kind is not InputKind.REGION and region is None:
            task.build_prompt(text)
    except PromptError as error:
        fail(str(error).replace("GET /v1/tasks (or `florist tasks`) lists", "`florist tasks` lists"))
    return task
