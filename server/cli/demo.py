"""`make demo`: draws scenes that the model never saw, serves it, asks it over HTTP, labels the folder: then look at it.

Nothing here reaches into the server: it is started as a user starts it and asked as a client asks it.
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

SEEDS = range(1, 13)  # chosen before looking; training draws from a million on
ANNOTATIONS = TypeAdapter(list[Annotation])
console = Console()


def draw_scenes(folder: Path) -> list[Path]:
    """A dozen scenes as PNG files."""
    from seedling.scenes.drawing import draw_scene

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in SEEDS:
        path = folder / f"scene-{seed:02}.png"
        draw_scene(seed, words=(0, 2)).image.save(path)
        paths.append(path)
    return paths


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(url: str, server: subprocess.Popen[bytes], patience: float = 120.0) -> None:
    """Returns when the server answers that it is ready; exits when it died or takes longer than `patience` seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with exit code {server.returncode} before it was ready")
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {patience:.0f} s")


def ask(url: str, path: Path) -> list[dict[str, Any]]:
    """Three questions on one picture in one call."""
    prompts = [{"task": "<OD>"}, {"task": "<OCR_WITH_REGION>"}, {"task": "<CAPTION>"}]
    form = {"prompts": json.dumps(prompts)}
    answer = httpx.post(f"{url}/v1/prompt", data=form, files={"image": path.read_bytes()}, timeout=120)
    answer.raise_for_status()
    return list(answer.json()["results"])


def sheet(answers: dict[Path, list[dict[str, Any]]], out: Path) -> None:
    """The pictures with their boxes, words and captions drawn, side by side."""
    drawn = []
    for path, results in answers.items():
        labels = [label for result in results for label in ANNOTATIONS.validate_python(result["annotations"])]
        drawn.append(drawing.draw(Image.open(path).convert("RGB"), labels))
    drawing.contact_sheet(drawn, columns=4).save(out)


def main(out: Annotated[Path, typer.Option(help="Folder for what the demo leaves.")] = Path("demo")) -> None:
    """Runs the whole of it and says where to look."""
    pictures = draw_scenes(out / "pictures")
    console.print(f"drew {len(pictures)} unseen scenes into {out / 'pictures'}")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = (out / "server.log").open("wb")
    command = [sys.executable, "-m", "server.cli.main", "serve", "--port", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"FLORIST_HOST": "127.0.0.1"})
    try:
        wait_ready(url, server)
        console.print(f"florist serves the seedling at {url}")
        start = time.perf_counter()
        answers = {path: ask(url, path) for path in pictures}
        seconds = time.perf_counter() - start
        report(answers, seconds)
        sheet(answers, out / "sheet.png")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    labels = out / "labels"
    shutil.rmtree(labels, ignore_errors=True)  # of another day's model, whose job this would go on with
    asked = ["--task", "<OD>", "--out", str(labels), "--draw"]
    subprocess.run([sys.executable, "-m", "server.cli.main", "label", str(out / "pictures"), *asked], check=True)
    console.print("\nLook at:")
    for path, what in (
        (out / "sheet.png", "contact sheet"),
        (labels / "coco", "the labels as COCO"),
        (labels / "drawn", "each picture with its labels"),
        (labels / "summary.html", "all of it on a page"),
    ):
        console.print(f"  {path}  ({what})")


def report(answers: dict[Path, list[dict[str, Any]]], seconds: float) -> None:
    """A line a picture."""
    table = Table(title=f"{3 * len(answers)} prompts over HTTP in {seconds:.1f} s")
    for column in ("picture", "caption", "objects", "words"):
        table.add_column(column)
    for path, (objects, words, caption) in answers.items():
        found = Counter(label["label"] for label in objects["annotations"])
        table.add_row(
            path.name,
            caption["text"],
            ", ".join(f"{n} × {label}" if n > 1 else label for label, n in found.items()),
            ", ".join(label["label"] for label in words["annotations"]),
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
