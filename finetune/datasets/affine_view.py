"""A picture seen through an affine map, and its labels with it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from finetune.datasets import wording
from labels.geometry import NO_AREA, Rectangle, area, bounds, box_area, clip_ring, transform_rings
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading.checks import MIN_SIDE
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

KEPT = 0.25  # the least share of a thing that is still one
LEGIBLE = 0.9  # and of words, or of a region that is asked about
WHOLE = 0.98  # what shows so much of a thing does not cut it
GONE = 0.02

Matrix = tuple[float, float, float, float, float, float]  # a, b, c, d, e, f: x' = a·x + b·y + c, y' = d·x + e·y + f
Size = tuple[int, int]
IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def then(first: Matrix, second: Matrix) -> Matrix:
    """One map after the other."""
    a, b, c, d, e, f = first
    g, h, i, j, k, m = second
    return g * a + h * d, g * b + h * e, g * c + h * f + i, j * a + k * d, j * b + k * e, j * c + k * f + m


def inverse(matrix: Matrix) -> Matrix:
    """The map back. Raises ZeroDivisionError where there is none."""
    a, b, c, d, e, f = matrix
    scale = 1 / (a * e - b * d)
    return e * scale, -b * scale, (b * f - c * e) * scale, -d * scale, a * scale, (c * d - a * f) * scale


@dataclass(frozen=True, slots=True)
class View:
    """Where the points of a picture of `source` (width, height) come to lie in one of `size`, and `window`, the part
    of that which it fills, x1, y1, x2, y2. The first pixel's corner is 0, 0 and its middle 0.5, 0.5."""

    source: Size
    size: Size
    matrix: Matrix
    window: tuple[int, int, int, int]

    @property
    def mirrors(self) -> bool:
        a, b, _, d, e, _ = self.matrix
        return a * e < b * d

    @property
    def plain(self) -> bool:
        """All of the picture is where it was, or mirrored."""
        mirror = (-1.0, 0.0, float(self.source[0]), 0.0, 1.0, 0.0)
        return self.size == self.source and self.matrix in (IDENTITY, mirror)

    @property
    def _lies_inside(self) -> bool:
        """Nothing beyond the picture is shown, where it is only shifted."""
        _, _, c, _, _, f = self.matrix
        x, y, right, bottom = self.window
        return x >= c and y >= f and right <= c + self.source[0] and bottom <= f + self.source[1]

    def move(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture."""
        a, b, c, d, e, f = self.matrix
        return a * x + b * y + c, d * x + e * y + f

    def paint(self, image: Image.Image) -> Image.Image:
        """What `window` shows of a picture; what lies beyond its border is its mean colour."""
        if self.plain:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrors else image
        x, y, right, bottom = self.window
        a, b, c, d, e, f = self.matrix
        if (a, b, d, e) == (1, 0, 0, 1) and c == int(c) and f == int(f) and self._lies_inside:
            return image.crop((x - int(c), y - int(f), right - int(c), bottom - int(f)))
        matrix = then(self.matrix, (1.0, 0.0, -x, 0.0, 1.0, -y))
        fill = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        shrunk = int(abs(matrix[0] * matrix[4] - matrix[1] * matrix[3]) ** -0.5)
        if shrunk > 1:  # sampling at points alone would skip pixels
            image = image.reduce(shrunk)
            matrix = then((shrunk, 0.0, 0.0, 0.0, shrunk, 0.0), matrix)
        return image.transform(
            (right - x, bottom - y), Image.Transform.AFFINE, inverse(matrix), Image.Resampling.BICUBIC, fillcolor=fill
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A label in a view, None where too little of it is left, and the share of it that is."""

    note: Annotation | None
    share: float


def see(note: Annotation, view: View) -> Seen:
    """A label as the view shows it. A box turns as the ellipse in it does, which most things fill better than its
    corners (Kalra et al., ICCV 2021); words are there as good as whole, or not at all."""
    match note:
        case Text():
            return Seen(Text(label=_said(note.label, view)), 1.0)
        case Box():
            whole = _ellipse(note.box, view)
            box = _inside(whole, view.window)
            share = box_area(box) / box_area(whole) if box_area(whole) else 0.0
            return Seen(Box(label=_said(note.label, view), box=box) if _is_thing(box, share) else None, share)
        case Polygon():
            rings = transform_rings(note.polygons, view.move)
            clips = (part for ring in rings for part in clip_ring(ring, view.window))
            parts = [part for part in clips if area(part) > NO_AREA]
            total = sum(map(area, rings))
            share = sum(map(area, parts)) / total if total else 0.0
            kept = bool(parts) and _is_thing(bounds(parts), share)
            return Seen(Polygon(label=_said(note.label, view), polygons=parts) if kept else None, share)
        case Quad():
            (ring,) = transform_rings([note.quad], view.move)
            whole = area(ring)
            share = sum(map(area, clip_ring(ring, view.window))) / whole if whole else 0.0
            x1, y1, x2, y2, x3, y3, x4, y4 = (_within(v, view.window, i % 2) for i, v in enumerate(ring))
            corners = (x1, y1, x2, y2, x3, y3, x4, y4)
            return Seen(Quad(label=note.label, quad=corners) if share >= LEGIBLE else None, share)


def seen(
    example: LabeledImage, view: View, *, alone: bool = True
) -> tuple[tuple[Annotation, ...], tuple[Sample, ...], frozenset[LabelKind]]:
    """Annotations, questions and complete kinds of an example in a view. What is said of the whole picture goes where
    the view may make it untrue, and so do questions of which a part is lost; where the view is not `alone` on its
    canvas, only questions on regions stay."""
    shapes = [(note, see(note, view)) for note in example.annotations if not isinstance(note, Text)]
    cut = any(found.share < WHOLE for _, found in shapes)
    # What is left of a word can be seen, and is none.
    torn = any(isinstance(note, Quad) and found.note is None and found.share > GONE for note, found in shapes)

    def stays(text: str) -> bool:
        return alone and (view.plain or not (cut or wording.has_place(text)))

    said = [see(note, view) for note in example.annotations if isinstance(note, Text) and stays(note.label)]
    questions = (_question(question, view, stays, alone) for question in example.samples)
    return (
        tuple(found.note for found in (*(found for _, found in shapes), *said) if found.note is not None),
        tuple(question for question in questions if question is not None),
        example.complete - {LabelKind.WORDS} if torn else example.complete,
    )


def _question(question: Sample, view: View, stays: Callable[[str], bool], alone: bool) -> Sample | None:
    answer = [see(note, view) for note in question.answer]
    notes = tuple(found.note for found in answer if found.note is not None)
    words = " ".join((question.text or "", *(note.label for note in question.answer)))
    region = question.region
    if region is None:
        spoken = not question.answer or any(isinstance(note, Text) for note in question.answer)
        if not (stays(words) if spoken else alone and (view.plain or not wording.has_place(words))):
            return None
    else:
        whole = _bounding(region, view)
        region = _inside(whole, view.window)
        if box_area(region) < LEGIBLE * box_area(whole) or not box_area(region):
            return None
        if not view.plain and wording.has_place(words):
            return None
    if len(notes) < len(answer):
        return None
    return replace(question, answer=notes, text=question.text and _said(question.text, view), region=region)


def _said(text: str, view: View) -> str:
    return wording.mirrored(text) if view.mirrors else text


def _ellipse(box: Rectangle, view: View) -> Rectangle:
    """The box around the ellipse in a box; where nothing turns, the box itself."""
    a, b, _, d, e, _ = view.matrix
    x1, y1, x2, y2 = box
    x, y = view.move((x1 + x2) / 2, (y1 + y2) / 2)
    half, high = abs(x2 - x1) / 2, abs(y2 - y1) / 2
    width, height = math.hypot(a * half, b * high), math.hypot(d * half, e * high)
    return x - width, y - height, x + width, y + height


def _bounding(box: Rectangle, view: View) -> Rectangle:
    x1, y1, x2, y2 = box
    return bounds(transform_rings([[x1, y1, x2, y1, x2, y2, x1, y2]], view.move))


def _within(value: float, window: Rectangle, axis: int) -> float:
    return min(max(value, window[axis]), window[axis + 2])


def _inside(box: Rectangle, window: Rectangle) -> Rectangle:
    """Clipped; without area where nothing is left."""
    x1, y1, x2, y2 = box
    return _within(x1, window, 0), _within(y1, window, 1), _within(x2, window, 0), _within(y2, window, 1)


def _is_thing(box: Rectangle, share: float) -> bool:
    return share >= KEPT and min(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE
