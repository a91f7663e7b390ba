"""`florist label`: the options of the command. `label_runner` runs the job."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prompts.tasks import InputKind
from server.cli import label_runner
from server.cli.console import fail
from server.cli.engine import get_adapter_name, load_engine, load_settings_or_exit
from server.cli.label_datasets import LabelDatasets
from server.cli.options import (
    AdapterOption,
    AnyClassOption,
    DeviceOption,
    ImagesOption,
    ImageUrlOption,
    ModelOption,
    TextOption,
    find_task_or_exit,
)

if TYPE_CHECKING:
    from server.jobs.cluster import WorkerPool
    from server.jobs.cluster_worker import EngineSetup


class EngineLocation(StrEnum):
    """Where the engines of a job run."""

    LOCAL = "local"
    RAY = "ray"


def label(
    images: Annotated[str, typer.Argument(help="A folder, pattern, archive, list, COCO file or URL.")],
    out: Annotated[Path, typer.Option(help="The output folder.")],
    task: Annotated[str | None, typer.Option(help="The token of one task, such as '<OD>'.")] = None,
    text: TextOption = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe: a YAML file, or the name of a built-in recipe.")] = None,
    review_below: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With --task: labels with a lower score are to review; 0: none. Default: as in the built-in recipes.",
        ),
    ] = None,
    format: Annotated[list[str], typer.Option(help="The format of the dataset. Can be repeated.")] = ["coco"],  # noqa: B006
    images_in: ImagesOption = None,
    image_url: ImageUrlOption = None,
    draw: Annotated[bool, typer.Option("--draw", help="Also save each image with its annotations drawn.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Label images again that failed in an earlier call.")] = False,
    relabel: Annotated[
        bool,
        typer.Option(
            "--relabel", help="Label again with a changed recipe, model or adapter. The labels so far stay stored."
        ),
    ] = False,
    adapter: AdapterOption = None,
    any_class: AnyClassOption = False,
    model: ModelOption = None,
    device: DeviceOption = None,
    engine: Annotated[EngineLocation, typer.Option(help="ray: on the machines of a Ray cluster.")] = (
        EngineLocation.LOCAL
    ),
    workers: Annotated[
        str | None,
        typer.Option(help="Engines on Ray: 8, or 2:16 for 2 to 16. Default: as many as the cluster has room for."),
    ] = None,
    worker_cpus: Annotated[int, typer.Option(min=1, help="CPU cores of each engine on Ray.")] = 1,
) -> None:
    """Labels images with a task or a recipe.

    Run the same command again to continue after an interruption, or to label images that are new in the source or have
    changed.

    Exit code 0: all images are labeled; 1: some failed, as listed; 2: none could be labeled.
    """
    if (task is None) is (recipe is None):
        fail("give either --task or --recipe (`florist tasks` and `florist recipe list` list them)")
    if recipe is not None and text is not None:
        fail("--text belongs to --task; in a recipe, each step has its own text")
    if recipe is not None and review_below is not None:
        fail("--review-below belongs to --task; a recipe has its own `review_below`")
    if engine is EngineLocation.LOCAL and (workers is not None or worker_cpus != 1):
        fail("--workers and --worker-cpus belong to --engine ray")
    if task is not None and find_task_or_exit(task, text).input_kind is InputKind.REGION:
        fail(f"{task} takes a region of one image: use `florist prompt`, or a recipe with `for_each`")
    adapter_name = get_adapter_name(adapter)
    datasets = LabelDatasets(out, format, images_in, image_url, draw)
    try:
        datasets.check_options()
    except ValueError as error:
        fail(str(error))
    try:
        chosen = (
            label_runner.make_one_step_recipe(task, text, adapter_name, review_below)
            if task is not None
            else recipe or ""
        )
        cluster = None
        if engine is EngineLocation.RAY:
            cluster = _create_engine_setup(model, device, adapter), _create_pool(workers, worker_cpus)
            device = "cpu"  # this process sends no prompts
        code = label_runner.label_images(
            images, chosen, datasets, lambda: load_engine(model, device, adapter), adapter=adapter_name,
            any_class=any_class, retry=retry, relabel=relabel,
            cluster=cluster,
        )  # fmt: skip
    except label_runner.LabelCommandError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to continue", 130)
    raise typer.Exit(code)


def _create_engine_setup(model: str | None, device: str | None, adapter: Path | None) -> "EngineSetup":
    """Returns how the actors on Ray load their engines: with absolute paths, as they run in other folders."""
    from server.engine.checkpoints.sources import make_absolute
    from server.jobs.cluster_worker import EngineSetup

    config = load_settings_or_exit(model=model, device=device).engine_config
    config = replace(config, model=make_absolute(config.model))
    adapters = ((get_adapter_name(adapter) or "", adapter.absolute()),) if adapter else ()
    return EngineSetup(config=config, adapters=adapters)


def _create_pool(workers: str | None, cpus: int) -> "WorkerPool":
    from server.jobs.cluster import WorkerPool

    if workers is None:
        return WorkerPool(1, None, cpus)
    low, _, high = workers.partition(":")
    try:
        minimum, maximum = int(low), int(high or low)
    except ValueError:
        minimum = maximum = 0
    if not 1 <= minimum <= maximum:
        fail(f"--workers is a number, or a minimum and maximum such as 2:16; got {workers!r}")
    return WorkerPool(minimum, maximum, cpus)
