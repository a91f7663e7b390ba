"""A format, and how a dataset is written in it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from labels.geometry import to_rings
from labels.labeled_image import LabeledImage
from labels.writing import folder as folders
from labels.writing.report import Report
from labels.writing.writer import Writer
from prompts.annotations import Polygon


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table. `suffix`: of the one file that is written; None where it is a folder."""

    title: str
    writer: type[Writer]
    suffix: str | None = None

    def write(self, pictures: Iterable[LabeledImage], out: Path, *, pictures_too: bool) -> Report:
        """Writes the dataset to `out`, whole or not at all, in memory that does not grow with it; the same pictures
        give the same bytes. `pictures_too` copies the pictures into it.

        An export that lies there already is replaced. Raises FileExistsError where something else does, ValueError
        where the format has no place for pictures, and OSError where `out` cannot be written.
        """
        if pictures_too and self.suffix is not None:
            raise ValueError(f"{self.suffix} is one file, without place for pictures: export without them")
        report = Report()
        with folders.whole(out, one_file=self.suffix is not None) as folder:
            writer = self.writer(folder, report, copies=pictures_too)
            for picture in pictures:
                data = b""
                if pictures_too:
                    try:
                        data = picture.read()
                    except OSError:
                        report.unreadable(picture.name)
                        continue
                if not writer.lossless:
                    picture = _drawable(picture, report)
                if pictures_too or writer.sidecars:
                    name = folder.free(picture.name, writer.pictures, writer.sidecars)
                else:
                    name = picture.name
                if pictures_too:
                    folder.write(f"{writer.pictures}/{name}", data)
                report.pictures += 1
                report.annotations += writer.add(picture, name)
            writer.close()
            if self.suffix is None:
                folder.write(folders.MARK, json.dumps(report.document(), ensure_ascii=False, indent=1))
        return report


def _drawable(picture: LabeledImage, report: Report) -> LabeledImage:
    """The picture without polygons of fewer than three corners, which most readers refuse."""
    traces = picture.traced_annotations
    drawable = [trace for trace in traces if not isinstance(trace.annotation, Polygon) or to_rings(trace.annotation)]
    if len(drawable) == len(traces):
        return picture
    report.left_out["polygons of fewer than three corners"] += len(traces) - len(drawable)
    return picture.with_traces(*drawable)
