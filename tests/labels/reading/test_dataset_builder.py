from collections.abc import Callable
from pathlib import Path

import pytest

from labels.dataset import Dataset
from labels.image_files import ImageFile
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.image_draft import ImageDraft
from labels.sample import Sample
from prompts.annotations import Text
from prompts.tasks import find_task

Save = Callable[..., Path]
RING = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]


class Builder:
    """A builder with a cat and a word in each of its images, a and b."""

    def __init__(self, save: Save) -> None:
        self.builder = DatasetBuilder(Path("here"))
        self.a, self.b = (self._add(save(f"{name}.png")) for name in "ab")

    def _add(self, path: Path) -> ImageDraft:
        draft = self.builder.add_image(path.name, path.name, ImageFile(path))
        assert draft is not None
        draft.add(LabelKind.OBJECTS, "x", checks.check_box, "cat", [1, 1, 9, 9], draft.size)
        draft.add(LabelKind.WORDS, "x", checks.check_words, "STOP", [[1, 1, 9, 1, 9, 9, 1, 9]], draft.size)
        return draft

    def build(self) -> Dataset:
        return self.builder.build()

    @property
    def complete(self) -> list[set[str]]:
        return [set(map(str, image.complete)) for image in self.build().images]


ALL = {"objects", "words"}


@pytest.fixture
def builder(save: Save) -> Builder:
    return Builder(save)


def test_a_refused_label_takes_its_kind(builder: Builder) -> None:
    builder.a.refuse_label(LabelKind.WORDS, "x", "broken")
    builder.b.refuse_label(LabelKind.CAPTIONS, "x", "broken")
    assert builder.complete == [{"objects"}, ALL]


def test_what_is_left_out_takes_objects_if_it_has_the_name_of_a_class(builder: Builder) -> None:
    builder.a.leave_out("x", "a point", " cat ")
    for name in ("nose", None, 7, ""):
        builder.b.leave_out("x", "a point", name)
    assert builder.complete == [{"words"}, ALL]


def test_a_class_is_left_out_only_if_it_occurs(builder: Builder) -> None:
    builder.a.leave_out_class("x", "cat")
    builder.b.leave_out_class("x", "text")
    assert builder.complete == [{"words"}, ALL]
    assert len(builder.build().unusable) == 2  # of each build


def test_classes_that_no_description_lists_are_unknown(builder: Builder) -> None:
    builder.a.class_lists += [{"dog"}, {"bird"}]
    builder.b.class_lists += [{"dog"}, {"cat"}]
    assert builder.complete == [{"words"}, ALL]
    assert "whether it shows 'cat' is unknown" in builder.build().unusable[0].reason


def test_labels_of_any_kind_can_be_refused(builder: Builder) -> None:
    builder.a.refuse_all("x", "broken")
    assert builder.complete == [set(), ALL]


def test_files_that_are_not_about_a_kind_do_not_complete_it(builder: Builder) -> None:
    builder.a.covered = {LabelKind.WORDS}
    assert builder.complete == [{"words"}, ALL]


def test_a_note_is_recorded_once(builder: Builder) -> None:
    for source in ("f.json", "f.json", "g.json"):
        builder.builder.note_once(source, "keypoints")
    assert [each.source for each in builder.build().unusable] == ["f.json", "g.json"]


def test_an_outline_is_used_as_far_as_possible(builder: Builder) -> None:
    draft = builder.b
    assert draft.add_outline("whole", "dog", [RING])
    assert draft.add_outline("part", "fox", [[1, 1], RING], [1, 1, 9, 9])
    assert draft.add_outline("box", "cow", [[1, 1]], [1, 1, 9, 9])
    assert draft.add_outline("nothing", "pig", [[1, 1]]) is None
    assert draft.add_outline("nothing", "pig", []) is None
    assert draft.add_outline("label", "", [[1, 1], RING]) is None
    dataset = builder.build()
    assert [(each.kind, each.label) for each in dataset.images[1].annotations[2:]] == [
        ("polygon", "dog"),
        ("polygon", "fox"),
        ("box", "cow"),
    ]
    assert [each.source for each in dataset.unusable] == ["part", "box", "nothing", "nothing", "label"]
    assert builder.complete[1] == {"words"}


def test_repeated_samples_count_once(builder: Builder) -> None:
    samples = [Sample(find_task("<VQA>"), (Text(label=answer),), text="how many?") for answer in ("one", "two", "one")]
    assert [builder.a.add_sample("x", sample) for sample in samples] == [True, True, False]
    assert builder.a.samples == samples[:2]


def test_one_file_is_one_image_under_any_name(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    for path in (tmp_path / "link.png", tmp_path / "." / "a.png"):
        assert builder.builder.add_image("other", "y", ImageFile(path)) is builder.a
    assert builder.builder.add_image("other", "y", ImageFile(tmp_path / "a.png"), (5, 5)) is None
    assert builder.complete == [set(), ALL]
    assert builder.builder.add_image("b.png", "z", ImageFile(tmp_path / "a.png")) is builder.a


def test_another_file_with_the_same_name_is_refused(builder: Builder, save: Save) -> None:
    assert builder.builder.add_image("a.png", "y", ImageFile(save("deep/a.png"))) is None
    assert builder.complete == [ALL, ALL]
