import io
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labels.dataset import DatasetError
from labels.image_files import ImageBytes
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.split import hash_content, split_images
from prompts.annotations import Box

some = settings(max_examples=50, deadline=None, derandomize=True)


def make_image(name: str, content: int, *labels: str) -> LabeledImage:
    annotations = tuple(Box(label=label, box=(0, 0, 1, 1)) for label in labels)
    return LabeledImage(name, name, 2, 2, annotations, ImageBytes(content.to_bytes(4)))


def get_names(examples: Sequence[LabeledImage]) -> set[str]:
    return {each.name for each in examples}


def get_contents(examples: Sequence[LabeledImage]) -> set[str]:
    return {hash_content(each) for each in examples}


datasets = st.lists(
    st.tuples(st.integers(0, 30), st.lists(st.sampled_from("abcd"), max_size=3)), min_size=1, max_size=40
).map(lambda rows: [make_image(str(i), content, *labels) for i, (content, labels) in enumerate(rows)])


@some
@given(datasets, st.floats(0.05, 0.9), st.integers(0, 9))
def test_no_image_is_on_both_sides_or_lost(examples: list[LabeledImage], share: float, seed: int) -> None:
    if len(get_contents(examples)) < 2:
        with pytest.raises(DatasetError, match="add images"):
            split_images(examples, share, seed=seed)
        return
    train, holdout = split_images(examples, share, seed=seed)
    assert train
    assert holdout
    assert not get_contents(train) & get_contents(holdout)
    assert sorted((*train, *holdout), key=lambda each: int(each.name)) == examples
    assert abs(len(get_contents(holdout)) - share * len(get_contents(examples))) <= 1


@some
@given(datasets, st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_order_of_the_images_does_not_matter(examples: list[LabeledImage], order: random.Random, seed: int) -> None:
    if len(get_contents(examples)) < 2:
        return
    shuffled = list(examples)
    order.shuffle(shuffled)
    assert get_names(split_images(examples, 0.3, seed=seed)[1]) == get_names(split_images(shuffled, 0.3, seed=seed)[1])


def test_the_seed_determines_the_holdout() -> None:
    examples = [make_image(str(i), i) for i in range(50)]
    holdout = [frozenset(get_names(split_images(examples, 0.2, seed=seed)[1])) for seed in (0, 0, 1, 2)]
    assert holdout[0] == holdout[1]
    assert len(set(holdout)) == 3
    assert len(holdout[0]) == 10


def test_labels_are_distributed_evenly() -> None:
    kinds = [("rare",)] * 5 + [("common",)] * 80 + [("common", "other")] * 15
    examples = [make_image(str(i), i, *labels) for i, labels in enumerate(kinds)]
    for seed in range(5):
        train, holdout = split_images(examples, 0.2, seed=seed)
        counts = Counter(annotation.label for each in holdout for annotation in each.annotations)
        assert counts["rare"] == 1
        assert counts["other"] == 3
        assert len(holdout) == 20
        assert len(train) == 80


def test_a_share_of_zero_gives_no_holdout() -> None:
    examples = [make_image("a", 1)]
    assert split_images(examples, 0, seed=0) == (tuple(examples), ())


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_invalid_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        split_images([make_image("a", 1), make_image("b", 2)], share, seed=0)


def test_images_without_a_file_are_compared_by_pixels() -> None:
    def make_drawn_image(name: str, color: str) -> LabeledImage:
        return LabeledImage(name, name, 2, 2, (), lambda: Image.new("RGB", (2, 2), color))

    def fail_to_open() -> Image.Image:
        raise ImageError("it is broken", "unreadable")  # type: ignore[arg-type]

    red, same, blue = (hash_content(make_drawn_image(*each)) for each in (("a", "red"), ("b", "red"), ("a", "blue")))
    assert red == same != blue
    one, other = (LabeledImage(name, name, 2, 2, (), fail_to_open) for name in "ab")
    assert hash_content(one) != hash_content(other)


def test_a_copy_in_another_file_format_is_another_image() -> None:
    files = []
    for kind in ("PNG", "BMP"):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2)).save(buffer, kind)
        files.append(LabeledImage(kind, kind, 2, 2, (), ImageBytes(buffer.getvalue())))
    assert hash_content(files[0]) != hash_content(files[1])
