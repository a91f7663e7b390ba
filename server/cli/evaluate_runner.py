"""Runs `florist evaluate`: prints the metrics of a model, and writes them with an HTML page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from labels.extras import describe_install
from prompts.tasks import TASKS, PromptError, find_task
from server.cli.console import console, error_console, print_line

if TYPE_CHECKING:
    from finetune.evaluation.report import EvaluationReport
    from finetune.evaluation.suites import SuiteMetric
    from labels.dataset import Dataset, UnusableEntry
    from labels.labeled_image import LabeledImage
    from labels.sample import Sample
    from prompts.class_lists import ClassList
    from server.engine.engine import Engine


class EvaluateError(Exception):
    """The evaluation cannot run. The message says what to do."""


def evaluate_dataset(
    dataset: str, tasks: Sequence[str], load: "Callable[[], Engine]", adapter: str | None, out: Path | None,
    opener: "Callable[[str], Dataset]", *, any_class: bool = False,
) -> None:  # fmt: skip
    """Evaluates a model on a dataset: on its holdout if it has one.

    `tasks`: none for all that the labels allow; `adapter`: the name of an adapter that `load` loads; `out`: folder for
    the results; `any_class`: whether answers are held to no class list. Raises EvaluateError.
    """
    try:
        from finetune.evaluation.report import make_evaluation_samples
        from labels.dataset import DatasetError
    except ImportError as error:
        raise _missing_extra(error) from error
    try:
        for token in tasks:
            find_task(token)
        opened = opener(dataset)
    except (DatasetError, PromptError) as error:
        raise EvaluateError(str(error)) from error
    _print_unusable(opened.unusable, out)
    if opened.holdout:
        error_console.print(
            f"evaluating on the holdout: {len(opened.evaluation_images)} of {len(opened.images)} images"
        )
    _check_tasks(tasks, opened.evaluation_images, dataset)
    samples = make_evaluation_samples(opened.evaluation_images, tasks or None, classes=opened.classes)
    report = _evaluate(samples, load, adapter, opened.class_list, any_class=any_class)
    _write_results(report, dataset, out, opened.unusable)


def _check_tasks(tasks: Sequence[str], images: "Sequence[LabeledImage]", dataset: str) -> None:
    """Prints which tasks have no labels. Raises EvaluateError if none has."""
    from finetune.datasets.samples import find_trainable_tasks
    from finetune.evaluation.metrics import get_task_order

    available = {token for image in images for token in find_trainable_tasks(image)}
    if not available:
        raise EvaluateError(f"{dataset} has no labels for any task")
    unknown = [token for token in tasks if token not in available]
    wrong = [token for token in unknown if token not in TASKS]
    message = "; ".join(
        [f"{token} is no task (`florist tasks` lists them)" for token in wrong]
        + [f"{dataset} has no labels for {token}" for token in unknown if token in TASKS]
    )
    has_labels = f"it has labels for {', '.join(sorted(available, key=get_task_order))}"
    if unknown and (wrong or len(unknown) == len(tasks)):
        raise EvaluateError(f"{message}; {dataset if wrong else 'it'}{has_labels.removeprefix('it')}")
    if unknown:
        error_console.print(escape(message), soft_wrap=True, highlight=False)


def evaluate_suite(
    name: str, folder: str, load: "Callable[[], Engine]", adapter: str | None, out: Path | None, *,
    any_class: bool = False,
) -> None:  # fmt: skip
    """Evaluates a model on a public test set and prints the published values too. Raises EvaluateError."""
    try:
        from finetune.evaluation.suites import open_suite
        from labels.dataset import DatasetError
    except ImportError as error:
        raise _missing_extra(error) from error
    try:
        suite = open_suite(name, folder)
    except DatasetError as error:
        raise EvaluateError(str(error)) from error
    _print_unusable(suite.unusable, out)
    report = _evaluate(suite.samples, load, adapter, None, any_class=any_class)
    _write_results(report, name, out, suite.unusable, suite.compute_metrics(report))


def _missing_extra(error: ImportError) -> EvaluateError:
    return EvaluateError(f"evaluating needs packages that are not installed ({error}): {describe_install('train')}")


def _evaluate(
    samples: "Sequence[tuple[LabeledImage, Sequence[Sample]]]", load: "Callable[[], Engine]", adapter: str | None,
    declared: "ClassList | None", *, any_class: bool,
) -> "EvaluationReport":  # fmt: skip
    """Evaluates with answers held to the classes that the dataset declares, otherwise to those of the adapter."""
    from finetune.evaluation.report import evaluate_samples
    from server.engine.class_lists import find_adapter_class_list

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with load() as engine, Progress(*columns, console=error_console, transient=True) as progress:
        bar = progress.add_task("images", total=len(samples))
        class_list = None if any_class else declared or find_adapter_class_list(engine, [adapter])
        return evaluate_samples(
            engine, samples, adapter=adapter, class_list=class_list, on_image=lambda: progress.advance(bar)
        )


def _print_unusable(entries: "Sequence[UnusableEntry]", out: Path | None) -> None:
    from labels.unusable_entries import FILE_NAME, print_unusable

    hint = f"--out FOLDER lists all in {FILE_NAME}" if out is None else f"{out / FILE_NAME} will list all of them"
    print_unusable(entries, error_console, hint)


def _write_results(
    report: "EvaluationReport", name: str, out: Path | None, unusable: "Sequence[UnusableEntry]",
    published: "Sequence[SuiteMetric]" = (),
) -> None:  # fmt: skip
    """Prints the metrics, and writes them, the HTML page and the unusable entries into `out`."""
    from finetune.evaluation.page import write_page
    from finetune.evaluation.reliability import plot_reliability
    from labels.unusable_entries import write_unusable

    table = Table("task", "metric")
    table.add_column("", justify="right")
    for task in report.tasks.values():
        counts = task.corrections
        rows = {"corrections per 100 labels": f"{counts.per_hundred:.1f}"} if counts.labels else {}
        rows |= {metric: f"{value:.3f}" for metric, value in task.metrics.items()}
        for i, (metric, value) in enumerate(rows.items()):
            table.add_row("" if i else task.task.token, metric, value, end_section=i == len(rows) - 1)
    console.print(table)
    if published:
        _print_published(published)
    for remark in report.remarks:
        error_console.print(escape(remark), soft_wrap=True, highlight=False)
    _print_unusable(report.failures, out)
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_unusable(out, [*unusable, *report.failures])
        report.save(out / "evaluation.json")
        write_page(out / "evaluation.html", report, name, published)
        series = {token: task.scores for token, task in report.tasks.items() if task.scores}
        if series:
            plot_reliability(out / "reliability.png", series)
    except OSError as error:
        raise EvaluateError(f"{error.filename or out}: {error.strerror or error}") from error
    print_line(f"report: {out / 'evaluation.html'}")


def _print_published(metrics: "Sequence[SuiteMetric]") -> None:
    from finetune.evaluation.suites import CHECKPOINTS

    table = Table("task", "metric", title="Published values are for the complete test sets (arXiv:2311.06242)")
    for column in ("this model", *CHECKPOINTS):
        table.add_column(column, justify="right")
    for row in metrics:
        published = (f"{row.published[name]:.1f}" if name in row.published else "" for name in CHECKPOINTS)
        table.add_row(row.task, row.metric, f"{row.value:.1f}", *published)
    console.print(table)
