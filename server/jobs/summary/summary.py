"""The page: a job's pictures counted in one pass, some of them shown, and all of it in one file."""

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from labels.labeled_image import LabeledImage
from server.jobs.recipes.recipe import Recipe
from server.jobs.summary import cards, selection
from server.jobs.summary.failures import grouped
from server.jobs.summary.statistics import Tally
from server.store.jobs.job_store.records import Failure, Progress

_DRAWINGS = 240  # of the samples, each drawn for every step that finds places; more would make the page slow
# What HTML has no place for, or UTF-8; file names on Linux can hold all of it.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class About:
    """What the page says of the job beside its pictures. `source`: as it was typed; `model`: its name; `seconds`: how
    long it has run, None where that is not known."""

    title: str
    recipe: Recipe
    source: str
    model: str
    progress: Progress
    failures: Iterable[Failure] = ()
    seconds: float | None = None


def write(path: Path, pictures: Iterable[LabeledImage], about: About, *, samples: int = 48, doubtful: int = 48) -> None:
    """Writes the page to `path`, whole or not at all: HTML that needs no other file and no script.

    `samples` pictures are shown as they come, chosen by their hashes and so the same each time; `doubtful`, of those
    with a label to review or the least sure. They are read when all have been counted; one that cannot be read says
    why. Memory does not grow with the pictures. Raises OSError where `path` cannot be written.
    """
    tally = Tally(about.recipe)
    sampled, doubted = selection.Least(samples), selection.Least(doubtful)
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
    with whole(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_page().generate(content))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what is to be at `path` when it is complete."""
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@cache
def _page() -> Any:
    return environment().get_template("summary.html")


def environment(*packages: tuple[str, str]) -> Environment:
    """Where pages get their templates: of further (package, folder), and this page's own, its style among them. What
    cannot be shown in HTML is replaced, all else escaped."""
    found = Environment(
        loader=ChoiceLoader([PackageLoader(*where) for where in (*packages, ("server.jobs.summary", "page"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_showable,
    )
    found.filters |= {"count": "{:,}".format, "duration": _duration, "flat": chain.from_iterable}
    return found


def _showable(value: Any) -> Any:
    return _UNSHOWABLE.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    said = [f"{n} {unit}" for n, unit in parts if n][:2]
    return " ".join(said) or f"{seconds:.1f} s"
