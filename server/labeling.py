"""A folder of pictures → a COCO file, and each picture with its labels drawn on it."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from server import drawing
from server.coco import Coco
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.pictures import PictureError, decode
from server.engine.request import InvalidRequest, Request
from server.jobs.sources.source import SUFFIXES

_DRAWN = frozenset([".jpg", ".jpeg", ".png", ".webp"])  # kept in their format; others are drawn as PNG
_PIXELS = 150_000_000  # of pictures held in memory at a time


@dataclass(slots=True)
class Report:
    """How it went. `skipped`: picture → why."""

    labelled: int = 0
    annotations: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def pictures_in(folder: Path, besides: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, by their suffix, hidden ones and those under `besides` left out."""
    besides = besides.resolve()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and besides not in path.resolve().parents
    ]


def label(
    engine: Engine,
    paths: list[Path],
    folder: Path,
    out: Path,
    request: Callable[[Image.Image], Request],
    description: str,
    step: Callable[[], None] = lambda: None,
) -> Report:
    """Labels `paths`, which lie in `folder`, into `out`: annotations.json, with its `description`, and pictures/.
    `step` is called for each.

    Interrupted, it writes what it has. Raises OSError when `out` cannot be written.
    """
    coco, report = Coco(description), Report()
    try:
        for path, image, handle in _answered(engine, paths, folder, request, report, step):
            name = path.relative_to(folder).as_posix()
            try:
                annotations = handle.wait().annotations
            except Exception as error:
                report.skipped[name] = f"the model failed on it: {error}"
                step()
                continue
            coco.add(name, image.size, annotations)
            target = out / "pictures" / (name if path.suffix.lower() in _DRAWN else f"{name}.png")
            target.parent.mkdir(parents=True, exist_ok=True)
            drawing.draw(image, annotations).save(target, quality=92)
            report.labelled += 1
            report.annotations += len(annotations)
            step()
    finally:
        coco.write(out / "annotations.json")
    return report


def _answered(
    engine: Engine,
    paths: list[Path],
    folder: Path,
    request: Callable[[Image.Image], Request],
    report: Report,
    step: Callable[[], None],
) -> Iterator[tuple[Path, Image.Image, Handle]]:
    """Pictures with their answers under way, in order; so many ahead that batches fill and the memory does not."""
    window: deque[tuple[Path, Image.Image, Handle]] = deque()
    ahead = min(2 * engine.max_batch, engine.max_waiting)
    try:
        for path in paths:
            try:
                data = path.read_bytes()
                image = decode(data, max_bytes=len(data))
                handle = engine.submit(request(image))
            except (OSError, PictureError, InvalidRequest) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
                report.skipped[path.relative_to(folder).as_posix()] = reason
                step()
                continue
            window.append((path, image, handle))
            while len(window) >= ahead or sum(i.width * i.height for _, i, _ in window) > _PIXELS:
                yield window.popleft()
        while window:
            yield window.popleft()
    finally:
        for _, _, handle in window:
            handle.cancel()
