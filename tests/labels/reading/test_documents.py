from pathlib import Path

import pytest

from labels.dataset import DatasetError
from labels.reading import documents
from labels.reading.documents import find_text, load_json, load_xml, read_json_lines


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_elements_have_their_line_and_text(tmp_path: Path) -> None:
    root = load_xml(save(tmp_path / "a.xml", "<a>\n  <!-- x -->\n  <b> one <!-- two -->three </b>\n  <b/>\n</a>"))
    assert [element.sourceline for element in root] == [3, 4]
    assert find_text(root, "b") == "one three"
    assert find_text(root, "c") is None


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>\n<a>&x;</a>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">\n<a/>',
        '<!DOCTYPE a PUBLIC "x" "http://127.0.0.1:9/a.dtd"><a>&x;</a>',
        '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/hostname"> %x;]><a/>',
        "<!DOCTYPE a><a/>",
    ],
)
def test_document_types_are_refused_and_nothing_is_loaded(content: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.xml:1 declares a document type"):
        load_xml(save(tmp_path / "a.xml", content))


def test_entities_in_attributes_do_not_expand(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    content = f'<!DOCTYPE a [<!ENTITY e0 "ha">{entities}]>\n<a b="&e9;"/>'
    with pytest.raises(DatasetError, match="declares a document type"):
        load_xml(save(tmp_path / "a.xml", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not XML"),
        ("<a>\n<b>", r"a\.xml:2 is not XML"),
        ("<a>" * 10_000, "is not XML"),
        (b"<a>\xff</a>", "is not XML"),
        (b'<?xml version="1.0" encoding="nothing"?><a/>', "is not XML"),
        ("<a>\0</a>", "is not XML"),
    ],
)
def test_broken_xml_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        load_xml(save(tmp_path / "a.xml", content))


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for load in (load_xml, load_json, lambda path: list(read_json_lines(path))):
        with pytest.raises(DatasetError, match="cannot be read: No such file"):
            load(tmp_path / "missing")


def test_each_broken_line_has_its_own_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n\n{"a"\n\xff\n' + b"[" * 100_000 + b"\n2\n")
    lines = list(read_json_lines(path))
    assert [number for number, _, _ in lines] == [1, 3, 4, 5, 6]
    assert [value for _, value, _ in lines] == [{"a": 1}, None, None, None, 2]
    assert [problem.split(":")[0] for _, _, problem in lines] == [
        "",
        "it is not JSON",
        "it is not UTF-8 text",
        "it is JSON that cannot be read",
        "",
    ]


def test_csv_rows_have_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffname, text \r\na,"x\r\ny"\r\n\r\nb,"1,2"\r\nc\r\n'.encode())
    assert list(documents.read_csv(path)) == [
        (2, {"name": "a", "text": "x\r\ny"}, ""),
        (5, {"name": "b", "text": "1,2"}, ""),
        (6, {}, "it has 1 cells for 2 columns; a text with a comma needs quotes"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'a,b\n1,"2', r"a.csv:2 is not CSV"),
        (b'a,b\n"1"2,3\n', r"a.csv:2 is not CSV"),
        (b"a\n\xff\n", "is not UTF-8 text"),
        (b"a\n" + b"x" * (1 << 24) + b"y\n", "is not CSV: field larger than field limit"),
    ],
)
def test_broken_csv_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        list(documents.read_csv(path))


def test_an_empty_csv_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    assert list(documents.read_csv(tmp_path / "a.csv")) == []


def test_yaml_scalars_are_text_as_written() -> None:
    text = "names: [yes, 007, null, 1e3, 2026-01-01, ~, 'on', 0x1F, 1_000]\npath:\n1: !!python/name:os.system x\n"
    assert documents.parse_yaml(text) == {
        "names": ["yes", "007", "null", "1e3", "2026-01-01", "~", "on", "0x1F", "1_000"],
        "path": "",
        "1": "x",
    }
