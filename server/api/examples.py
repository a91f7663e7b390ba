"""Examples for the OpenAPI that work as they stand: the picture is small enough to be pasted."""

import base64
import io
from functools import cache
from typing import Any

from PIL import Image, ImageDraw


@cache
def picture() -> bytes:
    """A PNG of 64×48 pixels: a red ball and a blue house on a meadow."""
    image = Image.new("RGB", (64, 48), (206, 229, 245))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 34, 64, 48), fill=(122, 178, 92))
    draw.ellipse((8, 22, 26, 40), fill=(214, 52, 46))
    draw.rectangle((38, 20, 56, 38), fill=(62, 104, 178))
    draw.polygon([(35, 21), (47, 9), (59, 21)], fill=(150, 76, 48))
    saved = io.BytesIO()
    image.quantize(8).save(saved, "PNG", optimize=True)
    return saved.getvalue()


def body() -> dict[str, Any]:
    """The request bodies of POST /v1/prompt, for OpenAPI's `requestBody`."""
    image = base64.b64encode(picture()).decode()
    asks: dict[str, tuple[str, dict[str, Any]]] = {
        "detect": ("All objects", {"task": "<OD>"}),
        "caption": ("A caption, sent as a data URL", {"task": "<CAPTION>"}),
        "ground": ("Where a phrase is", {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a red ball"}),
        "region": ("What is in a region", {"task": "<REGION_TO_CATEGORY>", "region": [8, 22, 27, 41]}),
        "several": (
            "Several questions on one picture",
            {"prompts": [{"task": "<OD>"}, {"task": "<REGION_TO_CATEGORY>", "region": [35, 9, 60, 39]}]},
        ),
    }
    prefixes = {"caption": "data:image/png;base64,"}
    return {
        name: {"summary": summary, "value": {"image": prefixes.get(name, "") + image, **ask}}
        for name, (summary, ask) in asks.items()
    }


ANSWER: dict[str, Any] = {
    "model": "seedling",
    "adapter": None,
    "task": "<OD>",
    "width": 64,
    "height": 48,
    "annotations": [{"kind": "box", "label": "ball", "score": 0.97, "box": [8.032, 22.104, 26.208, 40.056]}],
    "text": "ball<loc_125><loc_460><loc_409><loc_834>",
    "finish": "stop",
    "dropped": [],
    "timing": {"queue": 0.3, "encode": 21.5, "decode": 48.2, "total": 70.0},
}

JOB: dict[str, Any] = {
    "id": 1,
    "output": "street-2024",
    "state": "running",
    "reason": "",
    "source": "/data/street/**/*.jpg",
    "recipe": {"name": "detect", "review_below": 0.3, "steps": [{"id": "objects", "task": "<OD>"}]},
    "model": "9f2c8a5e4b7d1036c2f5e8b9a4d7061f3e2c5b8a9d4f7e6012c3b5a8d9e4f706",
    "created": "2026-03-02T09:30:00Z",
    "started": "2026-03-02T09:30:01Z",
    "ended": None,
    "pictures": {"total": 12000, "waiting": 8959, "running": 32, "done": 3007, "failed": 2},
    "failures": {"broken": 2},
    "rate": 24.5,
    "seconds_left": 367.0,
}


def correction() -> dict[str, Any]:
    """A request body of POST /v1/projects/{id}/corrections."""
    boxes = [("ball", [8, 22, 27, 41]), ("house", [35, 9, 60, 39])]
    image = base64.b64encode(picture()).decode()
    return {"image": image, "annotations": [{"kind": "box", "label": label, "box": box} for label, box in boxes]}


def job_bodies() -> dict[str, Any]:
    """The request bodies of POST /v1/jobs."""
    written = (
        "name: cars\nontology:\n  car: [car, vehicle]\nsteps:\n  - id: cars\n    task: <OPEN_VOCABULARY_DETECTION>\n"
    )
    step = {"id": "objects", "task": "<OD>", "filter": {"score": 0.5}}
    return {
        "ready": {
            "summary": "A ready recipe over a folder",
            "value": {"source": "/data/pictures", "recipe": "detect", "output": "first-look"},
        },
        "yaml": {
            "summary": "A recipe in YAML",
            "value": {"source": "/data/pictures", "recipe": written + "    text: ${ontology}\n"},
        },
        "object": {
            "summary": "A recipe as an object, over a pattern",
            "value": {"source": "/data/**/*.jpg", "recipe": {"name": "sure objects", "steps": [step]}},
        },
    }
