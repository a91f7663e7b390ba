"""The page: a job's pictures counted in one pass, some of them shown, and all of it in one file."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from labels.html_pages import create_environment, replace_when_complete
from labels.labeled_image import LabeledImage
from server.jobs.recipes.recipe import Recipe
from server.jobs.summary import cards, selection
from server.jobs.summary.failures import grouped
from server.jobs.summary.statistics import JobStatistics
from server.store.jobs.records import FailedImage, JobProgress

_DRAWINGS = 240  # of the samples, each drawn for every step that finds places; more would make the page slow


@dataclass(frozen=True, slots=True)
class SummaryInfo:
    """What the page says of the job beside its pictures. `source`: as it was typed; `model`: its name; `seconds`: how
    long it has run, None where that is not known."""

    title: str
    recipe: Recipe
    source: str
    model: str
    progress: JobProgress
    failures: Iterable[FailedImage] = ()
    seconds: float | None = None


def write(path: Path, pictures: Iterable[LabeledImage], about: SummaryInfo, *, samples: int = 48, doubtful: int = 48) -> None:
    """Writes the page to `path`, whole or not at all: HTML that needs no other file and no script.

    `samples` pictures are shown as they come, chosen by their hashes and so the same each time; `doubtful`, of those
    with a label to review or the least sure. They are read when all have been counted; one that cannot be read says
    why. Memory does not grow with the pictures. Raises OSError where `path` cannot be written.
    """
    tally = JobStatistics(about.recipe)
    sampled, doubted = selection.TopImages(samples), selection.TopImages(doubtful)
    for picture in pictures:
        tally.add(picture)
        sampled.offer(selection.chance(picture), picture)
        if (doubt := selection.doubt(picture)) is not None:
            doubted.offer(doubt, picture)
    views = [step.id for step in tally.steps.values() if step.shapes]
    shown = sampled.chosen()[: max(1, _DRAWINGS // max(1, len(views)))]
    content = {
        "about": about,
        "tally": tally,
        "failures": grouped(about.failures),
        "recipe": yaml.safe_dump(
            about.recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True, width=100
        ),
        "views": views,
        "samples": [cards.sample(picture, views) for picture in shown],
        "doubtful": [cards.doubted(picture) for picture in doubted.chosen()],
    }
    with replace_when_complete(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_page().generate(content))


@cache
def _page() -> Any:
    return create_environment("server.jobs.summary", "page").get_template("summary.html")
