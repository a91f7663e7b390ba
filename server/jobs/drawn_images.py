"""A folder of images with their annotations drawn on them."""

import io
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from labels import drawing
from labels.formats import Report
from labels.images import ImageError, decode_image
from labels.labeled_image import LabeledImage
from labels.writing.folder import MARK, whole

# Other formats are drawn as PNG.
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


def write_drawn_images(images: Iterable[LabeledImage], out: Path) -> Report:
    """Writes each image with its annotations to the folder `out`, under its own name.

    Images that can no longer be read are left out. The folder appears when it is complete, and replaces earlier drawings.
    Raises FileExistsError if `out` contains anything else, and OSError if it cannot be written to.
    """
    report = Report()
    with whole(out, one_file=False) as folder:
        for labeled in images:
            try:
                data = labeled.read()
                image = decode_image(data, max_bytes=len(data))
            except (OSError, ImageError):
                report.unreadable(labeled.name)
                continue
            format = _FORMATS.get(PurePosixPath(labeled.name).suffix.lower())
            file = io.BytesIO()
            drawing.draw(image, labeled.annotations).save(file, format or "PNG", quality=92)
            folder.write(folder.free(labeled.name if format else f"{labeled.name}.png", "", None), file.getvalue())
            report.pictures += 1
            report.annotations += len(labeled.annotations)
        folder.write(MARK, json.dumps(report.document(), ensure_ascii=False, indent=1))
    return report
