"""`florist label`: a job on the command line, gone on with by the same command; its dataset and summary."""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.jobs.recipes.recipe import Recipe
    from server.jobs.sources import Source
    from server.jobs.store import Done, Failure, Job, Store

DATABASE = "FLORIST_DATABASE_URL"
_FILE, _DRAWN = "florist.db", "drawn"
_LISTED, _CLASSES = 20, 8  # failures named at the end; classes shown while it runs
console, errors = Console(), Console(stderr=True)


class LabelError(Exception):
    """What ends the command; the message says what to do."""


def one_step(task: str, text: str | None, adapter: str | None) -> "Recipe":
    """The recipe that asks one question of each picture. Raises LabelError."""
    from server.jobs.recipes.reading import RecipeError, parse

    step = {"id": "answers", "task": task, "text": text, "adapter": adapter}
    try:
        return parse({"name": task, "steps": [step]}, "--task")
    except RecipeError as error:
        raise LabelError("; ".join(problem.message for problem in error.problems)) from error


def by_recipe(
    pictures: str,
    recipe: "str | Recipe",
    out: Path,
    formats: Sequence[str],
    load: "Callable[[], Engine]",
    *,
    draw: bool = False,
) -> int:
    """Labels `pictures` into `out`: the job's database, a dataset in each of the formats, and with `draw` each picture
    with its labels. `recipe`: a file, the name of a ready one, or one. `load` gives the engine.

    The exit code: 0, all labelled; 1, some were set aside, as listed; 2, all were. Raises LabelError.
    """
    from server.jobs.formats import FORMATS
    from server.jobs.output import OutputError, claimed
    from server.jobs.recipes.reading import RecipeError
    from server.jobs.recipes.reading import load as read
    from server.jobs.runner import JobFailed
    from server.jobs.sources import SourceError, open_source
    from server.jobs.store import Store, StoreError

    for name in formats:
        if name not in FORMATS:
            raise LabelError(f"there is no format {name}: take one of {', '.join(FORMATS)}")
    shared = os.environ.get(DATABASE)
    url = shared or f"sqlite:///{out.resolve() / _FILE}"
    try:
        asked = read(recipe) if isinstance(recipe, str) else recipe
        with (
            open_source(pictures, besides=out) as source,
            claimed(out),
            Store(url) as store,
            load() as engine,
        ):
            for note in source.notes:
                errors.print(escape(note), soft_wrap=True)
            # In a database of its own the folder may be moved; in one for many it is told apart by its path.
            output = str(out.resolve()) if shared else "."
            job = _begun(store, asked, pictures, source, engine, output)
            # Who else works in a shared database cannot be known; in the folder's own nobody does: it is claimed.
            job = _shown(store, job, asked, engine, source, sole=not shared)
            code = _written(store, job, source, out, formats, draw=draw)
            _summarised(store, job, asked, engine, source, out)
            return code
    except (RecipeError, SourceError, OutputError, StoreError, JobFailed) as error:
        raise LabelError(str(error)) from error
    except OSError as error:
        raise LabelError(f"{error.filename or out}: {error.strerror or error}") from error


def _begun(store: "Store", asked: "Recipe", pictures: str, source: "Source", engine: "Engine", output: str) -> "Job":
    from server.jobs import intake
    from server.jobs.store import JobState

    job = intake.begin(store, engine, asked, source, pictures, output)
    if job.state in (JobState.PAUSED, JobState.FAILED):
        job = store.resume(job)
    if job.state is JobState.CANCELLED:
        raise LabelError(f"job {job.id} of this output was cancelled: take another output")
    return job


def _shown(store: "Store", job: "Job", asked: "Recipe", engine: "Engine", source: "Source", *, sole: bool) -> "Job":
    """Runs the job, and shows how far it is."""
    from server.jobs.recipes.annotation import annotate
    from server.jobs.runner import run
    from server.jobs.store import Done

    before = store.progress(job)
    display = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("[red]{task.fields[failed]}"),
        console=errors,
    )  # fmt: skip
    bar = display.add_task(
        escape(f"{asked.name} by {engine.checkpoint.name}"), total=before.total, completed=before.done + before.failed,
        rate="", failed="",
    )  # fmt: skip
    classes, failed, ended, began = Counter[str](), before.failed, 0, time.monotonic()
    below = Text("")

    def told(one: "Done | Failure") -> None:
        nonlocal failed, ended
        ended += 1
        if isinstance(one, Done):
            classes.update(label.annotation.label for label in one.answer.labels if label.annotation.kind != "text")
        else:
            failed += 1
        rate = f"{ended / (time.monotonic() - began):.1f}/s"
        display.update(bar, advance=1, rate=rate, failed=f"{failed} failed" if failed else "")
        below.plain = "   ".join(f"{label} {count}" for label, count in classes.most_common(_CLASSES))

    try:
        with Live(Group(display, below), console=errors):
            return run(store, job, engine, source, lambda size: annotate(asked, size), sole=sole, told=told)
    finally:
        if not errors.is_terminal:
            errors.print()  # the last frame has no end of line there


def _written(store: "Store", job: "Job", source: "Source", out: Path, formats: Sequence[str], *, draw: bool) -> int:
    """The dataset, once the job is done."""
    from server.jobs import drawn
    from server.jobs.formats import FORMATS
    from server.jobs.store import JobState

    if job.state is not JobState.DONE:
        raise LabelError(f"the job was {job.state}; the same command goes on with it")
    progress = store.progress(job)
    for name in [*formats, *([_DRAWN] if draw else ())]:
        labelled = store.labelled(job, lambda position: source[position].read())
        if name == _DRAWN:
            target = out / _DRAWN
            report = drawn.write(labelled, target)
        else:
            suffix = FORMATS[name].suffix
            target = out / (name if suffix is None else f"labels{suffix}")
            report = FORMATS[name].write(labelled, target, pictures_too=False)
        left_out = "".join(f"; {count} {what} left out" for what, count in report.left_out.items())
        console.print(
            f"{report.annotations} annotations on {report.pictures} pictures: {escape(str(target))}{left_out}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    if not progress.failed:
        return 0
    errors.print(f"[bold red]set aside {progress.failed}:[/]")
    for number, failure in enumerate(store.failures(job)):
        if number == _LISTED:
            errors.print(f"  … and {progress.failed - _LISTED} more")
            break
        errors.print(f"  {escape(failure.name)}: {escape(failure.reason)}", soft_wrap=True, highlight=False)
    return 1 if progress.done else 2


def _summarised(store: "Store", job: "Job", asked: "Recipe", engine: "Engine", source: "Source", out: Path) -> None:
    """The page to look at."""
    from server.jobs.summary import About, write

    about = About(
        title=out.resolve().name,
        recipe=asked,
        source=job.wanted.source,
        model=engine.checkpoint.name,
        progress=store.progress(job),
        failures=store.failures(job),
    )
    write(out / "summary.html", store.labelled(job, lambda position: source[position].read()), about)
    console.print(f"to look at: {escape(str(out / 'summary.html'))}", soft_wrap=True, highlight=False)
