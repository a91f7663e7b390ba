"""Finds the objects in one image: `python examples/detect_objects.py IMAGE`."""

import os
import sys
from pathlib import Path

import httpx

SERVER = os.environ.get("FLORIST_URL", "http://localhost:8000")


def main(image: str) -> None:
    """Sends one prompt with the image as a form file and prints each box."""
    response = httpx.post(
        f"{SERVER}/v1/prompt", files={"image": Path(image).read_bytes()}, data={"task": "<OD>"}, timeout=60
    )
    response.raise_for_status()
    for annotation in response.json()["annotations"]:
        x1, y1, x2, y2 = annotation["box"]
        print(f"{annotation['label']:12} {annotation['score']:.2f}  {x1:.0f},{y1:.0f} to {x2:.0f},{y2:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
