import tempfile
from pathlib import Path

import datasets as hf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon, Quad, Text
from tests.labels.samples import (
    HEIGHT,
    WIDTH,
    boxes,
    captions,
    category,
    datasets,
    example,
    export,
    near,
    polygons,
    quads,
    some,
)


def load(folder: Path, cache: Path) -> hf.Dataset:
    return hf.load_dataset(str(folder), split="train", cache_dir=str(cache))


def expected(label: TracedAnnotation) -> tuple[object, ...]:
    note = label.annotation
    rings = [note.quad] if isinstance(note, Quad) else note.polygons if isinstance(note, Polygon) else []
    if isinstance(note, Box):
        box = note.box
    else:
        values = [v for ring in rings for v in ring]
        box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    text = note.label if isinstance(note, Quad) else None
    return note.kind, category(note), text, near(box), [near(r) for r in rings], note.score, label.review


def check(pictures: list[LabeledImage], rows: hf.Dataset, key: str) -> None:
    found = {row["name"]: row for row in rows}
    assert len(rows) == len(found) == len(pictures)
    for picture in pictures:
        row = found[picture.name]
        assert (row["width"], row["height"]) == (picture.width, picture.height)
        assert row[key].size == (WIDTH, HEIGHT) if key == "image" else row[key] == picture.name
        said = [
            (
                o["kind"],
                o["category"],
                o["text"],
                near(o["box"]),
                [near(r) for r in o["polygons"]],
                o["score"],
                o["review"],
            )
            for o in row["objects"]
        ]
        assert said == [expected(label) for label in picture.traces if not isinstance(label.annotation, Text)]
        spoken = [(caption["text"], caption["score"]) for caption in row["captions"]]
        notes = [label.annotation for label in picture.traces]
        assert spoken == [(note.label, note.score) for note in notes if isinstance(note, Text)]


@settings(some, max_examples=6)
@given(datasets(st.one_of(boxes(), quads(), polygons(), captions())))
def test_datasets_loads_every_label(pictures: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("huggingface", pictures, Path(folder, "out"))
        check(pictures, load(Path(folder, "out"), Path(folder, "cache")), "image")


@pytest.mark.parametrize("pictures", [example(), example()[1:]], ids=["labels", "none"])
def test_without_pictures_there_are_their_names(pictures: list[LabeledImage], tmp_path: Path) -> None:
    export("huggingface", pictures, tmp_path / "out", copy_images=False)
    check(pictures, load(tmp_path / "out", tmp_path / "cache"), "file_name")


def test_folders_called_test_are_no_split(tmp_path: Path) -> None:
    pictures = [
        LabeledImage.from_traces(f"{name}/1.png", WIDTH, HEIGHT, (), example()[0].read, sha256="0")
        for name in ("test", "train")
    ]
    export("huggingface", pictures, tmp_path / "out")
    assert len(load(tmp_path / "out", tmp_path / "cache")) == 2
