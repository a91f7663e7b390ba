from dataclasses import replace

from labels.dataset import Dataset, UnusableEntry
from labels.inspection import ClassSummary, Extent, SplitSummary, group_by_reason, summarize_dataset
from labels.label_kind import LabelKind
from tests.labels.samples import HEIGHT, WIDTH, make_example_images


def test_a_dataset_is_summarized() -> None:
    first, second = make_example_images()
    images = (replace(first, complete=frozenset({LabelKind.OBJECTS})), replace(second, width=10, height=20))
    summary = summarize_dataset(Dataset(images, holdout=frozenset({"b.png"}), format="COCO"))
    assert (summary.images, summary.empty_images, summary.holdout_images) == (2, 1, 1)
    assert summary.classes == (ClassSummary("cat", 1, 1, 1), ClassSummary("", 1, 0, 1))
    assert summary.classes[0].annotations == 2
    assert summary.annotations == {"box": 2, "polygon": 1, "quad": 1, "text": 1}
    assert summary.complete == {"objects": 1, "words": 0, "captions": 0}
    assert (summary.widths, summary.heights) == (Extent(10, 10, WIDTH), Extent(20, 20, HEIGHT))
    assert summary.object_sides == Extent(1, 12, 20)


def test_images_and_annotations_are_counted_by_split() -> None:
    first, second = make_example_images()
    names = ("train/a.png", "images/val2017/b.png", "train/c.png", "test.png")
    images = tuple(replace(image, name=name) for image, name in zip((first, second) * 2, names, strict=True))
    found = summarize_dataset(Dataset(images)).splits
    annotations = len(first.annotations)
    assert found == (
        SplitSummary("train", 2, 2 * annotations), SplitSummary("val2017", 1, 0), SplitSummary("", 1, 0),
    )  # fmt: skip
    assert summarize_dataset(Dataset((first, second))).splits == ()


def test_reasons_are_grouped_the_most_frequent_first() -> None:
    entries = tuple(UnusableEntry(source, reason) for source, reason in (("a", "x"), ("b", "y"), ("c", "y")))
    assert group_by_reason(entries) == [("y", ["b", "c"]), ("x", ["a"])]
