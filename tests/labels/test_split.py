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


def example(name: str, content: int, *labels: str) -> LabeledImage:
    notes = tuple(Box(label=label, box=(0, 0, 1, 1)) for label in labels)
    return LabeledImage(name, name, 2, 2, notes, ImageBytes(content.to_bytes(4)))


def named(examples: Sequence[LabeledImage]) -> set[str]:
    return {each.name for each in examples}


def contents(examples: Sequence[LabeledImage]) -> set[str]:
    return {hash_content(each) for each in examples}


datasets = st.lists(
    st.tuples(st.integers(0, 30), st.lists(st.sampled_from("abcd"), max_size=3)), min_size=1, max_size=40
).map(lambda rows: [example(str(i), content, *labels) for i, (content, labels) in enumerate(rows)])


@some
@given(datasets, st.floats(0.05, 0.9), st.integers(0, 9))
def test_no_picture_is_on_both_sides_and_none_is_lost(examples: list[LabeledImage], share: float, seed: int) -> None:
    if len(contents(examples)) < 2:
        with pytest.raises(DatasetError, match="add images"):
            split_images(examples, share, seed=seed)
        return
    taught, held = split_images(examples, share, seed=seed)
    assert taught
    assert held
    assert not contents(taught) & contents(held)
    assert sorted((*taught, *held), key=lambda each: int(each.name)) == examples
    assert abs(len(contents(held)) - share * len(contents(examples))) <= 1


@some
@given(datasets, st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_order_of_the_pictures_changes_nothing(
    examples: list[LabeledImage], order: random.Random, seed: int
) -> None:
    if len(contents(examples)) < 2:
        return
    shuffled = list(examples)
    order.shuffle(shuffled)
    assert named(split_images(examples, 0.3, seed=seed)[1]) == named(split_images(shuffled, 0.3, seed=seed)[1])


def test_the_seed_decides() -> None:
    examples = [example(str(i), i) for i in range(50)]
    held = [frozenset(named(split_images(examples, 0.2, seed=seed)[1])) for seed in (0, 0, 1, 2)]
    assert held[0] == held[1]
    assert len(set(held)) == 3
    assert len(held[0]) == 10


def test_labels_are_spread_evenly() -> None:
    kinds = [("rare",)] * 5 + [("common",)] * 80 + [("common", "other")] * 15
    examples = [example(str(i), i, *labels) for i, labels in enumerate(kinds)]
    for seed in range(5):
        taught, held = split_images(examples, 0.2, seed=seed)
        counts = Counter(note.label for each in held for note in each.annotations)
        assert counts["rare"] == 1
        assert counts["other"] == 3
        assert len(held) == 20
        assert len(taught) == 80


def test_nothing_is_held_out_where_nothing_shall_be() -> None:
    examples = [example("a", 1)]
    assert split_images(examples, 0, seed=0) == (tuple(examples), ())


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_shares_that_are_none(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        split_images([example("a", 1), example("b", 2)], share, seed=0)


def test_pictures_without_a_file_are_alike_by_their_pixels() -> None:
    def drawn(name: str, colour: str) -> LabeledImage:
        return LabeledImage(name, name, 2, 2, (), lambda: Image.new("RGB", (2, 2), colour))

    def broken() -> Image.Image:
        raise ImageError("it is broken", "unreadable")  # type: ignore[arg-type]

    assert hash_content(drawn("a", "red")) == hash_content(drawn("b", "red")) != hash_content(drawn("a", "blue"))
    one, other = (LabeledImage(name, name, 2, 2, (), broken) for name in "ab")
    assert hash_content(one) != hash_content(other)


def test_a_copy_in_another_format_is_another_picture() -> None:
    files = []
    for kind in ("PNG", "BMP"):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2)).save(buffer, kind)
        files.append(LabeledImage(kind, kind, 2, 2, (), ImageBytes(buffer.getvalue())))
    assert hash_content(files[0]) != hash_content(files[1])
