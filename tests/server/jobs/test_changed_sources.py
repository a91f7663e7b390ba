"""Sources of every kind that get, lose and change images: what a job keeps, adds and looks at again."""

import functools
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from server.jobs.sources import ImageSource, open_source
from server.store import CompletedImage, ImageAnnotations, JobSpec, JobState
from server.store.jobs.job_changes import ImageChanges
from server.store.jobs.job_store import JobStore

BEFORE = {"a.jpg": b"one", "b.jpg": b"two", "c.jpg": b"three"}
AFTER = {"a.jpg": b"one", "b.jpg": b"TWO", "new.jpg": b"four"}  # b.jpg has as many bytes as before

Write = Callable[[Path, dict[str, bytes]], str]
"""Writes a source into a folder, or changes it, and returns its address."""


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Writes only files that differ, as people do."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != data:
            (folder / name).write_bytes(data)
            os.utime(folder / name, ns=(len(data), zlib.crc32(data)))


def write_folder(root: Path, files: dict[str, bytes]) -> str:
    write_files(root / "images", files)
    return str(root / "images")


def write_list(root: Path, files: dict[str, bytes]) -> str:
    write_files(root / "images", files)
    (root / "list.txt").write_text("".join(f"images/{name}\n" for name in files))
    return str(root / "list.txt")


def write_coco(root: Path, files: dict[str, bytes]) -> str:
    write_files(root / "images", files)
    rows = [{"id": n, "file_name": name} for n, name in enumerate(files)]
    (root / "coco.json").write_text(json.dumps({"images": rows}))
    return str(root / "coco.json")


def write_zip(root: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # all from 1980
    return str(root / "a.zip")


def write_tar(root: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(root / "a.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return str(root / "a.tar.gz")


def write_table(root: Path, files: dict[str, bytes]) -> str:
    rows = [{"bytes": data, "path": name} for name, data in files.items()]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), root / "t.parquet")
    return str(root / "t.parquet")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def update(store: JobStore, source: ImageSource, address: str) -> ImageChanges:
    """Starts or extends the job, and labels what waits, with the content of the file in place of its hash."""
    spec = JobSpec("out", "{}", "a" * 64, address, source.fingerprint, "b" * 64)
    job = store.find_job("out") or store.get_or_create_job(spec, source.names)
    job, changes = store.update_job(job, spec, source)
    job = store.start(job)
    leases = store.open_leases(job, "me", 60)
    for image in leases.acquire(99):
        stamp = source.get_stamp(source.positions[image.name])
        data = source.read(image.name)
        result = ImageAnnotations(data.decode().ljust(64), 1, 1, ())
        leases.complete([CompletedImage(image.position, result, image.name, False, stamp)])
    assert store.finish(job).state is JobState.DONE
    return changes


def list_contents(store: JobStore) -> dict[str, str]:
    job = store.find_job("out")
    assert job is not None
    return {image.name.rpartition("/")[2]: image.sha256.strip() for image in store.iter_images(job)}


@pytest.mark.parametrize(
    ("write", "kept", "is_remote"),
    [
        (write_folder, 1, False),
        (write_list, 1, False),
        (write_coco, 1, False),
        (write_zip, 1, False),
        (write_tar, 0, False),  # without checksums of images, all are looked at
        (write_table, 0, False),
        (write_folder, 0, True),
        (write_zip, 1, True),
    ],
)
def test_new_changed_and_removed_images(tmp_path: Path, web: str, write: Write, kept: int, is_remote: bool) -> None:
    def open_now(files: dict[str, bytes]) -> tuple[ImageSource, str]:
        address = write(tmp_path, files)
        if is_remote:
            address = f"{web}/{Path(address).name}" + ("/" if Path(address).is_dir() else "")
        return open_source(address), address

    with JobStore(f"sqlite:///{tmp_path / 'florist.db'}") as store:
        for expected, files in (({}, BEFORE), ({"kept": 3}, BEFORE), ({"added": 1, "removed": 1, "kept": kept}, AFTER)):
            source, address = open_now(files)
            with source:
                changes = update(store, source, address)
            if files is AFTER or write in (write_folder, write_list, write_coco):  # others are written again
                assert {name: getattr(changes, name) for name in expected} == expected
            assert list_contents(store) == {name: data.decode() for name, data in files.items()}
        assert changes.compared == 2 - kept
        source, address = open_now(BEFORE)
        with source:
            assert update(store, source, address).added == 1
        assert list_contents(store) == {name: data.decode() for name, data in BEFORE.items()}


def test_images_that_are_named_by_the_rows_of_a_table_are_looked_at_again(tmp_path: Path) -> None:
    write_files(tmp_path / "images", BEFORE)
    rows = [{"bytes": None, "path": f"images/{name}"} for name in BEFORE]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    with JobStore(f"sqlite:///{tmp_path / 'florist.db'}") as store:
        for count in (2, 3):
            table = pyarrow.table({"image": pyarrow.array(rows[:count], kind)})
            pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
            with open_source(str(tmp_path / "t.parquet")) as source:
                changes = update(store, source, "t.parquet")
        assert (changes.added, changes.compared) == (1, 2)
