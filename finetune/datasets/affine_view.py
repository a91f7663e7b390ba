"""Affine views of an image, and its labels in them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from finetune.datasets import wording
from labels.geometry import NO_AREA, Rectangle, area, bounds, box_area, box_to_ring, clip_ring, transform_rings
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading.checks import MIN_SIDE
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

MIN_VISIBLE = 0.25  # visible share of an object that is still labeled
MIN_VISIBLE_WORD = 0.9  # visible share of a word, or of a region in a prompt
FULLY_VISIBLE = 0.98
NOT_VISIBLE = 0.02

Matrix = tuple[float, float, float, float, float, float]  # a, b, c, d, e, f: x' = a·x + b·y + c, y' = d·x + e·y + f
Size = tuple[int, int]
IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def compose(first: Matrix, second: Matrix) -> Matrix:
    """Returns the map that applies `first`, then `second`."""
    a, b, c, d, e, f = first
    g, h, i, j, k, m = second
    return g * a + h * d, g * b + h * e, g * c + h * f + i, j * a + k * d, j * b + k * e, j * c + k * f + m


def invert(matrix: Matrix) -> Matrix:
    """Returns the inverse map. Raises ZeroDivisionError if there is none."""
    a, b, c, d, e, f = matrix
    scale = 1 / (a * e - b * d)
    return e * scale, -b * scale, (b * f - c * e) * scale, -d * scale, a * scale, (c * d - a * f) * scale


@dataclass(frozen=True, slots=True)
class AffineView:
    """An affine map from an image of size `source` to a canvas of size `size` (width, height).

    `window`: x1, y1, x2, y2 of the part of the canvas that the view fills. The corner of the first pixel is at 0, 0,
    its center at 0.5, 0.5.
    """

    source: Size
    size: Size
    matrix: Matrix
    window: tuple[int, int, int, int]

    @property
    def mirrors(self) -> bool:
        """Whether the view exchanges left and right."""
        a, b, _, d, e, _ = self.matrix
        return a * e < b * d

    @property
    def shows_all(self) -> bool:
        """Whether the view is the image itself, or its mirror image."""
        mirror = (-1.0, 0.0, float(self.source[0]), 0.0, 1.0, 0.0)
        return self.size == self.source and self.matrix in (IDENTITY, mirror)

    @property
    def _is_inside(self) -> bool:
        """Whether a view that only shifts shows nothing outside the image."""
        _, _, c, _, _, f = self.matrix
        x, y, right, bottom = self.window
        return x >= c and y >= f and right <= c + self.source[0] and bottom <= f + self.source[1]

    def move(self, x: float, y: float) -> tuple[float, float]:
        """Maps a point of the image to the canvas."""
        a, b, c, d, e, f = self.matrix
        return a * x + b * y + c, d * x + e * y + f

    def render(self, image: Image.Image) -> Image.Image:
        """Returns the content of `window`. Outside the image it is filled with the image's mean color."""
        if self.shows_all:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrors else image
        x, y, right, bottom = self.window
        a, b, c, d, e, f = self.matrix
        if (a, b, d, e) == (1, 0, 0, 1) and c == int(c) and f == int(f) and self._is_inside:
            return image.crop((x - int(c), y - int(f), right - int(c), bottom - int(f)))
        matrix = compose(self.matrix, (1.0, 0.0, -x, 0.0, 1.0, -y))
        fill = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        shrinkage = int(abs(matrix[0] * matrix[4] - matrix[1] * matrix[3]) ** -0.5)
        if shrinkage > 1:  # bicubic sampling alone would skip pixels
            image = image.reduce(shrinkage)
            matrix = compose((shrinkage, 0.0, 0.0, 0.0, shrinkage, 0.0), matrix)
        return image.transform(
            (right - x, bottom - y), Image.Transform.AFFINE, invert(matrix), Image.Resampling.BICUBIC, fillcolor=fill
        )


@dataclass(frozen=True, slots=True)
class ViewedAnnotation:
    """An annotation in a view, None if too little of it is visible; `visible`: the visible share of it."""

    annotation: Annotation | None
    visible: float


def view_annotation(annotation: Annotation, view: AffineView) -> ViewedAnnotation:
    """Maps an annotation to a view and clips it.

    A box is rotated as the ellipse in it, which fits most objects better than its corners (Kalra et al., ICCV 2021). A
    word is kept if almost all of it is visible.
    """
    match annotation:
        case Text():
            return ViewedAnnotation(Text(label=_view_text(annotation.label, view)), 1.0)
        case Box():
            whole = _view_ellipse(annotation.box, view)
            box = _clip(whole, view.window)
            visible = box_area(box) / box_area(whole) if box_area(whole) else 0.0
            label = _view_text(annotation.label, view)
            return ViewedAnnotation(Box(label=label, box=box) if _is_visible(box, visible) else None, visible)
        case Polygon():
            rings = transform_rings(annotation.polygons, view.move)
            parts = [part for ring in rings for part in clip_ring(ring, view.window) if area(part) > NO_AREA]
            total = sum(map(area, rings))
            visible = sum(map(area, parts)) / total if total else 0.0
            kept = bool(parts) and _is_visible(bounds(parts), visible)
            label = _view_text(annotation.label, view)
            return ViewedAnnotation(Polygon(label=label, polygons=parts) if kept else None, visible)
        case Quad():
            (ring,) = transform_rings([annotation.quad], view.move)
            total = area(ring)
            visible = sum(map(area, clip_ring(ring, view.window))) / total if total else 0.0
            x1, y1, x2, y2, x3, y3, x4, y4 = (_clamp(v, view.window, i % 2) for i, v in enumerate(ring))
            corners = (x1, y1, x2, y2, x3, y3, x4, y4)
            kept = visible >= MIN_VISIBLE_WORD
            return ViewedAnnotation(Quad(label=annotation.label, quad=corners) if kept else None, visible)


def view_labels(
    image: LabeledImage, view: AffineView, *, alone: bool = True
) -> tuple[tuple[Annotation, ...], tuple[Sample, ...], frozenset[LabelKind]]:
    """Returns the annotations, samples and complete kinds of an image in a view.

    Texts about the whole image are dropped if the view may make them wrong, and so are samples that lose a part of
    their answer. If the view is not `alone` on its canvas, only samples with a region are kept.
    """
    shapes = [(a, view_annotation(a, view)) for a in image.annotations if not isinstance(a, Text)]
    cut = any(viewed.visible < FULLY_VISIBLE for _, viewed in shapes)
    # A part of a word is visible, but it is not labeled.
    cut_word = any(isinstance(a, Quad) and v.annotation is None and v.visible > NOT_VISIBLE for a, v in shapes)

    def stays_true(text: str) -> bool:
        return alone and (view.shows_all or not (cut or wording.mentions_place(text)))

    texts = [view_annotation(a, view) for a in image.annotations if isinstance(a, Text) and stays_true(a.label)]
    samples = (_view_sample(sample, view, stays_true, alone) for sample in image.samples)
    return (
        tuple(v.annotation for v in (*(v for _, v in shapes), *texts) if v.annotation is not None),
        tuple(sample for sample in samples if sample is not None),
        image.complete - {LabelKind.WORDS} if cut_word else image.complete,
    )


def _view_sample(sample: Sample, view: AffineView, stays_true: Callable[[str], bool], alone: bool) -> Sample | None:
    viewed = [view_annotation(annotation, view) for annotation in sample.answer]
    answer = tuple(v.annotation for v in viewed if v.annotation is not None)
    words = " ".join((sample.text or "", *(annotation.label for annotation in sample.answer)))
    region = sample.region
    if region is None:
        is_text = not sample.answer or any(isinstance(annotation, Text) for annotation in sample.answer)
        if not (stays_true(words) if is_text else alone and (view.shows_all or not wording.mentions_place(words))):
            return None
    else:
        whole = _view_box(region, view)
        region = _clip(whole, view.window)
        if box_area(region) < MIN_VISIBLE_WORD * box_area(whole) or not box_area(region):
            return None
        if not view.shows_all and wording.mentions_place(words):
            return None
    if len(answer) < len(viewed):
        return None
    return replace(sample, answer=answer, text=sample.text and _view_text(sample.text, view), region=region)


def _view_text(text: str, view: AffineView) -> str:
    return wording.swap_sides(text) if view.mirrors else text


def _view_ellipse(box: Rectangle, view: AffineView) -> Rectangle:
    """Returns the box around the mapped ellipse in a box; without rotation this is the mapped box."""
    a, b, _, d, e, _ = view.matrix
    x1, y1, x2, y2 = box
    x, y = view.move((x1 + x2) / 2, (y1 + y2) / 2)
    rx, ry = abs(x2 - x1) / 2, abs(y2 - y1) / 2
    width, height = math.hypot(a * rx, b * ry), math.hypot(d * rx, e * ry)
    return x - width, y - height, x + width, y + height


def _view_box(box: Rectangle, view: AffineView) -> Rectangle:
    return bounds(transform_rings([box_to_ring(box)], view.move))


def _clamp(value: float, window: Rectangle, axis: int) -> float:
    return min(max(value, window[axis]), window[axis + 2])


def _clip(box: Rectangle, window: Rectangle) -> Rectangle:
    """Clips a box; the result has no area if nothing is inside."""
    x1, y1, x2, y2 = box
    return _clamp(x1, window, 0), _clamp(y1, window, 1), _clamp(x2, window, 0), _clamp(y2, window, 1)


def _is_visible(box: Rectangle, visible: float) -> bool:
    return visible >= MIN_VISIBLE and min(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE
