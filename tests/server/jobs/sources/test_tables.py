"""The images of Parquet and Arrow files."""

import io
import random
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

from server.jobs.sources import (
    ImageSource,
    SourceError,
    SourceImageError,
    SourceImageFault,
    open_source,
    table_process,
    tables,
)
from server.jobs.sources.tables import TableSource

pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
parquet = pytest.importorskip("pyarrow.parquet")

ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def make_image(shade: int) -> Image.Image:
    return Image.new("RGB", (8, 6), (shade, 0, 0))


def get_shades(content: dict[str, bytes | SourceImageFault]) -> list[int]:
    pixels = [Image.open(io.BytesIO(data)).getpixel((0, 0)) for data in content.values() if isinstance(data, bytes)]
    return [pixel[0] for pixel in pixels if isinstance(pixel, tuple)]


def make_dataset(*numbers: int) -> "datasets.Dataset":
    return datasets.Dataset.from_list([{"label": str(n), "image": make_image(n)} for n in numbers])


def test_a_dataset_saved_to_disk(tmp_path: Path, read_all: ReadAll) -> None:
    datasets.DatasetDict(train=make_dataset(1, 2, 3), test=make_dataset(9, 8)).save_to_disk(tmp_path / "saved")
    source = open_source(str(tmp_path / "saved"))
    assert source.names == [
        *[f"test/data-00000-of-00001/0000000{n}.png" for n in range(2)],
        *[f"train/data-00000-of-00001/0000000{n}.png" for n in range(3)],
    ]
    assert get_shades(read_all(source)) == [9, 8, 1, 2, 3]
    assert get_shades(read_all(open_source(str(tmp_path / "saved" / "train" / "data-00000-of-00001.arrow")))) == [
        1,
        2,
        3,
    ]


def test_parquet_files_of_datasets(tmp_path: Path, read_all: ReadAll) -> None:
    for number in range(3):
        make_dataset(*range(number * 10, number * 10 + 10)).to_parquet(
            tmp_path / "data" / f"train-{number}-of-3.parquet"
        )
    source = open_source(str(tmp_path))
    assert (len(source), source.names[11]) == (30, "data/train-1-of-3/00000001.png")
    assert get_shades(read_all(source)) == list(range(30))
    one = open_source(str(tmp_path / "data" / "train-1-of-3.parquet"))
    assert (get_shades(read_all(one)), one.names[0]) == (list(range(10, 20)), "train-1-of-3/00000000.png")


def test_an_imagefolder_is_a_folder_of_images(tmp_path: Path, read_all: ReadAll) -> None:
    for number in range(2):
        make_image(number).save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,x\n1.png,y\n")
    make_dataset(7).to_parquet(tmp_path / "metadata.parquet")
    loaded = datasets.load_dataset(
        "imagefolder", data_files=str(tmp_path / "*.png"), split="train", cache_dir=tmp_path / "c"
    )
    source = open_source(str(tmp_path), exclude=tmp_path / "c")
    assert source.names == ["0.png", "1.png"]
    assert get_shades(read_all(source)) == [image.getpixel((0, 0))[0] for image in loaded["image"]] == [0, 1]


def write_table(path: Path, values: list[object], group: int = 1000, name: str = "image") -> Path:
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    kind = kind if not values or isinstance(values[0], dict | None) else pyarrow.binary()
    table = pyarrow.table({"id": list(range(len(values))), name: pyarrow.array(values, kind)})
    parquet.write_table(table, path, row_group_size=group)
    return path


def test_paths_name_images_and_refer_to_files(tmp_path: Path, read_all: ReadAll) -> None:
    (tmp_path / "beside.jpg").write_bytes(b"beside")
    values: list[object] = [
        {"bytes": b"1", "path": "cat.jpg"},
        {"bytes": b"2", "path": "cat.jpg"},
        {"bytes": b"3", "path": "/home/someone/d/../dog.jpg"},
        {"bytes": b"4", "path": "https://example.org/x/owl.jpg"},
        {"bytes": b"5", "path": "../../up.jpg"},
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    assert read_all(open_source(str(write_table(tmp_path / "t.parquet", values)))) == {
        "t/cat.jpg": b"1",
        "t/cat~2.jpg": b"2",
        "t/dog.jpg": b"3",
        "t/owl.jpg": b"4",
        "t/up.jpg": b"5",
        "t/beside.jpg": b"beside",
        "t/gone.jpg": SourceImageFault.MISSING,
        "t/00000007": SourceImageFault.MISSING,
        "t/00000008": SourceImageFault.MISSING,
    }
    refused = read_all(open_source(str(tmp_path / "t.parquet"), is_allowed=lambda path: path.endswith(".parquet")))
    assert (refused["t/cat.jpg"], refused["t/beside.jpg"]) == (b"1", SourceImageFault.REFUSED)


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_rows_are_read_in_any_order(tmp_path: Path, group: int) -> None:
    values: list[object] = [b"\xff\xd8" + bytes([n]) for n in range(150)]
    source = open_source(str(write_table(tmp_path / "t.parquet", values, group, "jpg")))
    assert source.names[149] == "t/00000149.jpg"
    order = [*range(150), *random.Random(group).sample(range(150), 150), *range(149, 0, -1)]
    assert all(source[n].read() == values[n] for n in order)
    source.close()
    assert source[3].read() == values[3]


def test_the_fingerprint_changes_with_the_rows(tmp_path: Path) -> None:
    first = open_source(str(write_table(tmp_path / "t.parquet", [b"1", b"2"]))).fingerprint
    assert open_source(str(tmp_path / "t.parquet")).fingerprint == first
    second = open_source(str(write_table(tmp_path / "t.parquet", [b"1", b"2", b"3"]))).fingerprint
    third = open_source(str(write_table(tmp_path / "t.parquet", [b"1", b"2", bytes(range(100))]))).fingerprint
    assert len({first, second, third}) == 3


def test_a_table_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"id": [1], "text": ["x"]}), tmp_path / "text.parquet")
    make_dataset(1).cast_column("image", datasets.Image(decode=False)).to_parquet(tmp_path / "whole.parquet")
    sound = {"id": [1], "sound": pyarrow.array([{"bytes": b"x", "path": None}])}
    features = b'{"info": {"features": {"sound": {"_type": "Audio"}}}}'
    parquet.write_table(
        pyarrow.table(sound).replace_schema_metadata({b"huggingface": features}), tmp_path / "sound.parquet"
    )
    write_table(tmp_path / "none.parquet", [])
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.arrow").write_bytes(b"\xff\xff\xff\xff junk")
    messages = {
        "text.parquet": "no column of images: its columns are 'id', 'text'",
        "sound.parquet": "no column of images: its columns are 'id', 'sound'",
        "none.parquet": "no images",
        "cut.parquet": "cannot be read",
        "cut.arrow": "cannot be read",
    }
    for name, message in messages.items():
        with pytest.raises(SourceError, match=message):
            open_source(str(tmp_path / name))


def test_a_table_whose_process_ends_is_opened_again(tmp_path: Path) -> None:
    source = open_source(str(write_table(tmp_path / "t.parquet", [b"1", b"2"])))
    assert isinstance(source, TableSource)
    assert source[0].read() == b"1"
    process = find_reader()
    process.suspend()
    threading.Timer(0.1, process.kill).start()  # as the system does when memory runs out
    with pytest.raises(SourceImageError, match="the process that reads it ended"):
        source[1].read()
    assert source[1].read() == b"2"


def find_reader() -> psutil.Process:
    """Returns the only process that reads a table."""
    (process,) = (child for child in psutil.Process().children() if "table_process.py" in " ".join(child.cmdline()))
    return process


def test_an_image_over_the_limit(tmp_path: Path, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_FILE_BYTES", 10)
    source = open_source(str(write_table(tmp_path / "t.parquet", [bytes(11), bytes(10)])))
    assert list(read_all(source).values()) == [SourceImageFault.TOO_LARGE, bytes(10)]


def test_a_table_that_takes_too_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lower limit, so that 100 MB are too much."""
    values = pyarrow.array([[bytes(1_000_000)] * 100], pyarrow.list_(pyarrow.binary()))
    lists = pyarrow.StructArray.from_arrays([pyarrow.array([b"1"]), values], ["bytes", "more"])
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"image": lists}), path, compression="zstd", write_statistics=False)
    limited = Path(table_process.__file__).read_text().replace("MAX_MEMORY = 2 * 1024", "MAX_MEMORY = 128")
    (tmp_path / "limited.py").write_text(limited)
    monkeypatch.setattr(tables, "_PROCESS", tmp_path / "limited.py")
    with pytest.raises(SourceError, match=r"bytes of memory|reads it ended"):
        open_source(str(path))
