"""Each picture with its labels drawn on it: a folder to look through, which appears whole or not at all."""

import io
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from labels import drawing
from labels.formats import Report
from labels.images import ImageError, decode_image
from labels.labeled_image import LabeledImage
from labels.writing.folder import MARK, whole

# Kept in their format; others are drawn as PNG.
_KEPT = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


def write(pictures: Iterable[LabeledImage], out: Path) -> Report:
    """Draws each picture into the folder `out`, under its own name; what can no longer be read is left out.

    Drawings that lie there already are replaced. Raises FileExistsError where something else does, and OSError where
    `out` cannot be written.
    """
    report = Report()
    with whole(out, one_file=False) as folder:
        for picture in pictures:
            try:
                data = picture.read()
                image = decode_image(data, max_bytes=len(data))
            except (OSError, ImageError):
                report.unreadable(picture.name)
                continue
            kind = _KEPT.get(PurePosixPath(picture.name).suffix.lower())
            file = io.BytesIO()
            drawing.draw(image, [label.annotation for label in picture.labels]).save(file, kind or "PNG", quality=92)
            folder.write(folder.free(picture.name if kind else f"{picture.name}.png", "", None), file.getvalue())
            report.pictures += 1
            report.annotations += len(picture.labels)
        folder.write(MARK, json.dumps(report.document(), ensure_ascii=False, indent=1))
    return report
