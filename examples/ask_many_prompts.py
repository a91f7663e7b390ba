"""Sends several prompts about one image: `python examples/ask_many_prompts.py IMAGE`."""

import base64
import os
import sys
from pathlib import Path

import httpx

SERVER = os.environ.get("FLORIST_URL", "http://localhost:8000")
PROMPTS = [
    {"task": "<CAPTION>"},
    {"task": "<OD>"},
    {"task": "<OCR_WITH_REGION>"},
    {"task": "<OPEN_VOCABULARY_DETECTION>", "text": "cat"},
]


def main(image: str) -> None:
    """The server encodes the image once. A prompt that fails has an error in the place of its answer."""
    body = {"image": base64.b64encode(Path(image).read_bytes()).decode(), "prompts": PROMPTS}
    response = httpx.post(f"{SERVER}/v1/prompt", json=body, timeout=60)
    response.raise_for_status()
    for prompt, result in zip(PROMPTS, response.json()["results"], strict=True):
        print(prompt["task"], [annotation["label"] for annotation in result["annotations"]])


if __name__ == "__main__":
    main(*sys.argv[1:])
