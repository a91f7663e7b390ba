"""The images that a list names."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from server.jobs.sources import ImageSource, SourceError, SourceImageError, SourceImageFault, open_source

WriteFiles = Callable[..., Path]
ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def test_a_text_file_has_a_path_in_each_line(write_files: WriteFiles, read_all: ReadAll, tmp_path: Path) -> None:
    folder = write_files("a.jpg", "d/b", "../c.jpg")
    lines = ["a.jpg", "", "  d/b  ", "gone.jpg", "../c.jpg", str(folder / "a.jpg"), "d\\b", "d"]
    (folder / "list.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    source = open_source(str(folder / "list.txt"))
    absolute = str(folder / "a.jpg").lstrip("/")
    assert read_all(source) == {
        "a.jpg": b"a.jpg",
        "d/b": b"d/b",
        "gone.jpg": SourceImageFault.MISSING,
        "c.jpg": b"../c.jpg",
        absolute: b"a.jpg",
        "d/b~2": b"d/b",
        "d": SourceImageFault.BROKEN,
    }
    with pytest.raises(SourceImageError, match="no such file"):
        source[2].read()


def test_repeated_rows_are_skipped(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg", "b.jpg")
    (folder / "list.txt").write_text("a.jpg\nb.jpg\n./a.jpg\nb.jpg\n")
    source = open_source(str(folder / "list.txt"))
    assert source.names == ["a.jpg", "b.jpg"]
    assert source.notes == ("2 rows name an image that an earlier row names; they are skipped",)


def test_a_missing_file_does_not_change_the_fingerprint(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg")
    (folder / "list.txt").write_text("a.jpg\nb.jpg\n")
    before = open_source(str(folder / "list.txt"))
    assert read_all(before)["b.jpg"] is SourceImageFault.MISSING
    write_files("b.jpg")
    after = open_source(str(folder / "list.txt"))
    assert read_all(after) == {"a.jpg": b"a.jpg", "b.jpg": b"b.jpg"}
    assert before.fingerprint == after.fingerprint
    (folder / "list.txt").write_text("b.jpg\na.jpg\n")
    assert open_source(str(folder / "list.txt")).fingerprint != after.fingerprint


@pytest.mark.parametrize("column", ["file", "path", "file_name", "image", "url", " File_Name "])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_files_of_each_delimiter(write_files: WriteFiles, read_all: ReadAll, column: str, delimiter: str) -> None:
    folder = write_files("a.jpg", 'line\nend "q",;\t.jpg')
    rows = [("id", column), ("1", "a.jpg"), ("2", '"line\nend ""q"",;\t.jpg"'), ("3", ""), ("4",)]
    with (folder / "list.csv").open("w", newline="") as file:
        file.write("\n".join(delimiter.join(row) for row in rows) + "\n\n")
    assert read_all(open_source(str(folder / "list.csv"))) == {
        "a.jpg": b"a.jpg",
        'line\nend "q",;\t.jpg': b'line\nend "q",;\t.jpg',
        "row 4": SourceImageFault.MISSING,
        "row 5": SourceImageFault.MISSING,
    }


def test_json_lines_files(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "a.jpg", "text": "x"}\n\n{"file_name": null}\n{"file_name": "\\u0000.jpg"}'
    )
    assert read_all(open_source(str(folder / "metadata.jsonl"))) == {
        "a.jpg": b"a.jpg",
        "row 3": SourceImageFault.MISSING,
        "\ufffd.jpg": SourceImageFault.MISSING,
    }


def test_urls_and_paths_in_one_list(write_files: WriteFiles, read_all: ReadAll, web: str) -> None:
    folder = write_files("a.jpg", "b c.jpg", below=".")
    lines = [
        f"{web}/a.jpg",
        f"{web}/b%20c.jpg?signature=1",
        f"{web}/b%20c.jpg?signature=2",
        f"{web}/to/a.jpg",
        f"{web}/gone.jpg",
        "http://127.0.0.1:1/x.jpg",
        "http://[half/x.jpg",
        "nothing://x/y.jpg",
        "a.jpg",
        (folder / "a.jpg").as_uri(),
    ]
    (folder / "list.txt").write_text("\n".join(lines))
    assert list(read_all(open_source(str(folder / "list.txt"))).items()) == [
        ("127.0.0.1/a.jpg", b"a.jpg"),
        ("127.0.0.1/b c.jpg", b"b c.jpg"),
        ("127.0.0.1/b c~2.jpg", b"b c.jpg"),
        ("127.0.0.1/to/a.jpg", b"a.jpg"),
        ("127.0.0.1/gone.jpg", SourceImageFault.MISSING),
        ("127.0.0.1/x.jpg", SourceImageFault.UNREACHABLE),
        ("http:/[half/x.jpg", SourceImageFault.UNREACHABLE),
        ("x/y.jpg", SourceImageFault.UNREACHABLE),
        ("a.jpg", b"a.jpg"),
        (str(folder / "a.jpg").lstrip("/"), b"a.jpg"),
    ]


def test_every_row_and_redirect_must_be_allowed(write_files: WriteFiles, read_all: ReadAll, web: str) -> None:
    folder = write_files("list/a.jpg", "secret.jpg", below=".")
    lines = ["a.jpg", "../secret.jpg", f"{web}/secret.jpg", f"{web}/to/secret.jpg", "memory://x/y.jpg"]
    (folder / "list" / "list.txt").write_text("\n".join(lines))
    (folder / "list" / "link.jpg").symlink_to("../secret.jpg")

    def is_allowed(address: str) -> bool:
        return address.startswith((f"{folder}/list/", f"{web}/to/"))

    assert list(read_all(open_source(str(folder / "list" / "list.txt"), is_allowed=is_allowed)).values()) == [
        b"list/a.jpg",
        *[SourceImageFault.REFUSED] * 4,
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("readme.txt", b"Dear all,\n\nplease see below.\n", "is not a list of existing images.*'Dear all,'"),
        ("blank.txt", b"\n \n\n", "names no image"),
        ("gone.txt", b"gone.jpg\nalso/gone.jpg\n", "none of its 2 rows names a file in"),
        ("nothing.txt", b"", "0 bytes"),
        ("utf16.txt", "a.jpg\n".encode("utf-16"), "UTF-16, as PowerShell"),
        ("latin.txt", "größe.jpg\n".encode("latin-1"), "UTF-8"),
        ("long.txt", b"x" * 100_000, "more than 65,536 characters"),
        ("list.csv", b"id,name\n1,a.jpg\n", "the columns are 'id', 'name'; rename one of them to file_name"),
        ("list.csv", b"file\n", "names no image"),
        ("list.csv", b'file\n"open\n', "cannot be read"),
        ("list.jsonl", b'{"file": "a.jpg"}\n{"file"\n', "line 2 is not JSON"),
        ("list.jsonl", b"[1]\n", "not a JSON object"),
        ("list.jsonl", b"[" * 50_000, "not JSON"),
        ("list.jsonl", b'{"file": "a.jpg"}\n\n{"x": 1}', "list.jsonl: line 3: no column.* are 'x'"),
        ("list.csv", b"file\n" + b'"' + b'\n","' * 400_000, "row 2 has more than 1,048,576 characters"),
        ("program", b"\x7fELF\0\0", "neither an image, an archive"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c...", "use .zip"),
    ],
)
def test_a_file_that_is_not_a_list_is_reported(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / name))


def test_memory_holds_only_the_names(tmp_path: Path) -> None:
    count = 10_000
    (tmp_path / "00000000.jpg").touch()
    (tmp_path / "list.txt").write_text("".join(f"{number:08}.jpg\n" for number in range(count)))
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"file": f"{n:08}.jpg"}) + "\n" for n in range(count)))
    for name in ("list.txt", "list.jsonl"):
        tracemalloc.start()
        try:
            source = open_source(str(tmp_path / name))
            current = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert len(source) == count
        assert current < 180 * count
