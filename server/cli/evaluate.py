"""`florist evaluate`: a model on a dataset, in figures, and on a page to look at."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from prompts.tasks import PromptError, find_task

if TYPE_CHECKING:
    from finetune.evaluation.report import Report
    from finetune.evaluation.suites import Row
    from labels.dataset import Dataset, UnusableEntry
    from labels.labeled_image import LabeledImage
    from labels.sample import Sample
    from server.engine.engine import Engine

console, errors = Console(), Console(stderr=True)


class EvaluateError(Exception):
    """What ends the command; the message says what to do."""


def evaluate(
    dataset: str, tasks: Sequence[str], load: "Callable[[], Engine]", adapter: str | None, out: Path | None,
    opens: "Callable[[str], Dataset]",
) -> None:  # fmt: skip
    """Asks the model what the dataset teaches, `tasks` of it or all, prints the figures and writes them into `out`. Of
    one that holds pictures out, by those. `adapter`: the name of one that `load` loads. Raises EvaluateError."""
    try:
        from finetune.evaluation.report import questions
        from labels.dataset import DatasetError
    except ImportError as error:
        raise EvaluateError(f"evaluating needs the extra `train`: pip install 'florist[train]' ({error})") from error
    try:
        for token in tasks:
            find_task(token)
        opened = opens(dataset)
    except (DatasetError, PromptError) as error:
        raise EvaluateError(str(error)) from error
    _listed(opened.unusable, out)
    if opened.holdout:
        errors.print(f"by the {len(opened.evaluation_images)} of {len(opened.images)} pictures that are held out")
    asked = questions(opened.evaluation_images, tasks or None, labels=opened.classes)
    if not any(own for _, own in asked):
        what = f"about {', '.join(tasks)} " if tasks else ""
        raise EvaluateError(f"{dataset} has no labels that teach {what or 'a task'}: nothing can be asked")
    _done(_examined(asked, load, adapter), dataset, out, opened.unusable)


def suite(name: str, folder: str, load: "Callable[[], Engine]", adapter: str | None, out: Path | None) -> None:
    """The same of a public test set, beside what is published. Raises EvaluateError."""
    try:
        from finetune.evaluation.suites import open_suite
        from labels.dataset import DatasetError
    except ImportError as error:
        raise EvaluateError(f"evaluating needs the extra `train`: pip install 'florist[train]' ({error})") from error
    try:
        opened = open_suite(name, folder)
    except DatasetError as error:
        raise EvaluateError(str(error)) from error
    _listed(opened.trouble, out)
    report = _examined(opened.questions, load, adapter)
    _done(report, name, out, opened.trouble, opened.rows(report))


def _examined(
    asked: "Sequence[tuple[LabeledImage, Sequence[Sample]]]", load: "Callable[[], Engine]", adapter: str | None
) -> "Report":
    from finetune.evaluation.report import examine

    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with load() as engine, Progress(*bars, console=errors, transient=True) as progress:
        pictures = progress.add_task("pictures", total=len(asked))
        return examine(engine, asked, adapter=adapter, told=lambda: progress.advance(pictures))


def _listed(trouble: "Sequence[UnusableEntry]", out: Path | None) -> None:
    from labels import unusable

    where = (
        f"--out FOLDER lists all, in {unusable.FILE}" if out is None else f"{out / unusable.FILE} lists all at the end"
    )
    unusable.show(trouble, errors, where)


def _done(
    report: "Report", name: str, out: Path | None, unusable: "Sequence[UnusableEntry]", beside: "Sequence[Row]" = ()
) -> None:
    """Prints and writes the figures, those of a suite beside what is published, and what could not be asked."""
    from finetune.evaluation import page
    from finetune.evaluation.reliability import plot
    from labels.unusable import write

    table = Table("task", "figure")
    table.add_column("", justify="right")
    for marks in report.tasks.values():
        todo = marks.corrections
        rows = {"corrections per 100 labels": f"{todo.per_hundred:.1f}"} if todo.labels else {}
        rows |= {figure: f"{value:.3f}" for figure, value in marks.figures.items()}
        for i, (figure, value) in enumerate(rows.items()):
            table.add_row("" if i else marks.task.token, figure, value, end_section=i == len(rows) - 1)
    console.print(table)
    if beside:
        _beside(beside)
    for note in report.notes:
        errors.print(escape(note), soft_wrap=True, highlight=False)
    _listed(report.trouble, out)
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        write(out, [*unusable, *report.trouble])
        report.save(out / "evaluation.json")
        page.write(out / "evaluation.html", report, name, beside)
        series = {token: marks.scores for token, marks in report.tasks.items() if marks.scores}
        if series:
            plot(out / "reliability.png", series)
    except OSError as error:
        raise EvaluateError(f"{error.filename or out}: {error.strerror or error}") from error
    console.print(f"to look at: {escape(str(out / 'evaluation.html'))}", soft_wrap=True, highlight=False)


def _beside(rows: "Sequence[Row]") -> None:
    from finetune.evaluation.suites import COLUMNS

    table = Table(
        "task", "figure", title="Florence-2's authors report (arXiv:2311.06242) of their weights, on all of it"
    )
    for column in ("here", *COLUMNS):
        table.add_column(column, justify="right")
    for row in rows:
        published = (f"{row.published[column]:.1f}" if column in row.published else "" for column in COLUMNS)
        table.add_row(row.task, row.figure, f"{row.here:.1f}", *published)
    console.print(table)
