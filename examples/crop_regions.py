"""Detects objects, describes each region, and saves its crop: `python examples/crop_regions.py IMAGE FOLDER`."""

import base64
import os
import sys
from pathlib import Path

import httpx
from PIL import Image

SERVER = os.environ.get("FLORIST_URL", "http://localhost:8000")


def ask(image: str, **prompt: object) -> dict:
    """Sends one prompt; returns the answer."""
    body = {"image": base64.b64encode(Path(image).read_bytes()).decode(), **prompt}
    response = httpx.post(f"{SERVER}/v1/prompt", json=body, timeout=60)
    response.raise_for_status()
    return response.json()


def main(image: str, folder: str) -> None:
    """The box of an answer is the region of the next prompt."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, found in enumerate(ask(image, task="<OD>")["annotations"]):
        description = ask(image, task="<REGION_TO_DESCRIPTION>", region=found["box"])["text"]
        path = Path(folder) / f"{number}-{found['label'].replace('/', '-')}.png"
        Image.open(image).crop(tuple(round(v) for v in found["box"])).save(path)
        print(f"{path.name}: {description}")


if __name__ == "__main__":
    main(*sys.argv[1:])
