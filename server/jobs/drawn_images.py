"""A folder of images with their annotations drawn on them."""

import io
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from labels import drawing
from labels.images import ImageError, decode_image
from labels.labeled_image import LabeledImage
from labels.writing.export_folder import open_export
from labels.writing.export_report import ExportReport
from labels.writing.image_names import ImageNames
from labels.writing.renamed_list import RenamedList

# Images with other suffixes are drawn as PNG.
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


def write_drawn_images(images: Iterable[LabeledImage], out: Path) -> ExportReport:
    """Writes each image with its annotations to the folder `out`, under its own name.

    Images that can no longer be read are left out. The folder appears when it is complete, and replaces earlier
    drawings. Raises FileExistsError if `out` contains anything else, and OSError if it cannot be written to.
    """
    report = ExportReport()
    with open_export(out, one_file=False) as folder:
        names, renamed = ImageNames(folder.root, lambda name: None, lambda name: name), RenamedList(folder, report)
        for image in images:
            try:
                data = image.read()
                pixels = decode_image(data, max_bytes=len(data))
            except (OSError, ImageError) as error:
                report.leave_out_unreadable(image.name, error)
                continue
            format = _FORMATS.get(PurePosixPath(image.name).suffix.lower())
            file = io.BytesIO()
            annotations = image.with_regions().annotations
            drawing.draw_annotations(pixels, annotations).save(file, format or "PNG", quality=92)
            name, _ = names.choose(image.name if format else f"{image.name}.png")
            if name != image.name:
                renamed.add(image.name, name)
            folder.write(name, file.getvalue())
            report.images += 1
            report.annotations += len(annotations)
        folder.write_marker(report.to_dict())
    return report
