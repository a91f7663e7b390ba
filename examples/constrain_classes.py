"""Restricts answers to your classes: `python examples/constrain_classes.py IMAGE cat dog`."""

import base64
import os
import sys
from pathlib import Path

import httpx

SERVER = os.environ.get("FLORIST_URL", "http://localhost:8000")


def main(image: str, *classes: str) -> None:
    """The model can write only these classes and well-formed locations."""
    body = {
        "image": base64.b64encode(Path(image).read_bytes()).decode(),
        "task": "<OD>",
        "constrain": {"grammar": True, "labels": list(classes)},
    }
    response = httpx.post(f"{SERVER}/v1/prompt", json=body, timeout=60)
    response.raise_for_status()
    for annotation in response.json()["annotations"]:
        print(annotation["label"], annotation["score"], annotation["box"])


if __name__ == "__main__":
    main(*sys.argv[1:])
