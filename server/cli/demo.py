"""`make demo`: draws scenes, serves the seedling, sends prompts over HTTP, and labels a folder.

The demo uses the server like any user: it starts the `florist` command and sends HTTP requests.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from PIL import Image
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from labels import drawing
from prompts.annotations import Annotation

_SEEDS = range(1, 13)  # not seen in training, whose seeds start at one million
_PROMPTS = [{"task": "<OD>"}, {"task": "<OCR_WITH_REGION>"}, {"task": "<CAPTION>"}]
_FLORIST = [sys.executable, "-m", "server.cli.main"]
_ANNOTATIONS = TypeAdapter(list[Annotation])
console = Console()


def draw_scenes(folder: Path) -> list[Path]:
    """Draws a dozen scenes as PNG files and returns their paths."""
    from seedling.scenes.drawing import draw_scene

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in _SEEDS:
        path = folder / f"scene-{seed:02}.png"
        draw_scene(seed, words=(0, 2)).image.save(path)
        paths.append(path)
    return paths


def find_free_port() -> int:
    """Returns a port that is not in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_ready(url: str, server: subprocess.Popen[bytes], timeout: float = 120.0) -> None:
    """Waits until the server accepts prompts. Exits if it ends, or is not ready within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the server exited with code {server.returncode} before it was ready")
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {timeout:.0f} s")


def send_prompts(url: str, image: Path) -> list[dict[str, Any]]:
    """Sends three prompts about one image in one request, and returns the answers."""
    form = {"prompts": json.dumps(_PROMPTS)}
    response = httpx.post(f"{url}/v1/prompt", data=form, files={"image": image.read_bytes()}, timeout=120)
    response.raise_for_status()
    return list(response.json()["results"])


def save_contact_sheet(answers: dict[Path, list[dict[str, Any]]], path: Path) -> None:
    """Saves all images with their annotations drawn, side by side."""
    drawn = []
    for image, results in answers.items():
        annotations = [
            annotation for result in results for annotation in _ANNOTATIONS.validate_python(result["annotations"])
        ]
        drawn.append(drawing.draw_annotations(Image.open(image).convert("RGB"), annotations))
    drawing.draw_contact_sheet(drawn, columns=4).save(path)


def print_answers(answers: dict[Path, list[dict[str, Any]]], seconds: float) -> None:
    """Prints a table with one line per image."""
    table = Table(title=f"{len(_PROMPTS) * len(answers)} prompts over HTTP in {seconds:.1f} s")
    for column in ("image", "caption", "objects", "words"):
        table.add_column(column)
    for path, (objects, words, caption) in answers.items():
        counts = Counter(annotation["label"] for annotation in objects["annotations"])
        table.add_row(
            path.name,
            caption["text"],
            ", ".join(f"{count} × {label}" if count > 1 else label for label, count in counts.items()),
            ", ".join(annotation["label"] for annotation in words["annotations"]),
        )
    console.print(table)


def main(out: Annotated[Path, typer.Option(help="The folder for the output of the demo.")] = Path("demo")) -> None:
    """Runs the demo and prints which files to open."""
    images = draw_scenes(out / "images")
    console.print(f"Drew {len(images)} scenes into {out / 'images'}. The model has not seen them in training.")
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    with (out / "server.log").open("wb") as log:
        environment = os.environ | {"FLORIST_HOST": "127.0.0.1"}
        server = subprocess.Popen([*_FLORIST, "serve", "--port", str(port)], stdout=log, stderr=log, env=environment)
    try:
        wait_until_ready(url, server)
        console.print(f"florist serves the seedling at {url}.")
        started = time.perf_counter()
        answers = {image: send_prompts(url, image) for image in images}
        print_answers(answers, time.perf_counter() - started)
        save_contact_sheet(answers, out / "sheet.png")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    labels = out / "labels"
    shutil.rmtree(labels, ignore_errors=True)  # a job of an earlier demo would be continued
    options = ["--recipe", "full", "--out", str(labels), "--draw"]
    subprocess.run([*_FLORIST, "label", str(out / "images"), *options], check=True)
    console.print("\nOpen these files:")
    for path, what in (
        (out / "sheet.png", "all images with the answers, on one sheet"),
        (labels / "coco", "the dataset in COCO format: one annotation for each object, with outline and description"),
        (labels / "drawn", "each image with its annotations"),
        (labels / "summary.html", "a summary page"),
    ):
        console.print(f"  {path}  ({what})")


if __name__ == "__main__":
    typer.run(main)
