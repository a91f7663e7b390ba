import io
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Text

CAT, DOG = Box(label="cat", box=(1, 1, 5, 5)), Box(label="dog", box=(2, 2, 6, 6))


def test_annotations_of_a_dataset_have_an_empty_trace() -> None:
    image = LabeledImage("a.png", "labels.json:1", 9, 9, (CAT, DOG))
    assert image.traces == ()
    assert image.traced_annotations == (TracedAnnotation(CAT), TracedAnnotation(DOG))
    assert image.size == (9, 9)


def test_annotations_and_traces_always_agree() -> None:
    trace = TracedAnnotation(CAT, "step", review="small")
    image = LabeledImage.from_traces("a.png", 9, 9, [trace], sha256="ab")
    assert image.annotations == (CAT,)
    assert image.traced_annotations == image.traces == (trace,)
    assert image.with_annotations(DOG).traced_annotations == (TracedAnnotation(DOG),)
    assert image.with_traces(TracedAnnotation(DOG, "other")).annotations == (DOG,)
    with pytest.raises(ValueError, match="with_annotations"):
        replace(image, annotations=(DOG,))


def test_the_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (9, 9), "red").save(path)
    image = LabeledImage("a.jpg", "", 9, 9, (), ImageFile(path))
    assert image.read() == path.read_bytes()
    assert image.open().size == (9, 9)
    assert pickle.loads(pickle.dumps(image)) == image


def test_a_drawn_image_is_encoded_as_png() -> None:
    image = LabeledImage("a", "", 9, 9, (Text(label="red"),), lambda: Image.new("RGB", (9, 9), "red"))
    assert Image.open(io.BytesIO(image.read())).format == "PNG"


def test_an_image_without_a_file_cannot_be_read() -> None:
    image = LabeledImage("a", "", 9, 9)
    with pytest.raises(FileNotFoundError, match="no file"):
        image.read()
    with pytest.raises(FileNotFoundError, match="no file"):
        image.open()
