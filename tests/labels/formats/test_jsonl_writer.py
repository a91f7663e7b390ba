import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import datasets as hf
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Annotation
from tests.labels.samples import boxes, captions, datasets, example, export, polygons, quads, some

ANNOTATION: TypeAdapter[Annotation] = TypeAdapter(Annotation)


def read(path: Path) -> list[LabeledImage]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return [
        LabeledImage.from_traces(
            traces=[
                TracedAnnotation(**{**label, "annotation": ANNOTATION.validate_python(label["annotation"])})
                for label in row.pop("labels")
            ],
            **row,
        )
        for row in rows
    ]


@some
@given(datasets(st.one_of(boxes(), quads(), polygons(), captions())))
def test_nothing_is_lost(pictures: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = export("jsonl", pictures, Path(folder, "out.jsonl"), copy_images=False)
        assert read(Path(folder, "out.jsonl")) == pictures
        assert report.annotations == sum(len(picture.traces) for picture in pictures)


def test_where_a_label_came_from_is_kept(tmp_path: Path) -> None:
    export("jsonl", example(), tmp_path / "out.jsonl", copy_images=False)
    assert read(tmp_path / "out.jsonl") == example()


def test_names_of_half_a_surrogate_pair_are_kept(tmp_path: Path) -> None:
    pictures = [LabeledImage.from_traces("half \udcff\n\u2028.png", 4, 4, sha256="0")]
    export("jsonl", pictures, tmp_path / "out.jsonl", copy_images=False)
    assert read(tmp_path / "out.jsonl") == pictures


def test_datasets_reads_every_line(tmp_path: Path) -> None:
    export("jsonl", example(), tmp_path / "out.jsonl", copy_images=False)
    cache = str(tmp_path / "cache")
    rows = hf.load_dataset("json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=cache)
    assert [row["name"] for row in rows] == ["a/1.png", "b.png"]
    fields = asdict(example()[0].traces[0]) | {"annotation": None}
    assert {**rows[0]["labels"][0], "annotation": None} == fields
