"""The summary page: counts a job's images in one pass, selects some to show, and writes everything to one file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from labels.html_pages import create_environment, replace_when_complete
from labels.labeled_image import LabeledImage
from server.jobs.recipes.recipe import Recipe
from server.jobs.summary.cards import make_review_card, make_sample_card
from server.jobs.summary.failures import group_failures
from server.jobs.summary.selection import SmallestKeys, make_review_key, make_sampling_key
from server.jobs.summary.statistics import JobStatistics
from server.store import FailedImage, JobProgress

# Each sample is drawn once for every step that finds shapes, and more drawings would make the page slow.
_MAX_DRAWINGS = 240  # of all samples together


@dataclass(frozen=True, slots=True)
class SummaryInfo:
    """The job of a summary.

    `source` is the address as the user typed it, `notes` what it says about files that are not labeled, `model` the
    model's name. `seconds` is how long the job has run, None
    if that is unknown.
    """

    title: str
    recipe: Recipe
    source: str
    model: str
    progress: JobProgress
    failures: Iterable[FailedImage] = ()
    seconds: float | None = None
    notes: Sequence[str] = ()


def write_summary(
    path: Path, images: Iterable[LabeledImage], info: SummaryInfo, *, samples: int = 48, reviews: int = 48
) -> None:
    """Writes the page to `path`, completely or not at all: HTML without other files and without scripts.

    Shows `samples` random images, chosen by hash so that they are the same each time, and the `reviews` least certain
    images. Their files are read after all images have been counted; an image that cannot be read shows why. Memory does
    not grow with the number of images. Raises OSError if `path` cannot be written to.
    """
    statistics = JobStatistics(info.recipe)
    sampled, uncertain = SmallestKeys(samples), SmallestKeys(reviews)
    for image in images:
        statistics.add(image)
        sampled.offer(make_sampling_key(image), image)
        if (key := make_review_key(image)) is not None:
            uncertain.offer(key, image)
    views = [step.id for step in statistics.steps.values() if step.shapes]
    shown = sampled.get_images()[: max(1, _MAX_DRAWINGS // max(1, len(views)))]
    content = {
        "info": info,
        "statistics": statistics,
        "failures": group_failures(info.failures),
        "recipe": yaml.safe_dump(
            info.recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True, width=100
        ),
        "views": views,
        "samples": [make_sample_card(image, views) for image in shown],
        "reviews": [make_review_card(image) for image in uncertain.get_images()],
    }
    with replace_when_complete(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_get_template().generate(content))


@cache
def _get_template() -> Any:
    return create_environment("server.jobs.summary", "page").get_template("summary.html")
