import json
import tempfile
from pathlib import Path

import numpy as np
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Quad
from tests.labels.samples import boxes, category, datasets, example, export, near, polygons, quads, some

KEYS = {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}


def expected(label: TracedAnnotation, group: int) -> list[tuple[object, ...]]:
    note = label.annotation
    described = "\n".join(filter(None, [note.label if isinstance(note, Quad) else "", label.review]))
    rings = [note.box] if isinstance(note, Box) else [note.quad] if isinstance(note, Quad) else note.polygons
    kind = "rectangle" if isinstance(note, Box) else "polygon"
    grouped = group if len(rings) > 1 else None
    return [(category(note), kind, grouped, described, note.score, near(ring)) for ring in rings]


@some
@given(datasets(st.one_of(boxes(), quads(), polygons())))
def test_by_labelmes_own_reading_rules(pictures: list[LabeledImage]) -> None:
    """As labelme's label file is loaded: these keys, types and lengths, the picture beside it and of that size."""
    with tempfile.TemporaryDirectory() as folder:
        export("labelme", pictures, Path(folder, "out"))
        files = {path.name.split(" ")[0]: path for path in Path(folder, "out").rglob("*.json")}
        assert len(files) == len(pictures)
        for picture in pictures:
            path = files[picture.name.split("/")[-1].split(" ")[0]]
            document = json.loads(path.read_text(encoding="utf-8"))
            assert document.keys() == KEYS
            assert (path.parent / document["imagePath"]).is_file()
            assert document["imageData"] is None
            assert (document["imageWidth"], document["imageHeight"]) == (picture.width, picture.height)
            for shape in document["shapes"]:
                assert all(isinstance(shape[key], str) for key in ("label", "shape_type", "description"))
                assert shape["points"]
                assert all(len(point) == 2 for point in shape["points"])
                assert shape["flags"] == {}
                assert len(shape["points"]) == 2 or shape["shape_type"] == "polygon"
            said = [
                (
                    s["label"],
                    s["shape_type"],
                    s["group_id"],
                    s["description"],
                    s.get("score"),
                    near(v for point in s["points"] for v in point),
                )
                for s in document["shapes"]
            ]
            assert said == [row for i, label in enumerate(picture.traces, start=1) for row in expected(label, i)]


@some
@given(datasets(boxes(), folders=False))
def test_supervision_reads_every_box(pictures: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("labelme", pictures, Path(folder, "out"))
        dataset = sv.DetectionDataset.from_labelme(folder + "/out", folder + "/out")
        found = {Path(path).name.split(" ")[0]: detections for path, _, detections in dataset}
        for picture in pictures:
            detections = found[picture.name.split(" ")[0]]
            notes = [label.annotation for label in picture.traces]
            assert [dataset.classes[i] for i in detections.class_id] == [category(note) for note in notes]
            np.testing.assert_allclose(detections.xyxy, np.array([n.box for n in notes]).reshape(-1, 4), atol=0.01)


def test_supervision_takes_the_rings_of_one_thing_for_one(tmp_path: Path) -> None:
    export(
        "labelme",
        [LabeledImage.from_traces("1.png", 640, 480, example()[0].traces, example()[0].read, sha256="0")],
        tmp_path / "out",
    )
    dataset = sv.DetectionDataset.from_labelme(str(tmp_path / "out"), str(tmp_path / "out"))
    _, _, detections = next(iter(dataset))
    assert sorted(dataset.classes[i] for i in detections.class_id) == ["cat", "cat", "object", "text"]
