import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from server.jobs.sources import ImageSource, SourceError, SourceImageFault, open_source

pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
parquet = pytest.importorskip("pyarrow.parquet")

Read = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (8, 6), (shade, 0, 0))


def shades(found: dict[str, bytes | SourceImageFault]) -> list[int]:
    pixels = [Image.open(io.BytesIO(data)).getpixel((0, 0)) for data in found.values() if isinstance(data, bytes)]
    return [pixel[0] for pixel in pixels if isinstance(pixel, tuple)]


def dataset(*numbers: int) -> "datasets.Dataset":
    return datasets.Dataset.from_list([{"label": str(n), "image": picture(n)} for n in numbers])


def test_datasets_saved_to_disk(tmp_path: Path, read: Read) -> None:
    datasets.DatasetDict(train=dataset(1, 2, 3), test=dataset(9, 8)).save_to_disk(tmp_path / "saved")
    source = open_source(str(tmp_path / "saved"))
    assert source.names == [
        *[f"test/data-00000-of-00001/0000000{n}.png" for n in range(2)],
        *[f"train/data-00000-of-00001/0000000{n}.png" for n in range(3)],
    ]
    assert shades(read(source)) == [9, 8, 1, 2, 3]
    assert shades(read(open_source(str(tmp_path / "saved" / "train" / "data-00000-of-00001.arrow")))) == [1, 2, 3]


def test_parquet_as_datasets_writes_it(tmp_path: Path, read: Read) -> None:
    for number in range(3):
        dataset(*range(number * 10, number * 10 + 10)).to_parquet(tmp_path / "data" / f"train-{number}-of-3.parquet")
    source = open_source(str(tmp_path))
    assert (len(source), source.names[11]) == (30, "data/train-1-of-3/00000001.png")
    assert shades(read(source)) == list(range(30))
    one = open_source(str(tmp_path / "data" / "train-1-of-3.parquet"))
    assert (shades(read(one)), one.names[0]) == (list(range(10, 20)), "train-1-of-3/00000000.png")


def test_an_imagefolder_is_a_folder_of_pictures(tmp_path: Path, read: Read) -> None:
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,x\n1.png,y\n")
    dataset(7).to_parquet(tmp_path / "metadata.parquet")
    loaded = datasets.load_dataset(
        "imagefolder", data_files=str(tmp_path / "*.png"), split="train", cache_dir=tmp_path / "c"
    )
    source = open_source(str(tmp_path), exclude=tmp_path / "c")
    assert source.names == ["0.png", "1.png"]
    assert shades(read(source)) == [image.getpixel((0, 0))[0] for image in loaded["image"]] == [0, 1]


def written(path: Path, values: list[object], group: int = 1000, name: str = "image") -> Path:
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    kind = kind if not values or isinstance(values[0], dict | None) else pyarrow.binary()
    table = pyarrow.table({"id": list(range(len(values))), name: pyarrow.array(values, kind)})
    parquet.write_table(table, path, row_group_size=group)
    return path


def test_paths_name_rows_and_lead_to_files(tmp_path: Path, read: Read) -> None:
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
    assert read(open_source(str(written(tmp_path / "t.parquet", values)))) == {
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
    refused = read(open_source(str(tmp_path / "t.parquet"), is_allowed=lambda path: path.endswith(".parquet")))
    assert (refused["t/cat.jpg"], refused["t/beside.jpg"]) == (b"1", SourceImageFault.REFUSED)


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_rows_in_any_order(tmp_path: Path, group: int) -> None:
    values: list[object] = [b"\xff\xd8" + bytes([n]) for n in range(150)]
    source = open_source(str(written(tmp_path / "t.parquet", values, group, "jpg")))
    assert source.names[149] == "t/00000149.jpg"
    order = [*range(150), *random.Random(group).sample(range(150), 150), *range(149, 0, -1)]
    assert all(source[n].read() == values[n] for n in order)
    source.close()
    assert source[3].read() == values[3]


def test_the_fingerprint_tells_a_change(tmp_path: Path) -> None:
    first = open_source(str(written(tmp_path / "t.parquet", [b"1", b"2"]))).fingerprint
    assert open_source(str(tmp_path / "t.parquet")).fingerprint == first
    second = open_source(str(written(tmp_path / "t.parquet", [b"1", b"2", b"3"]))).fingerprint
    third = open_source(str(written(tmp_path / "t.parquet", [b"1", b"2", bytes(range(100))]))).fingerprint
    assert len({first, second, third}) == 3


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"id": [1], "text": ["x"]}), tmp_path / "text.parquet")
    dataset(1).cast_column("image", datasets.Image(decode=False)).to_parquet(tmp_path / "whole.parquet")
    sound = {"id": [1], "sound": pyarrow.array([{"bytes": b"x", "path": None}])}
    features = b'{"info": {"features": {"sound": {"_type": "Audio"}}}}'
    parquet.write_table(
        pyarrow.table(sound).replace_schema_metadata({b"huggingface": features}), tmp_path / "sound.parquet"
    )
    written(tmp_path / "none.parquet", [])
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.arrow").write_bytes(b"\xff\xff\xff\xff junk")
    messages = {
        "text.parquet": "no column of pictures: it has 'id', 'text'",
        "sound.parquet": "no column of pictures: it has 'id', 'sound'",
        "none.parquet": "no pictures",
        "cut.parquet": "cannot be read",
        "cut.arrow": "cannot be read",
    }
    for name, message in messages.items():
        with pytest.raises(SourceError, match=message):
            open_source(str(tmp_path / name))
