"""Pictures as the page shows them: small, with their labels drawn."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from labels import drawing
from labels.geometry import bounding_box_or_none
from labels.images import ImageError, decode_image
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Annotation, Text
from server.jobs.summary import selection

_SIDE = 400  # pixels of the longer side: about as wide as a card, so that the letters drawn can be read
_DRAWN = 100  # labels on a picture; more cover it
_LINES, _LETTERS = 8, 240  # of what is said beside a picture


@dataclass(frozen=True, slots=True)
class CardDrawing:
    """A picture with the labels of some steps drawn: as a data URL, and in words."""

    steps: tuple[str, ...]
    url: str
    alt: str


@dataclass(frozen=True, slots=True)
class CardLine:
    """What is said beside a picture: a text that was answered, or a label and why it is doubtful. `about`: what the
    region is called that it was asked about."""

    step: str
    words: str
    about: str = ""
    score: float | None = None
    review: str = ""


@dataclass(slots=True)
class ImageCard:
    """One picture. `trouble`: why it cannot be shown. `more`: how many lines are left out."""

    name: str
    width: int
    height: int
    labels: int
    drawings: list[CardDrawing] = field(default_factory=list)
    lines: list[CardLine] = field(default_factory=list)
    more: int = 0
    trouble: str = ""


def sample(picture: LabeledImage, steps: Sequence[str]) -> ImageCard:
    """A picture with what was found, drawn for each of `steps`; and the texts that were answered."""
    by_step = {
        step: [x.annotation for x in picture.traces if x.step == step and bounding_box_or_none(x.annotation)]
        for step in steps
    }
    views: dict[tuple[str, ...], list[Annotation]] = {(step,): notes for step, notes in by_step.items() if notes}
    if bare := tuple(step for step in steps if not by_step[step]) or (() if steps else ("",)):
        views[bare] = []
    texts = [label for label in picture.traces if isinstance(label.annotation, Text)]
    return _card(picture, views, [_line(picture, label) for label in texts])


def doubted(picture: LabeledImage) -> ImageCard:
    """A picture with what is doubtful on it, and why."""
    labels = selection.doubtful(picture)
    listed = labels[:_LINES]  # and only they are drawn: more would hide each other
    places = [_parent(picture, label) if isinstance(label.annotation, Text) else label for label in listed]
    notes = {id(place): place.annotation for place in places if place and bounding_box_or_none(place.annotation)}
    return _card(picture, {("",): list(notes.values())}, [_line(picture, label) for label in labels])


def _card(picture: LabeledImage, views: dict[tuple[str, ...], list[Annotation]], lines: list[CardLine]) -> ImageCard:
    card = ImageCard(picture.name, picture.width, picture.height, len(picture.traces), lines=lines[:_LINES])
    card.more = len(lines) - len(card.lines)
    try:
        data = picture.read()
        image = decode_image(data, max_bytes=len(data))
    except ImageError as error:
        card.trouble = str(error)
    except OSError as error:
        card.trouble = error.strerror or str(error)
    else:
        card.drawings = [_drawing(image, steps, notes) for steps, notes in views.items()]
    return card


def _drawing(image: Image.Image, steps: tuple[str, ...], notes: Sequence[Annotation]) -> CardDrawing:
    surest = sorted(notes, key=lambda note: -(note.score or 0.0))[:_DRAWN]
    file = io.BytesIO()
    drawing.draw(image, surest, most=_SIDE).save(file, "WEBP", quality=82)
    url = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    counts = Counter(_short(note.label) or note.kind for note in surest)
    alt = ", ".join(f"{n} × {name}" if n > 1 else name for name, n in counts.items()) or "nothing found"
    return CardDrawing(steps, url, _short(alt))


def _line(picture: LabeledImage, label: TracedAnnotation) -> CardLine:
    note, parent = label.annotation, _parent(picture, label)
    about = _short(parent.annotation.label) if parent and isinstance(note, Text) else ""
    return CardLine(label.step, _short(note.label), about, note.score, label.review)


def _parent(picture: LabeledImage, label: TracedAnnotation) -> TracedAnnotation | None:
    known = label.parent is not None and 0 <= label.parent < len(picture.traces)
    return picture.traces[label.parent] if known and label.parent is not None else None


def _short(words: str) -> str:
    return words if len(words) <= _LETTERS else f"{words[: _LETTERS - 1]}…"
