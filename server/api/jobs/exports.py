"""The annotations of a job as a dataset to download, in any format."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED

from starlette.responses import StreamingResponse
from zipstream import ZipStream

from labels.formats import FORMATS
from labels.labeled_image import LabeledImage
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImagePlacement
from server.store import Job, JobProgress

_CHUNK_BYTES = 1 << 18
REPORT_HEADER = "X-Export-Report"
ZIP, JSON_LINES = "application/zip", "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class JobExport:
    """A dataset that was written for a download. `job`: how far the job was, for its report."""

    path: Path
    report: ExportReport
    job: dict[str, str | int]


def write_dataset(
    format: str,
    images: Iterable[LabeledImage],
    folder: Path,
    job: Job,
    progress: JobProgress,
    placement: ImagePlacement,
    image_url: str | None,
) -> JobExport:
    """Writes the dataset of a job into `folder`.

    `progress` is that of the job before `images` are read: the export of a job that is not done says so. Raises
    ValueError if the format has no place for the images or their addresses, OSError if the disk is full, and whatever
    `images` raises.
    """
    chosen = FORMATS[format]
    path = folder / f"{job.spec.output}-{format}{chosen.suffix or ''}"
    state: dict[str, str | int] = {
        "id": job.id, "state": job.state.value, "images": progress.total, "labeled": progress.done,
        "failed": progress.failed, "unfinished": progress.unfinished,
    }  # fmt: skip
    report = chosen.write(images, path, placement, image_url=image_url, facts={"job": state})
    return JobExport(path, report, state)


def create_download(export: JobExport) -> StreamingResponse:
    """Returns a response that streams a dataset: a folder as a ZIP archive, a file as it is.

    The report is in the archive (`.florist`), and its numbers are in a header.
    """
    dataset = export.path
    if dataset.is_dir():
        archive = ZipStream.from_path(dataset, compress_type=ZIP_DEFLATED, compress_level=1, sized=False)
        chunks, name, media_type = iter(archive), f"{dataset.name}.zip", ZIP
    else:
        chunks, name, media_type = _read_chunks(dataset), dataset.name, JSON_LINES
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        REPORT_HEADER: json.dumps({**export.report.count(), "job": export.job}),
    }
    return StreamingResponse(chunks, media_type=media_type, headers=headers)


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
