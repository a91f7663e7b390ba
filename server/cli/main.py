"""`florist`: serve, ask, label, and look up. What needs torch is imported by the command that runs a model."""

import json
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prompts.tasks import TASKS, InputKind, PromptError, Task, find_task
from server import settings as settings_
from server.cli import evaluate as evaluate_
from server.cli import label as label_
from server.cli import recipe as recipe_
from server.cli.datasets import DatasetOpener
from server.cli.options import with_settings
from server.cli.tune import tune

if TYPE_CHECKING:
    from server.engine.config import EngineConfig
    from server.engine.engine import Engine
    from server.jobs.cluster import Loading, WorkerPool

app = typer.Typer(
    help="The labeling server for Florence-2: a picture and a prompt in; boxes, polygons, words and captions out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(recipe_.app, name="recipe")
console, errors = Console(), Console(stderr=True)

Model = Annotated[str | None, typer.Option(envvar="FLORIST_MODEL", help="seedling, a folder, or a hub id.")]
Device = Annotated[str | None, typer.Option(envvar="FLORIST_DEVICE", help="auto, cpu, cuda, cuda:1 …")]
Adapter = Annotated[Path | None, typer.Option(help="A folder of PEFT's: the LoRA adapter that answers.")]
Text = Annotated[str | None, typer.Option(help="What to look for, for the tasks that take text.")]


class Where(StrEnum):
    """Where a job's engines run."""

    LOCAL = "local"
    RAY = "ray"


def _fail(message: str, code: int = 2) -> NoReturn:
    errors.print(f"[bold red]florist:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


@app.command()
@with_settings
def serve(**given: Any) -> None:
    """Serves a model over HTTP. Each option can be set as the environment variable beside it."""
    try:
        chosen = settings_.load(**given)
    except settings_.SettingsError as error:
        _fail(str(error))
    from server.process import CannotListen, serve

    try:
        code = serve(chosen)
    except CannotListen as error:
        _fail(str(error))
    raise typer.Exit(code)


@app.command()
def prompt(
    picture: Annotated[Path, typer.Argument(help="The picture's file.")],
    task: Annotated[str, typer.Argument(help="A task token such as '<OD>'; `florist tasks` lists them.")],
    text: Text = None,
    region: Annotated[str | None, typer.Option(help="x1,y1,x2,y2 in pixels, for the tasks that take a region.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Save the picture here with its labels drawn.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    adapter: Adapter = None,
    model: Model = None,
    device: Device = None,
) -> None:
    """Asks one question about one picture."""
    asked, corners = _task(task, text, region), _region(region)
    from labels.images import ImageError, decode_image
    from server.engine.errors import InvalidRequestError
    from server.engine.request import Request

    try:
        data = picture.read_bytes()
        image = decode_image(data, max_bytes=len(data), max_pixels=_settings().max_pixels)
        asked.build_prompt(text, corners, image.size)
    except OSError as error:
        _fail(f"{picture}: {error.strerror or error}")
    except ImageError as error:
        _fail(f"{picture}: {error}")
    except PromptError as error:
        _fail(str(error))
    with _engine(model, device, adapter) as engine:
        try:
            result = engine.submit(Request(image, asked, text, corners, adapter=_name(adapter))).wait()
        except InvalidRequestError as error:
            _fail(str(error))
        except Exception as error:
            _fail(f"the model failed on this prompt: {error}", 1)
    if as_json:
        notes = [note.model_dump() for note in result.annotations]
        who = {"model": engine.checkpoint.name, "adapter": _name(adapter)}
        answer = {**who, "task": task, "width": image.width, "height": image.height}
        print(json.dumps({**answer, "annotations": notes, "text": result.text}, ensure_ascii=False, indent=2))
    elif not result.annotations:
        errors.print("nothing was found")
    else:
        _print(result.annotations)
    if draw is not None:
        from labels import drawing

        try:
            drawing.draw(image, result.annotations).save(draw)
        except (OSError, ValueError) as error:
            _fail(f"{draw}: {getattr(error, 'strerror', None) or error}")


@app.command()
def label(
    pictures: Annotated[str, typer.Argument(help="A folder, pattern, archive, list, COCO file or URL.")],
    out: Annotated[Path, typer.Option(help="Folder for what comes of it.")],
    task: Annotated[str | None, typer.Option(help="One question: a task token such as '<OD>'.")] = None,
    text: Text = None,
    recipe: Annotated[str | None, typer.Option(help="Several: a YAML file, or a ready recipe.")] = None,
    format: Annotated[list[str], typer.Option(help="Of the dataset; may be given several times.")] = ["coco"],  # noqa: B006
    draw: Annotated[bool, typer.Option("--draw", help="Each picture with its labels drawn, too.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try the pictures once more that were set aside.")] = False,
    adapter: Adapter = None,
    model: Model = None,
    device: Device = None,
    engine: Annotated[Where, typer.Option(help="ray: on the machines of a Ray cluster.")] = Where.LOCAL,
    workers: Annotated[
        str | None, typer.Option(help="Engines on Ray: 8, or 2:16 for from 2 to 16; else as many as there is room for.")
    ] = None,
    worker_cpus: Annotated[int, typer.Option(min=1, help="Cores of each engine on Ray.")] = 1,
) -> None:
    """Labels pictures by a task or a recipe. Killed at any moment, the same command goes on with it.

    Exit code 0: all labelled; 1: some were set aside, as listed; 2: nothing could be done.
    """
    if (task is None) is (recipe is None):
        _fail("say what to ask: either --task or --recipe (`florist tasks` and `florist recipe list` list them)")
    if recipe is not None and text is not None:
        _fail("--text goes with --task; in a recipe, steps have their own texts")
    if engine is Where.LOCAL and (workers is not None or worker_cpus != 1):
        _fail("--workers and --worker-cpus go with --engine ray")
    if task is not None and _task(task, text).input_kind is InputKind.REGION:
        _fail(f"{task} asks about a region of one picture: use `florist prompt`, or a recipe with `each`")
    try:
        asked = label_.one_step(task, text, _name(adapter)) if task is not None else recipe or ""
        cluster = None
        if engine is Where.RAY:
            cluster = _loading(model, device, adapter), _pool(workers, worker_cpus)
            device = "cpu"  # this process asks nothing
        load = lambda: _engine(model, device, adapter)  # noqa: E731
        code = label_.by_recipe(
            pictures, asked, out, format, load, adapter=_name(adapter), draw=draw, retry=retry, cluster=cluster
        )
    except label_.LabelError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on with it", 130)
    raise typer.Exit(code)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="seedling, a folder, or a hub id.")],
    dataset: Annotated[
        str, typer.Argument(help="Labelled pictures: a file or folder, such as a COCO one, project:NAME, or job:ID.")
    ],
    task: Annotated[list[str], typer.Option(help="Ask this only; may be given several times.")] = [],  # noqa: B006
    suite: Annotated[
        str | None, typer.Option(help="The folder is a public test set: coco, refcoco, flickr30k or textvqa.")
    ] = None,
    adapter: Adapter = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures, and a page to look at.")] = None,
    device: Device = None,
) -> None:
    """Asks a model what a dataset's labels know, and tells how good the answers are, and what is left to correct."""
    if suite is not None and task:
        _fail("a suite has its own tasks: leave --task out")
    load = lambda: _engine(model, device, adapter)  # noqa: E731
    try:
        if suite is not None:
            evaluate_.suite(suite, dataset, load, _name(adapter), out)
        else:
            evaluate_.evaluate(dataset, task, load, _name(adapter), out, DatasetOpener())
    except evaluate_.EvaluateError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", 130)


app.command(context_settings={"obj": DatasetOpener()})(tune)


@app.command()
def models() -> None:
    """Lists the kinds of checkpoints that load, and those that are on this machine."""
    from server.cli import local_models

    table = Table(title="Name one with --model; any folder of these kinds loads too.")
    table.add_column("model", no_wrap=True)
    table.add_column("kind")
    table.add_column("here")
    for row in local_models.models():
        table.add_row(escape(row.name), row.kind, row.here)
    console.print(table)


@app.command()
def tasks() -> None:
    """Lists the tasks: what each takes, and what it gives."""
    table = Table()
    table.add_column("task", no_wrap=True)
    for column in ("what", "takes", "gives"):
        table.add_column(column)
    for row in TASKS.values():
        table.add_row(row.token, row.title, row.input_kind, row.answer_kind)
    console.print(table)


@app.command()
def key() -> None:
    """Makes an API key. The server is given its hash; the key itself is shown once, here."""
    from server.api.auth import new_key

    made, hashed = new_key()
    print(f"key   {made}\nhash  {hashed}")
    errors.print("Start the server with FLORIST_API_KEYS=<hash>; send the key as `Authorization: Bearer <key>`.")


def _task(token: str, text: str | None, region: str | None = None) -> Task:
    """The task, and whether it gets what it takes: told before a model is loaded."""
    try:
        task = find_task(token)
        if task.input_kind is not InputKind.REGION and region is None:
            task.build_prompt(text)
    except PromptError as error:
        _fail(str(error).replace("GET /v1/tasks (or `florist tasks`) lists", "`florist tasks` lists"))
    return task


def _region(region: str | None) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in region.split(",")) if region is not None else None
    except ValueError:
        _fail(f"--region is x1,y1,x2,y2 in pixels, such as 10,20,200,180; got {region!r}")


def _settings(**given: Any) -> settings_.Settings:
    try:
        return settings_.load(**given)
    except settings_.SettingsError as error:
        _fail(str(error))


def _name(adapter: Path | None) -> str | None:
    """What an adapter of a folder is called."""
    return adapter.resolve().name if adapter else None


def _engine(model: str | None, device: str | None, adapter: Path | None = None) -> "Engine":
    """The model, with the adapter of a folder loaded."""
    chosen = _settings(model=model, device=device)
    with errors.status(f"loading {chosen.model} …"):
        from server.engine.adapters.errors import AdapterError
        from server.engine.checkpoints.errors import CheckpointError
        from server.engine.engine import Engine

        try:
            engine = Engine.load(chosen.engine_config)
        except CheckpointError as error:
            _fail(str(error))
        if adapter:
            try:
                engine.load_adapter(_name(adapter) or "", adapter)
            except AdapterError as error:
                engine.close(drain=False)
                _fail(f"the adapter {adapter} cannot be used: {error}")
        return engine


def _loading(model: str | None, device: str | None, adapter: Path | None) -> "Loading":
    """The same for each engine of a cluster, by names that hold everywhere."""
    from server.jobs.cluster import Loading

    chosen = _settings(model=model, device=device)
    local = Path(chosen.model)
    config = chosen.engine_config
    return Loading(
        config=replace(config, model=str(local.absolute())) if local.is_dir() else config,
        adapters=((_name(adapter) or "", adapter.absolute()),) if adapter else (),
    )


def _pool(workers: str | None, cpus: int) -> "WorkerPool":
    from server.jobs.cluster import WorkerPool

    if workers is None:
        return WorkerPool(1, None, cpus)
    least, _, most = workers.partition(":")
    with suppress(ValueError):
        if 1 <= int(least) <= int(most or least):
            return WorkerPool(int(least), int(most or least), cpus)
    _fail(f"--workers is a number, or the least and the most, such as 2:16; got {workers!r}")


def _print(annotations: Any) -> None:
    if all(note.kind == "text" for note in annotations):
        for note in annotations:
            print(note.label)
        return
    table = Table("kind", "label", "score", "where, in pixels")
    for note in annotations:
        where = {"box": "box", "quad": "quad", "polygon": "polygons"}.get(note.kind)
        places = getattr(note, where) if where else ()
        shown = " | ".join(_numbers(ring) for ring in (places if note.kind == "polygon" else [places]))
        table.add_row(note.kind, escape(note.label), "" if note.score is None else f"{note.score:.2f}", shown)
    console.print(table)


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    app()
