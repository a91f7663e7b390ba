"""Examples of the jobs resource for the OpenAPI document."""

from typing import Any

JOB_EXAMPLE: dict[str, Any] = {
    "id": 1,
    "output": "street-2024",
    "state": "running",
    "reason": "",
    "source": "/data/street/**/*.jpg",
    "recipe_name": "detect",
    "recipe": {"name": "detect", "review_below": 0.3, "steps": [{"id": "objects", "task": "<OD>"}]},
    "model": "9f2c8a5e4b7d1036c2f5e8b9a4d7061f3e2c5b8a9d4f7e6012c3b5a8d9e4f706",
    "created": "2026-03-02T09:30:00Z",
    "started": "2026-03-02T09:30:01Z",
    "ended": None,
    "images": {"total": 12000, "waiting": 8959, "running": 32, "done": 3007, "failed": 2, "removed": 0},
    "failures": {"broken": 2},
    "rate": 24.5,
    "seconds_left": 367.0,
    "warnings": [],
}
_YAML = """name: cars
ontology:
  car: [car, vehicle]
steps:
  - id: cars
    task: <OPEN_VOCABULARY_DETECTION>
    text: ${ontology}
"""


def create_job_examples() -> dict[str, Any]:
    """Returns example bodies of POST /v1/jobs by name."""
    step = {"id": "objects", "task": "<OD>", "filter": {"min_score": 0.5}}
    return {
        "ready": {
            "summary": "A built-in recipe on a folder",
            "value": {"source": "/data/images", "recipe": "detect", "output": "first-look"},
        },
        "yaml": {
            "summary": "A recipe in YAML",
            "value": {"source": "/data/images", "recipe": _YAML},
        },
        "upload": {
            "summary": "A built-in recipe on an upload",
            "value": {"source": "upload:5f3a9c0e7b1d2846", "recipe": "detect"},
        },
        "object": {
            "summary": "A recipe as an object, on a pattern",
            "value": {"source": "/data/**/*.jpg", "recipe": {"name": "confident objects", "steps": [step]}},
        },
    }
