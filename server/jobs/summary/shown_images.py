"""The images that the summary shows: small files with the positions of their labels, as JSON data for the page."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from labels.geometry import box_to_ring
from labels.html_pages import replace_unshowable
from labels.images import ImageError, decode_image
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Annotation, Box, Polygon, Quad
from prompts.text import truncate
from server.jobs.summary.statistics import StepStatistics, get_class_name

MAX_SIDE = 720  # pixels of the longer side of an image
MAX_BYTES = 24 << 20  # of all images with their labels
_MAX_LABELS, _MAX_CHARACTERS = 200, 240  # of an image; of a label


class ImageEncoder:
    """Makes the data of images. `steps` and `classes` are in the order of the page's data."""

    def __init__(self, steps: Iterable[StepStatistics], classes: Iterable[str]) -> None:
        self._steps = {step.id: (i, step.kind is LabelKind.OBJECTS) for i, step in enumerate(steps)}
        self._classes = {name: i for i, name in enumerate(classes)}

    def encode_images(self, images: Iterable[LabeledImage]) -> list[dict[str, Any]]:
        """Returns the data of the images, in order, until they have `MAX_BYTES`."""
        encoded: list[dict[str, Any]] = []
        size = 0
        for image in images:
            one = self.encode(image)
            size += len(json.dumps(one))
            if size > MAX_BYTES and encoded:
                break
            encoded.append(one)
        return encoded

    def encode(self, image: LabeledImage) -> dict[str, Any]:
        """Returns the data of an image: `file` as a data URL, or `error` if it cannot be shown.

        `answers` are those from which the labels were made, if they are others. Points are pixels of this file. Labels
        to review come first if there are too many labels; `hidden` is the number of those that are left out.
        """
        file = error = ""
        width, height = _limit_size(image.width, image.height)
        try:
            data = image.read()
            decoded = decode_image(data, max_bytes=len(data))
        except ImageError as failure:
            error = str(failure)
        except OSError as failure:
            error = failure.strerror or str(failure)
        else:
            width, height = _limit_size(*decoded.size)
            file = _encode_file(decoded, (width, height))
        scale = width / max(1, image.width), height / max(1, image.height)
        labels, answers = (self._encode_labels(traces, scale) for traces in (image.traces, image.answers))
        return {
            "name": replace_unshowable(image.name),
            "size": [image.width, image.height],
            "width": width,
            "height": height,
            "file": file,
            "error": replace_unshowable(error),
            "labels": labels,
            "hidden": len(image.traces) - len(labels),
            "answers": answers,
        }

    def _encode_labels(self, traces: Sequence[TracedAnnotation], scale: tuple[float, float]) -> list[dict[str, Any]]:
        ranked = sorted(range(len(traces)), key=lambda i: (not traces[i].review, i))[:_MAX_LABELS]
        kept = {index: position for position, index in enumerate(sorted(ranked))}
        return [self._encode_label(traces[index], kept, scale) for index in kept]

    def _encode_label(
        self, trace: TracedAnnotation, kept: Mapping[int, int], scale: tuple[float, float]
    ) -> dict[str, Any]:
        annotation = trace.annotation
        score = annotation.score
        step, has_class = self._steps[trace.step]
        return {
            "step": step,
            "class": self._classes.get(get_class_name(annotation.label), -1) if has_class else -1,
            "text": replace_unshowable(truncate(annotation.label, _MAX_CHARACTERS)),
            "score": None if score is None else round(score, 3),
            "review": replace_unshowable(truncate(trace.review, _MAX_CHARACTERS)),
            "rings": [
                [round(value * scale[i % 2], 1) for i, value in enumerate(ring)] for ring in _list_rings(annotation)
            ],
            "attributes": [
                [name, replace_unshowable(truncate(value, _MAX_CHARACTERS))] for name, value in trace.attributes.items()
            ],
            "about": -1 if trace.parent is None else kept.get(trace.parent, -1),
        }


def _limit_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _encode_file(image: Image.Image, size: tuple[int, int]) -> str:
    file = io.BytesIO()
    smaller = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    smaller.save(file, "WEBP", quality=80, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _list_rings(annotation: Annotation) -> list[list[float]]:
    """Returns the outlines of a shape, each as x, y, x, y …; none for a text."""
    if isinstance(annotation, Box):
        return [list(box_to_ring(annotation.box))]
    if isinstance(annotation, Quad):
        return [list(annotation.quad)]
    return [list(ring) for ring in annotation.polygons] if isinstance(annotation, Polygon) else []
