"""The images of a tar archive."""

import gzip
import io
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.jobs.sources import ImageSource, SourceError, SourceImageError, SourceImageFault, open_source

ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]
MODES = {".tar": "w", ".tar.gz": "w:gz"}


def make_entry(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def pack(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in files.items():
            archive.addfile(make_entry(name, len(data)), io.BytesIO(data))
        for other in others:
            archive.addfile(other)
    return path


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ""])
def test_images_are_in_the_order_of_the_archive(tmp_path: Path, read_all: ReadAll, suffix: str) -> None:
    long = "d/" * 90 + "x" * 150 + ".jpg"
    files = {"b/c.jpg": b"c" * 1000, "a.PNG": b"", "ü/☃\n.webp": bytes(range(256)) * 10, long: b"long"}
    junk = {"notes.txt": b"x" * 3000, "b/._c.jpg": b"x", ".git/x.png": b"x"}
    path = pack(tmp_path / f"a{suffix}", files | junk, make_entry("folder.jpg", type=tarfile.DIRTYPE))
    source = open_source(str(path))
    assert list(read_all(source).items()) == list(files.items())
    assert source.fingerprint == open_source(str(path)).fingerprint


@pytest.mark.parametrize("suffix", MODES)
def test_unsafe_paths_links_and_devices_are_refused(tmp_path: Path, read_all: ReadAll, suffix: str) -> None:
    links = [
        make_entry("hard.jpg", type=tarfile.LNKTYPE, linkname="good.jpg"),
        make_entry("lost.jpg", type=tarfile.LNKTYPE, linkname="nowhere.jpg"),
        make_entry("soft.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        make_entry("device.jpg", type=tarfile.CHRTYPE),
    ]
    names = ["../../x.jpg", "/etc/y.jpg", "C:\\z.jpg"]
    files = {"good.jpg": b"g"} | dict.fromkeys(names, b"x") | {"./d/e.jpg": b"e"}
    assert read_all(open_source(str(pack(tmp_path / f"a{suffix}", files, *links)))) == {
        "good.jpg": b"g",
        "x.jpg": SourceImageFault.REFUSED,
        "etc/y.jpg": SourceImageFault.REFUSED,
        "z.jpg": SourceImageFault.REFUSED,
        "d/e.jpg": b"e",
        "hard.jpg": b"g",
        "lost.jpg": SourceImageFault.BROKEN,
        "soft.jpg": SourceImageFault.REFUSED,
        "device.jpg": SourceImageFault.REFUSED,
    }


def test_images_of_a_gzipped_archive_are_read_in_any_order(tmp_path: Path) -> None:
    files = {f"{n}.jpg": random.Random(n).randbytes(200_000) for n in range(90)}
    source = open_source(str(pack(tmp_path / "a.tgz", files)))
    order = random.Random(1).sample(range(90), 15)
    assert all(source[i].read() == files[source[i].name] for i in order)


@pytest.mark.parametrize("suffix", MODES)
def test_a_truncated_or_broken_archive_is_reported(tmp_path: Path, suffix: str) -> None:
    files = {f"{n}.jpg": random.Random(n).randbytes(3000) for n in range(20)}
    whole = pack(tmp_path / f"a{suffix}", files).read_bytes()
    for kept in (100, 700, len(whole) // 3, len(whole) // 2 + 1):
        (tmp_path / f"cut{suffix}").write_bytes(whole[:kept])
        with pytest.raises(SourceError, match=r"truncated after \d+ images.*Copy it again"):
            open_source(str(tmp_path / f"cut{suffix}"))
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 4000] = bytes(4000) if suffix != ".tar" else b"x" * 4000
    (tmp_path / f"broken{suffix}").write_bytes(broken)
    with pytest.raises(SourceError, match="is broken or truncated"):
        open_source(str(tmp_path / f"broken{suffix}"))


def test_decompression_bombs_are_rejected(tmp_path: Path, read_all: ReadAll) -> None:
    """An entry over the limit, an archive that expands endlessly, and a name that does."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(make_entry("good.jpg", 1), io.BytesIO(b"g"))
    with (tmp_path / "a.tar").open("r+b") as file:
        file.seek(1024)
        file.write(make_entry("huge.jpg", 1 << 30).tobuf(tarfile.GNU_FORMAT))
        file.truncate(1536 + (1 << 30) + 1024)
    assert read_all(open_source(str(tmp_path / "a.tar"))) == {"good.jpg": b"g", "huge.jpg": SourceImageFault.TOO_LARGE}

    endless = make_entry("endless.jpg", 50 << 30).tobuf(tarfile.GNU_FORMAT)
    named = make_entry("././@LongLink", 5 << 30, type=tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    for begins, message in [(endless, "100 times its size"), (named, "which is too long")]:
        with gzip.open(tmp_path / "b.tar.gz", "wb") as file:
            file.write(begins + bytes(1 << 20))
        tracemalloc.start()
        try:
            with pytest.raises(SourceError, match=message):
                open_source(str(tmp_path / "b.tar.gz"))
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_memory_holds_only_the_names(tmp_path: Path) -> None:
    count = 3_000
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(count):
            archive.addfile(make_entry(f"folder/{number:08}.jpg"))
            archive.members = []  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        source = open_source(str(tmp_path / "a.tar"))
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == count
    assert current < 180 * count
    assert peak < 350 * count


@pytest.mark.parametrize("name", ["none.tar", "junk.tar.gz"])
def test_an_archive_without_images_is_reported(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="no images"):
        open_source(str(pack(tmp_path / name, {"notes.txt": b"x"} if "junk" in name else {})))


def test_a_gzipped_file_that_is_not_a_tar_is_reported(tmp_path: Path) -> None:
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(b"a.jpg\nb.jpg\n"))
    with pytest.raises(SourceError, match="broken or truncated"):
        open_source(str(tmp_path / "list.txt.gz"))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(MODES)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.integers(0, 3000),
)
def test_damaged_archives_raise_only_source_errors(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, changes: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    whole = bytearray(pack(path, {"a.jpg": b"1" * 600, "../b.jpg": b"2", "ü.png": b"3"}).read_bytes())
    for at, value in changes:
        whole[at % min(len(whole), 4096)] = value
    path.write_bytes(whole[: max(1, len(whole) - cut)])
    try:
        source = open_source(str(path))
    except SourceError:
        return
    for image in source:
        try:
            image.read()
        except SourceImageError as error:
            assert error.fault  # noqa: PT017
