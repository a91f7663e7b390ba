"""Annotations and samples as JSON objects, as florist's own files have them."""

from typing import Any

from labels.labeled_image import TracedAnnotation
from labels.sample import Sample

_TRACE_FIELDS = ("step", "prompt", "raw", "model", "adapter", "review", "parent")


def to_label_row(traced: TracedAnnotation) -> dict[str, Any]:
    """Returns all that is known about an annotation, as JSON data."""
    fields = {field: getattr(traced, field) for field in _TRACE_FIELDS}
    return {"annotation": traced.annotation.model_dump(), **fields, "attributes": dict(traced.attributes)}


def to_sample_row(sample: Sample) -> dict[str, Any]:
    """Returns a prompt with its answer, as JSON data."""
    return {
        "task": sample.task.token,
        "text": sample.text,
        "region": sample.region,
        "answer": [annotation.model_dump() for annotation in sample.answer],
    }
