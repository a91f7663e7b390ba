"""The summary page: counts a job's images in one pass, selects some to show, and writes everything to one file."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from labels.dropped_labels import DroppedLabel
from labels.html_pages import create_environment, replace_unshowable, replace_when_complete
from labels.labeled_image import LabeledImage
from server.jobs.object_view import ObjectView
from server.jobs.recipes.recipe import Recipe
from server.jobs.summary.failures import group_failures
from server.jobs.summary.scores import ScoreCounts
from server.jobs.summary.selection import ImageSelection
from server.jobs.summary.shown_images import ImageEncoder
from server.jobs.summary.statistics import ClassStatistics, JobStatistics, StepStatistics, get_class_name
from server.store import FailedImage, JobProgress

MAX_IMAGES = 192  # that the page shows
_SHOWN_DROPPED = 1000
_SCRIPTS = ("elements", "cards", "filters", "class_table", "viewer", "start")  # each may use those before it
_PAGE = resources.files(__package__) / "page"


@dataclass(frozen=True, slots=True)
class SummaryInfo:
    """The job of a summary.

    `source` is the address as the user typed it, `notes` what it says about files that are not labeled, `model` the
    model's name. `seconds` is how long the job has run, None if that is unknown. `dropped` are the labels that the
    recipe did not keep, and `uncounted` is the number of images without a count of them. `uncalibrated` are the IDs of
    the steps whose scores are no probabilities.
    """

    title: str
    recipe: Recipe
    source: str
    model: str
    progress: JobProgress
    failures: Iterable[FailedImage] = ()
    seconds: float | None = None
    notes: Sequence[str] = ()
    dropped: Sequence[DroppedLabel] = ()
    uncounted: int = 0
    uncalibrated: Sequence[str] = ()


def write_summary(
    path: Path, images: Iterable[LabeledImage], info: SummaryInfo, *, max_images: int = MAX_IMAGES
) -> JobStatistics:
    """Writes the page to `path`, completely or not at all, and returns what it counts: HTML without other files.

    Shows at most `max_images` images, selected by their content so that they are the same each time. Their files are
    read after all images have been counted; an image that cannot be read shows why. Neither memory nor the page grow
    with the number of images. Raises OSError if `path` cannot be written to.
    """
    statistics, selection = JobStatistics(info.recipe), ImageSelection(max_images)
    view = ObjectView(info.recipe)
    for answers in images:
        image = view.apply(answers).with_regions()
        statistics.add(image)
        selection.offer(image, statistics.list_classes(image))
    classes = statistics.rank_classes(list_expected_classes(info.recipe))
    steps = list(statistics.steps.values())
    selected, uncertain, examples = selection.select()
    shown = ImageEncoder(steps, (one.name for one in classes)).encode_images(selected)
    if info.progress.removed:
        gone = f"{info.progress.removed:,} images are no longer in the source; their labels stay in the database"
        info = replace(info, notes=[*info.notes, gone])
    content = {
        "info": info,
        "statistics": statistics,
        "classes": classes,
        "missing": [one.name for one in classes if not one.scores.count],
        "dropped": info.dropped[:_SHOWN_DROPPED],
        "failures": group_failures(info.failures),
        "recipe": yaml.safe_dump(
            info.recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True, width=100
        ),
        "shown": len(shown),
        "uncertain": min(uncertain, len(shown)),
        "examples": min(examples, max(0, len(shown) - uncertain)),
        "data": htmlsafe_json_dumps(_collect_data(info, statistics.labels, steps, classes, shown)),
        "script": Markup(_read_script()),
        "style": Markup(_read_style()),
        "policy": get_page_policy(),
    }
    with replace_when_complete(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_get_template().generate(content))
    return statistics


def get_page_policy() -> str:
    """Returns the Content-Security-Policy of the page: only its own script and style, and no text becomes HTML."""
    script, style = (
        f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (_read_script(), _read_style())
    )
    return (
        f"default-src 'none'; img-src data:; script-src {script}; style-src {style}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def list_expected_classes(recipe: Recipe) -> list[str]:
    """Returns the classes that the labels of a job can have: those of the ontology, or of the models' class lists."""
    names = recipe.ontology or [name for names in (recipe.class_lists or {}).values() for name in names]
    return list(dict.fromkeys(map(get_class_name, names)))


def _collect_data(
    info: SummaryInfo, labels: StepStatistics, steps: Sequence[StepStatistics], classes: Sequence[ClassStatistics],
    shown: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Returns the data that the page's script filters: the shown images, and the scores of all labels and answers."""
    positions = {one.name: i for i, one in enumerate(classes)}
    counts = []
    for i, step in enumerate([labels, *steps], -1):
        counts += [[i, positions[name], *_pack(scores)] for name, scores in step.classes.items()]
        rest = step.scores.copy()
        for scores in step.classes.values():
            rest.subtract(scores)
        counts += [[i, -1, *_pack(rest)]] if rest.count else []
    return {
        "steps": [
            {
                "id": replace_unshowable(step.id),
                "kind": step.kind or "",
                "threshold": step.threshold,
                "calibrated": step.id not in info.uncalibrated,
            }
            for step in steps
        ],
        "classes": [replace_unshowable(one.name) for one in classes],
        "counts": counts,
        "images": shown,
    }


def _pack(scores: ScoreCounts) -> list[Any]:
    """Returns the count, the count to review, and for each bin that is not empty its index and both counts."""
    bins = [[i, n, scores.review_bins[i]] for i, n in enumerate(scores.bins) if n]
    return [scores.count, scores.review, bins]


@cache
def _get_template() -> Any:
    return create_environment("server.jobs.summary", "page").get_template("summary.html")


@cache
def _read_script() -> str:
    # One script, since a page from a file cannot import others.
    return _read_texts(_PAGE / "script" / f"{name}.js" for name in _SCRIPTS)


@cache
def _read_style() -> str:
    return _read_texts([resources.files("labels") / "page/page.css", _PAGE / "summary.css"])


def _read_texts(files: Iterable[Any]) -> str:
    return "\n" + "\n".join(file.read_text(encoding="utf-8").replace("\r\n", "\n") for file in files)
