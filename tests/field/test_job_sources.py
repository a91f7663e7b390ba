"""Job sources from the field and from attackers: what a source sets aside, and what it must not cost or reach.

Ids: S9 is from issue 27; J1… are of this file.
"""

import http.server
import io
import json
import os
import struct
import tarfile
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from server.jobs.sources import ImageSource, SourceError, SourceImageError, SourceImageFault, open_source, permissions

JPEG = io.BytesIO()
Image.new("RGB", (8, 6), "red").save(JPEG, "JPEG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
FILES = {
    "a.jpg": JPEG.getvalue(),
    "b.jfif": JPEG.getvalue(),
    "c.mpo": JPEG.getvalue(),
    "no_suffix": JPEG.getvalue(),
    "IMG_0001.HEIC": HEIC,
    "DSC_1.NEF": b"MM\0*" + bytes(100),
    "readme.txt": b"hello",
    "scan": b"%PDF-1.7",
}
NAMES = ["DSC_1.NEF", "IMG_0001.HEIC", "a.jpg", "b.jfif", "c.mpo", "no_suffix"]


def make_folder(path: Path) -> str:
    path.mkdir()
    for name, data in FILES.items():
        (path / name).write_bytes(data)
    return str(path)


def make_zip(path: Path) -> str:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return str(path.with_suffix(".zip"))


def make_tar(path: Path) -> str:
    with tarfile.open(path.with_suffix(".tar.gz"), "w:gz") as archive:
        for name, data in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return str(path.with_suffix(".tar.gz"))


@pytest.mark.situation("S9", "images are found by content, and everything else is named: folder, zip, tar.gz")
@pytest.mark.parametrize("make", [make_folder, make_zip, make_tar], ids=["folder", "zip", "tar"])
def test_a_source_names_what_it_sets_aside(tmp_path: Path, make: Callable[[Path], str]) -> None:
    with open_source(make(tmp_path / "set")) as source:
        assert sorted(source.names) == NAMES
        (note,) = source.notes
    assert note.startswith("2 files are set aside as not images (")
    assert "readme.txt" in note
    assert "scan (a PDF)" in note


@pytest.mark.situation("S9", "a bucket names what it sets aside")
def test_a_bucket_names_what_it_sets_aside() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe({f"/s9-set/{name}": data for name, data in FILES.items()})
    source = open_source("memory://s9-set")
    assert source.names == NAMES[:-1]
    assert "no_suffix" in source.notes[0]
    assert "readme.txt" in source.notes[0]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Returns the URLs of a server that redirects everything to a second one, and of the second."""
    secret = JPEG.getvalue()

    class Inside(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(secret)))
            self.end_headers()
            self.wfile.write(secret)

    class Outside(Inside):
        def do_GET(self) -> None:
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{inside.server_port}{self.path}")
            self.end_headers()

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inside) as inside,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outside) as outside,
    ):
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in (inside, outside)]
        for thread in threads:
            thread.start()
        yield f"http://127.0.0.1:{outside.server_port}", f"http://127.0.0.1:{inside.server_port}"
        for server in (inside, outside):
            server.shutdown()
        for thread in threads:
            thread.join()


@pytest.mark.situation("J1", "an allowed web server redirects to one that is not allowed")
@pytest.mark.parametrize("path", ["a.jpg", "set.zip", "set.tar", "t.parquet", "coco.json", "list.csv", "folder/"])
def test_a_redirect_does_not_leave_the_allowed_locations(servers: tuple[str, str], path: str, tmp_path: Path) -> None:
    is_allowed = permissions.allow_within([servers[0], str(tmp_path)])
    with pytest.raises(SourceError, match="not configured to read from there"):
        open_source(f"{servers[0]}/{path}", is_allowed=is_allowed)
    (tmp_path / "list.txt").write_text(f"{servers[0]}/a.jpg\n{servers[1]}/a.jpg\n")
    for image in open_source(str(tmp_path / "list.txt"), is_allowed=is_allowed):
        with pytest.raises(SourceImageError, match="not configured to read from there"):
            image.read()


@pytest.mark.situation("J2", "addresses that name a file or another URL within a URL")
@pytest.mark.parametrize(
    "address",
    [
        "zip://a.jpg::http://127.0.0.1:9/a.zip", "filecache://x::file:///etc/hostname", "local:///etc/hostname",
        "simplecache::s3://bucket/a.jpg", "file:///etc/hostname", "http://0x7f.1:9/", "http://2130706433:9/a.jpg",
        "http://[::ffff:127.0.0.1]:9/a.jpg", "http://images.example@127.0.0.1:9/a.jpg",
    ],
)  # fmt: skip
def test_addresses_are_judged_by_each_part(address: str, tmp_path: Path) -> None:
    is_allowed = permissions.allow_within([str(tmp_path), "http://images.example"])
    with pytest.raises(SourceError):
        open_source(address, is_allowed=is_allowed)
    (tmp_path / "list.txt").write_text(address)
    try:
        source = open_source(str(tmp_path / "list.txt"), is_allowed=is_allowed)
    except SourceError:
        return
    for image in source:
        with pytest.raises(SourceImageError):
            image.read()


@pytest.mark.situation("J3", "a folder becomes a link to another one while a job reads it")
@pytest.mark.parametrize("address", ["", "list.txt", "coco.json", "**/*.jpg"])
def test_a_swapped_folder_gives_nothing_away(tmp_path: Path, address: str) -> None:
    folder, secret = tmp_path / "data", tmp_path / "secret"
    for path in (folder / "d", secret):
        path.mkdir(parents=True)
        (path / "a.jpg").write_bytes(path.name.encode())
    (folder / "list.txt").write_text("d/a.jpg\n")
    (folder / "coco.json").write_text(json.dumps({"images": [{"file_name": "d/a.jpg"}]}))
    source = open_source(str(folder / address), is_allowed=permissions.allow_within([str(folder)]))
    assert [image.read() for image in source] == [b"d"]
    (folder / "d").rename(tmp_path / "away")
    (folder / "d").symlink_to(secret)
    for image in source:
        with pytest.raises(SourceImageError):
            image.read()


def open_and_read(path: Path) -> ImageSource:
    source = open_source(str(path))
    for image in source:
        image.read()
    return source


def make_overlapping_zip() -> bytes:
    """Returns a zip archive whose 1,000 entries are the same 20 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(bytes(20_000_000)) + packer.flush()
    sizes = (zlib.crc32(bytes(20_000_000)), len(data), 20_000_000)
    start = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, *sizes, 5, 0) + b"0.jpg" + data
    names = [b"%d.jpg" % n for n in range(1000)]
    head = struct.Struct("<4s6H3L5H2L")
    entries = b"".join(
        head.pack(b"PK\1\2", 20, 20, 0, 8, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, 0) + name for name in names
    )
    return start + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(entries), len(start), 0)


def make_sparse_tar() -> bytes:
    """Returns a tar archive with an endless map of holes."""
    entry = tarfile.TarInfo("a.jpg")
    entry.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    head[482] = 1
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + sum(head[156:]) + 8 * 32)
    more = bytearray(512)
    more[504] = 1
    return bytes(head) + bytes(more) * 40_000


def make_negative_tar() -> bytes:
    """Returns a tar archive whose entry has a size of -512 bytes, so that it is followed by itself."""
    head = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT))
    head[124:136] = (-512).to_bytes(12, "big", signed=True)
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + sum(head[156:]) + 8 * 32)
    return bytes(head) + bytes(1024)


@pytest.mark.situation("J4", "files that would take all memory, never end, or crash a parser")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("deep.json", b'{"images":[' + b"[" * 3_000_000, "nested too deeply"),
        ("keys.json", b'{"images":[' + b'{"a":' * 1_000_000, "nested too deeply"),
        ("digits.json", b'{"images":[{"id":' + b"9" * 1_000_000 + b',"file_name":"a.jpg"}]}', "overflow"),
        ("name.json", b'{"images":[{"file_name":"' + b"x" * 100_000 + b'"}]}', "the limit is 65,536"),
        ("overlap.zip", make_overlapping_zip(), "overlap"),
        ("sparse.tar", make_sparse_tar(), "which is too long"),
        ("negative.tar", make_negative_tar(), "no valid size"),
        ("line.jsonl", b'{"file":"' + b"x" * 2_000_000, "line 1 has more than 1,048,576 characters"),
        ("row.csv", b'file\n"' + b'\n","' * 500_000, "row 2 has more than 1,048,576 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)  # fmt: skip
def test_hostile_files_are_refused_within_a_budget(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=message):
            open_and_read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.situation("J5", "a Parquet file that lies about its sizes ends its own process at most")
def test_a_table_that_crashes_its_reader(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"image": [os.urandom(100) for _ in range(500)]})
    parquet.write_table(table, tmp_path / "t.parquet", compression="snappy")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    for at in range(4, 60):  # the header of the first page, with its sizes
        content[at] = 0xFF
    (tmp_path / "t.parquet").write_bytes(bytes(content))
    try:
        source = open_source(str(tmp_path / "t.parquet"))
    except SourceError:
        return
    for image in source:
        with pytest.raises(SourceImageError):
            image.read()
    source.close()


@pytest.mark.situation("J6", "pipes, devices and folders that are called like images")
def test_what_is_no_file_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "list.txt").write_text("pipe.jpg\nzero.jpg\nfolder.jpg\n")
    for image in open_source(str(tmp_path / "list.txt")):
        with pytest.raises(SourceImageError) as caught:
            image.read()
        assert caught.value.fault is SourceImageFault.BROKEN
