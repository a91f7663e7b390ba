"""Prints each annotation as soon as it is complete: `python examples/stream_annotations.py IMAGE`."""

import json
import os
import sys
from pathlib import Path

import httpx

SERVER = os.environ.get("FLORIST_URL", "http://localhost:8000")


def main(image: str) -> None:
    """Reads server-sent events: `annotation` for each one, then `result` with the whole answer."""
    request = {"files": {"image": Path(image).read_bytes()}, "data": {"task": "<OD>"}, "timeout": 60}
    with httpx.stream("POST", f"{SERVER}/v1/prompt?stream=true", **request) as response:
        response.raise_for_status()
        event = ""
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data" and event == "annotation":
                print(event, json.loads(value)["label"])
            elif name == "data":
                print(event)


if __name__ == "__main__":
    main(*sys.argv[1:])
