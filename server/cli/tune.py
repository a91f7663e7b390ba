"""`florist tune`, and the same as a plain script: `python -m server.cli.tune DATASET --out DIR`.

On several GPUs: `accelerate launch -m server.cli.tune DATASET --out DIR`.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finetune.forgetting import Probe
    from finetune.tuning.config import TuneConfig
    from finetune.tuning.replay import World
    from labels.labeled_image import LabeledImage
    from server.engine.config import EngineConfig
    from server.engine.engine import Engine

console, errors = Console(), Console(stderr=True)


def tune(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="COCO, YOLO, VOC, CVAT, Label Studio, JSONL, or Hugging Face's.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on with one that was stopped.")],
    config: Annotated[Path | None, typer.Option(help="YAML with settings; those given here go before it.")] = None,
    held: Annotated[str | None, typer.Option(help="Dataset by which the best is chosen.")] = None,
    held_share: Annotated[float, typer.Option(min=0, max=0.9, help="Without it, the share set apart.")] = 0.2,
    replay: Annotated[str | None, typer.Option(help="Dataset of the base's own world, against forgetting.")] = None,
    base: Annotated[str | None, typer.Option(help="seedling, a folder, or a hub id.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, full, or decoder.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task to teach, such as '<OD>'; may be repeated.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many updates.")] = None,
    rate: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, questions and changes of pictures.")] = None,
    price: Annotated[bool, typer.Option(help="Measure what it costs on the base's other tasks.")] = True,
) -> None:  # fmt: skip
    """Fine-tunes a model on corrected labels: a light adapter, the best by held-out pictures, in minutes.

    What a server keeps is read too: `project:NAME`, its corrections, and `job:ID`, a job's labels as they stand.
    """
    # What opens a dataset by its name is the caller's: of what a server keeps, nothing here knows.
    try:
        from accelerate import PartialState

        from finetune.datasets import samples
        from finetune.tuning import config as configs
        from finetune.tuning import replay as replays
        from finetune.tuning.loop import TuneError
        from finetune.tuning.loop import tune as run
        from finetune.tuning.run_record import Source
        from labels import unusable
        from labels.opening import DatasetError, open_dataset
        from labels.split import content_of, split
        from labels.verification import keep_readable
        from server.engine.adapters.errors import AdapterError
        from server.engine.checkpoints.errors import CheckpointError
    except ModuleNotFoundError as error:
        _fail(f"fine-tuning needs the package {error.name}: pip install 'florist[train]'")

    given: dict[str, Any] = {
        "base": base, "method": method, "tasks": tuple(task) if task else None, "steps": steps, "rate": rate,
        "seed": seed, "replay_from": replay,
    }  # fmt: skip
    try:
        settings = configs.load(config, **given)
        opened = context.obj or open_dataset
        taught = keep_readable(opened(dataset))
        rest = f"{out / unusable.FILE} lists all once it runs"
        left_out = list(taught.unusable)
        unusable.show(taught.unusable, errors, rest)
        if held is not None:
            others = keep_readable(opened(held))
            left_out += others.unusable
            unusable.show(others.unusable, errors, rest)
            train, kept = taught.training_images, others.evaluation_images
            seen = set(map(content_of, train))
            if twice := sum(content_of(example) in seen for example in kept):
                errors.print(f"{twice} of the held-out pictures are taught too: by them the best cannot be told")
        elif taught.holdout:
            train, kept = taught.training_images, taught.evaluation_images
        else:
            train, kept = split(taught.images, held_share, seed=settings.seed)
        if kept and not train:
            _fail(f"all {len(kept)} pictures are held out, and none is left to be taught: add pictures")
        world = replays.world(settings, opened)
        if world is not None:
            left_out += world.unusable
            unusable.show(world.unusable, errors, rest)
        if settings.replay and world is None:
            errors.print("nothing is replayed: name a dataset of the base's own world by --replay", soft_wrap=True)
        console.print(f"{len(train)} pictures taught, {len(kept)} held out; labels: {', '.join(taught.classes[:12])}")
        seeking = set(samples.SEEKING) & set(settings.tasks or samples.SEEKING)
        first = os.environ.get("RANK", "0") == "0"  # of several processes, which have not met yet
        if first and seeking and taught.classes and not samples.knows_absence(train, taught.classes):
            only = repr(taught.classes[0]) if len(taught.classes) == 1 else "any of the labels"
            why = f"what is looked for is always there: no picture that is taught is known to lack {only}; pictures"
            errors.print(f"{escape(why)} without it would teach when to find nothing", soft_wrap=True, highlight=False)
        with _shown(settings.steps, settings.metric) as told, _asked() as asked:
            outcome = run(
                settings, train, out, held=kept, labels=taught.classes, replay=world.replay if world else None,
                told=told, stop=lambda: bool(asked), source=Source(dataset, held, left_out),
            )  # fmt: skip
    except (configs.ConfigError, DatasetError, CheckpointError, AdapterError, TuneError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on", 128 + signal.SIGINT)
    if asked:
        _fail(f"stopped after step {outcome.steps}, and kept; the same command goes on", 128 + asked[0])
    if PartialState().is_main_process:
        figure = "corrections per 100 labels" if settings.metric == "corrections" else "held-out loss"
        if outcome.best is not None and outcome.before is not None:
            before = f"of {settings.start}" if settings.start else "before"  # what it started from
            console.print(f"{figure}: {outcome.before:.3g} {before}, {outcome.best:.3g} at step {outcome.best_step}")
        try:
            with errors.status("what it costs elsewhere, and how far its scores can be trusted …"):
                _examined(settings, outcome.folder, out, kept, taught.classes, world, priced=price)
        except (AdapterError, CheckpointError, OSError) as error:
            _fail(f"{error}; what was taught is whole, in {outcome.folder}, and the same command examines it again")
    console.print(f"{outcome.folder} ({outcome.seconds:.0f} s); curves: {out / 'curves.png'}", soft_wrap=True)


def _examined(
    settings: "TuneConfig",
    made: Path,
    out: Path,
    kept: "Sequence[LabeledImage]",
    labels: "Sequence[str]",
    world: "World | None",
    *,
    priced: bool,
) -> None:
    """What the adapter or checkpoint in `made` costs on the base's own tasks (`forgetting.json`): of the seedling by
    drawn scenes, of others by what `world` keeps back; its scores calibrated on the held-out pictures."""
    from finetune import forgetting
    from finetune.calibration import calibrate, calibrate_checkpoint
    from finetune.evaluation.report import questions
    from server.engine.checkpoints.sources import SEEDLING
    from server.engine.config import EngineConfig
    from server.engine.engine import Engine

    asked = questions(kept, settings.tasks or None, labels=labels)
    with ExitStack() as opened:
        engine = tuned = opened.enter_context(Engine.load(EngineConfig(settings.base)))
        name = engine.load_adapter("tuned", made).name if settings.method == "lora" else None
        if name is None:
            tuned = opened.enter_context(Engine.load(EngineConfig(str(made))))
        if priced and settings.base == SEEDLING:
            _forgotten(out, forgetting.drawn(), engine, tuned, name)
        elif priced and world is not None and world.probe:
            _forgotten(out, forgetting.pictured(world.probe, world.labels, settings.replay_from), engine, tuned, name)
        if kept:
            found = calibrate(engine, name, made, asked) if name else calibrate_checkpoint(made, asked)
            for task, one in found.items():
                console.print(f"scores of {task} calibrated: error {one.ece[0]:.3f} before, {one.ece[1]:.3f} after")


def _forgotten(out: Path, told_by: "Probe", base: "Engine", tuned: "Engine", adapter: str | None) -> None:
    before, after = told_by.ask(base, None), told_by.ask(tuned, adapter)
    lost, what = told_by.lost(before, after), told_by.about["what"]
    written = {**told_by.about, "before": before, "after": after, "lost": lost}
    (out / "forgetting.json").write_text(json.dumps(written, indent=1))
    worst = sorted(((v, k) for k, v in lost.items() if k != "mean"), reverse=True)[:3]
    told = ", ".join(f"{task} {points:+.1f}" for points, task in worst)
    console.print(f"{what}: {lost['mean']:.1f} in the mean; most: {told}", soft_wrap=True)


@contextmanager
def _asked() -> Iterator[list[int]]:
    """The signals that ask to stop, Ctrl-C or SIGTERM, as they come: the run then ends once its step is kept, or at the
    second at once."""
    numbers: list[int] = []

    def ask(number: int, _: object) -> None:
        numbers.append(number)
        if len(numbers) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown(steps: int, metric: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """The progress on the terminal: gives what hears of it."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[held]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=errors) as progress:
        bar = progress.add_task("steps", total=steps, loss="", held="")

        def told(line: dict[str, Any]) -> None:
            progress.update(bar, completed=line["step"])
            if "text" in line:
                progress.update(bar, loss=f"words {line['text']:.2f}, places {line['location']:.2f}")
            if "held" in line:
                progress.update(bar, held=f"{metric} {line['held']:.3g}")

        yield told


def _fail(message: str, code: int = 2) -> NoReturn:
    errors.print(f"[bold red]florist:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(tune)
