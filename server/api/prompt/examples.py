"""Examples of POST /v1/prompt for the OpenAPI document. They can be sent as they are."""

from typing import Any

from server.api.sample_image import encode_sample_image

RESPONSE_EXAMPLE: dict[str, Any] = {
    "model": "seedling",
    "adapter": None,
    "task": "<OD>",
    "width": 64,
    "height": 48,
    "annotations": [{"kind": "box", "label": "ball", "score": 0.97, "box": [8.032, 22.104, 26.208, 40.056]}],
    "text": "ball<loc_125><loc_460><loc_409><loc_834>",
    "finish": "stop",
    "dropped": [],
    "class_list": None,
    "warnings": [],
    "timing": {"queue": 0.3, "encode": 21.5, "decode": 48.2, "total": 70.0},
}


def create_prompt_examples() -> dict[str, Any]:
    """Returns example bodies by name."""
    image = encode_sample_image()
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "detect": ("All objects", {"task": "<OD>"}),
        "caption": ("A caption, with the image as a data URL", {"task": "<CAPTION>"}),
        "ground": ("Where a phrase is", {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a red ball"}),
        "classes": ("Several classes", {"task": "<OPEN_VOCABULARY_DETECTION>", "text": ["ball", "book"]}),
        "region": ("What is in a region", {"task": "<REGION_TO_CATEGORY>", "region": [8, 22, 27, 41]}),
        "several": (
            "Several prompts about one image",
            {"prompts": [{"task": "<OD>"}, {"task": "<REGION_TO_CATEGORY>", "region": [35, 9, 60, 39]}]},
        ),
    }
    prefixes = {"caption": "data:image/png;base64,"}
    return {
        name: {"summary": summary, "value": {"image": prefixes.get(name, "") + image, **body}}
        for name, (summary, body) in bodies.items()
    }
