"""The cards of the summary: a small image with annotations drawn on it, and lines of text."""

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
from prompts.text import truncate
from server.jobs.summary.selection import find_least_certain

_SIDE = 400  # pixels of the longer side: about the width of a card, so that drawn text is readable
_MAX_DRAWN = 100  # annotations on an image; more of them would cover it
_MAX_LINES, _MAX_CHARACTERS = 8, 240  # of the text beside an image


@dataclass(frozen=True, slots=True)
class CardDrawing:
    """An image with the annotations of some steps drawn, as a data URL and as alternative text."""

    steps: tuple[str, ...]
    url: str
    alt: str


@dataclass(frozen=True, slots=True)
class CardLine:
    """A line beside an image: a text annotation, or an annotation to review. `about` is the label of the region that
    the text is about."""

    step: str
    words: str
    about: str = ""
    score: float | None = None
    review: str = ""


@dataclass(slots=True)
class ImageCard:
    """One image. `error` is why it cannot be shown. `hidden_lines` is the number of lines that are left out."""

    name: str
    width: int
    height: int
    annotations: int
    drawings: list[CardDrawing] = field(default_factory=list)
    lines: list[CardLine] = field(default_factory=list)
    hidden_lines: int = 0
    error: str = ""


def make_sample_card(image: LabeledImage, steps: Sequence[str]) -> ImageCard:
    """Returns a card with the shapes of each of `steps`, each in its own drawing, and with all text annotations."""
    by_step = {
        step: [t.annotation for t in image.traces if t.step == step and bounding_box_or_none(t.annotation)]
        for step in steps
    }
    shapes_by_view: dict[tuple[str, ...], list[Annotation]] = {
        (step,): shapes for step, shapes in by_step.items() if shapes
    }
    if empty := tuple(step for step in steps if not by_step[step]) or (() if steps else ("",)):
        shapes_by_view[empty] = []
    texts = [trace for trace in image.traces if isinstance(trace.annotation, Text)]
    return _make_card(image, shapes_by_view, [_make_line(image, trace) for trace in texts])


def make_review_card(image: LabeledImage) -> ImageCard:
    """Returns a card with the least certain annotations of an image, and why they need review."""
    traces = find_least_certain(image)
    listed = traces[:_MAX_LINES]  # only these are drawn, so that they do not cover each other
    located = [_get_parent(image, trace) if isinstance(trace.annotation, Text) else trace for trace in listed]
    shapes = {id(trace): trace.annotation for trace in located if trace and bounding_box_or_none(trace.annotation)}
    return _make_card(image, {("",): list(shapes.values())}, [_make_line(image, trace) for trace in traces])


def _make_card(
    labeled: LabeledImage, shapes_by_view: dict[tuple[str, ...], list[Annotation]], lines: list[CardLine]
) -> ImageCard:
    card = ImageCard(labeled.name, labeled.width, labeled.height, len(labeled.traces), lines=lines[:_MAX_LINES])
    card.hidden_lines = len(lines) - len(card.lines)
    try:
        data = labeled.read()
        image = decode_image(data, max_bytes=len(data))
    except ImageError as error:
        card.error = str(error)
    except OSError as error:
        card.error = error.strerror or str(error)
    else:
        card.drawings = [_make_drawing(image, steps, shapes) for steps, shapes in shapes_by_view.items()]
    return card


def _make_drawing(image: Image.Image, steps: tuple[str, ...], shapes: Sequence[Annotation]) -> CardDrawing:
    drawn = sorted(shapes, key=lambda shape: -(shape.score or 0.0))[:_MAX_DRAWN]
    file = io.BytesIO()
    drawing.draw_annotations(image, drawn, max_side=_SIDE).save(file, "WEBP", quality=82)
    url = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    counts = Counter(truncate(shape.label, _MAX_CHARACTERS) or shape.kind for shape in drawn)
    alt = ", ".join(f"{n} × {name}" if n > 1 else name for name, n in counts.items()) or "nothing found"
    return CardDrawing(steps, url, truncate(alt, _MAX_CHARACTERS))


def _make_line(image: LabeledImage, trace: TracedAnnotation) -> CardLine:
    annotation, parent = trace.annotation, _get_parent(image, trace)
    about = truncate(parent.annotation.label, _MAX_CHARACTERS) if parent and isinstance(annotation, Text) else ""
    return CardLine(trace.step, truncate(annotation.label, _MAX_CHARACTERS), about, annotation.score, trace.review)


def _get_parent(image: LabeledImage, trace: TracedAnnotation) -> TracedAnnotation | None:
    is_valid = trace.parent is not None and 0 <= trace.parent < len(image.traces)
    return image.traces[trace.parent] if is_valid and trace.parent is not None else None
