"""The images of a zip archive."""

import random
import struct
import threading
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.jobs.sources import ImageSource, SourceError, SourceImageError, SourceImageFault, open_source
from server.jobs.sources.source import MAX_FILE_BYTES

ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_images_are_in_the_order_of_the_archive(tmp_path: Path, read_all: ReadAll, method: int) -> None:
    files = {"b/c.jpg": b"c" * 1000, "a.PNG": b"", "ü/☃\n.webp": bytes(range(256)) * 10}
    junk = {"notes.txt": b"x", "__MACOSX/b/._c.jpg": b"x", ".git/x.png": b"x", "folder.jpg/": b""}
    source = open_source(str(pack(tmp_path / "a.zip", files | junk, method)))
    assert list(read_all(source).items()) == list(files.items())
    assert source.fingerprint == open_source(str(tmp_path / "a.zip")).fingerprint
    assert not [path for path in tmp_path.iterdir() if path.name != "a.zip"]


def test_an_archive_is_recognized_by_its_content(tmp_path: Path, read_all: ReadAll) -> None:
    pack(tmp_path / "photos", {"a.jpg": b"1"})
    assert read_all(open_source(str(tmp_path / "photos"))) == {"a.jpg": b"1"}
    whole = (tmp_path / "photos").read_bytes()
    (tmp_path / "b.zip").write_bytes(b"PK\3\4 something before" + whole)
    assert read_all(open_source(str(tmp_path / "b.zip"))) == {"a.jpg": b"1"}


def test_unsafe_paths_are_refused(tmp_path: Path, read_all: ReadAll) -> None:
    names = ["../../x.jpg", "/etc/y.jpg", "C:/z.jpg", "..\\..\\w.jpg", "d/../../v.jpg"]
    pack(tmp_path / "a.zip", dict.fromkeys(names, b"x") | {"good.jpg": b"g", "e\\f.jpg": b"f"})
    found = read_all(open_source(str(tmp_path / "a.zip")))
    refused = dict.fromkeys(["x.jpg", "etc/y.jpg", "z.jpg", "w.jpg", "d/v.jpg"], SourceImageFault.REFUSED)
    assert found == refused | {"good.jpg": b"g", "e/f.jpg": b"f"}


def test_links_and_other_methods_are_refused(tmp_path: Path, read_all: ReadAll) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("x.jpg", b"x", zipfile.ZIP_LZMA)
        archive.writestr("y.jpg", b"y")
    found = read_all(open_source(str(tmp_path / "a.zip")))
    assert found == {"link.jpg": SourceImageFault.REFUSED, "x.jpg": SourceImageFault.BROKEN, "y.jpg": b"y"}


def test_equal_names_are_made_unique(tmp_path: Path, read_all: ReadAll) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (b"1", b"2", b"3"):
            archive.writestr("a.jpg", data)
    assert read_all(open_source(str(tmp_path / "a.zip"))) == {"a.jpg": b"1", "a~2.jpg": b"2", "a~3.jpg": b"3"}


def test_encrypted_entries_are_faults(tmp_path: Path, read_all: ReadAll) -> None:
    whole = bytearray(pack(tmp_path / "a.zip", {"a.jpg": b"1", "b.jpg": b"2"}).read_bytes())
    at = whole.index(b"PK\1\2")
    whole[at + 8] |= 1
    (tmp_path / "a.zip").write_bytes(whole)
    source = open_source(str(tmp_path / "a.zip"))
    assert read_all(source) == {"a.jpg": SourceImageFault.ENCRYPTED, "b.jpg": b"2"}
    with pytest.raises(SourceImageError, match="password"):
        source[0].read()


def test_decompression_bombs_are_rejected(tmp_path: Path, read_all: ReadAll) -> None:
    """One declares its size, and one declares a smaller size."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("huge.jpg", "w") as entry:
            for _ in range(MAX_FILE_BYTES // (1 << 24) + 1):
                entry.write(bytes(1 << 24))
        archive.writestr("lies.jpg", bytes(1 << 24))
        archive.writestr("good.jpg", b"g")
    whole = bytearray((tmp_path / "a.zip").read_bytes())
    at = whole.index(b"PK\1\2", whole.index(b"PK\1\2") + 4)
    struct.pack_into("<L", whole, at + 24, 10)
    (tmp_path / "a.zip").write_bytes(whole)
    source = open_source(str(tmp_path / "a.zip"))
    tracemalloc.start()
    try:
        assert read_all(source) == {
            "huge.jpg": SourceImageFault.TOO_LARGE,
            "lies.jpg": SourceImageFault.TOO_LARGE,
            "good.jpg": b"g",
        }
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_memory_holds_only_the_names(tmp_path: Path) -> None:
    """With zip64 counts, as for more than 65,535 entries."""
    count = 10_000
    names = [b"folder/%08d.jpg" % number for number in range(count)]
    local = b"PK\3\4" + bytes(22) + struct.pack("<2H", 19, 0)
    entry = struct.Struct("<4s6H3L5H2L")
    with (tmp_path / "a.zip").open("wb") as file:
        for name in names:
            file.write(local + name)
        start = file.tell()
        for number, name in enumerate(names):
            place = number * (len(local) + 19)
            file.write(entry.pack(b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 19, 0, 0, 0, 0, 0, place) + name)
        end = file.tell()
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, end - start, start))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert len(archive.namelist()) == count
    tracemalloc.start()
    try:
        source = open_source(str(tmp_path / "a.zip"))
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(source), source[-1].name, source[-1].read()) == (count, "folder/00009999.jpg", b"")
    assert current < 180 * count
    assert peak < 300 * count


def test_entries_with_64_bit_sizes_are_read(tmp_path: Path, read_all: ReadAll) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as entry:
        entry.write(b"abc")
    assert read_all(open_source(str(tmp_path / "a.zip"))) == {"a.jpg": b"abc"}


def test_a_broken_entry_does_not_affect_others(tmp_path: Path, read_all: ReadAll) -> None:
    noise = random.Random(1).randbytes(1000)
    whole = bytearray(pack(tmp_path / "a.zip", {"a.jpg": noise, "b.jpg": b"2", "c.jpg": b"3"}).read_bytes())
    whole[500] ^= 1
    at = whole.index(b"PK\3\4", 900)
    whole[at] = 0
    (tmp_path / "a.zip").write_bytes(whole)
    assert read_all(open_source(str(tmp_path / "a.zip"))) == {
        "a.jpg": SourceImageFault.BROKEN,
        "b.jpg": SourceImageFault.BROKEN,
        "c.jpg": b"3",
    }


def test_an_archive_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    whole = pack(tmp_path / "a.zip", {f"{n}.jpg": bytes(500) for n in range(20)}, zipfile.ZIP_STORED).read_bytes()
    for kept in (10, 5000, len(whole) - 1):
        (tmp_path / "cut.zip").write_bytes(whole[:kept])
        with pytest.raises(SourceError, match="not a complete zip archive"):
            open_source(str(tmp_path / "cut.zip"))
    (tmp_path / "hole.zip").write_bytes(whole[:2000] + whole[4000:])
    with pytest.raises(SourceError, match="2,000 bytes are missing"):
        open_source(str(tmp_path / "hole.zip"))
    pack(tmp_path / "junk.zip", {"notes.txt": b"x"})
    pack(tmp_path / "none.zip", {})
    for name in ("junk.zip", "none.zip"):
        with pytest.raises(SourceError, match="no images"):
            open_source(str(tmp_path / name))


def test_a_closed_source_cannot_be_read(tmp_path: Path, read_all: ReadAll) -> None:
    source = open_source(str(pack(tmp_path / "a.zip", {"a.jpg": b"1"})))
    source.close()
    assert set(read_all(source).values()) == {SourceImageFault.UNREACHABLE}


def test_several_threads_read_at_once(tmp_path: Path) -> None:
    files = {f"{n}.jpg": random.Random(n).randbytes(5000) for n in range(40)}
    source = open_source(str(pack(tmp_path / "a.zip", files)))
    barrier = threading.Barrier(4)

    def read_in_thread(_: int) -> dict[str, bytes]:
        barrier.wait(10)
        return {image.name: image.read() for image in source}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_in_thread, range(4))) == [files] * 4


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6), st.integers(0, 60))
def test_damaged_archives_raise_only_source_errors(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    whole = bytearray(pack(path, {"a.jpg": b"1" * 50, "../b.jpg": b"2", "ü.png": b"3"}).read_bytes())
    for at, value in changes:
        whole[at % len(whole)] = value
    path.write_bytes(whole[: len(whole) - cut])
    try:
        source = open_source(str(path))
    except SourceError:
        return
    for image in source:
        try:
            image.read()
        except SourceImageError as error:
            assert error.fault  # noqa: PT017
