"""Examples of the projects resource for the OpenAPI document."""

from typing import Any

from server.api.sample_image import encode_sample_image


def create_correction_example() -> dict[str, Any]:
    """Returns an example body of POST /v1/projects/{id}/corrections."""
    boxes = {"ball": [8, 22, 27, 41], "house": [35, 9, 60, 39]}
    annotations = [{"kind": "box", "label": label, "box": box} for label, box in boxes.items()]
    return {"image": encode_sample_image(), "annotations": annotations}
