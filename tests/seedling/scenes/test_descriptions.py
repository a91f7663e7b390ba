"""Descriptions of scenes use the known words and are true."""

from dataclasses import replace

import numpy as np
import pytest

from seedling.scenes import descriptions
from seedling.scenes.colors import COLOR_NAMES
from seedling.scenes.descriptions import WORDS, make_referring_expression
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import SceneObject, SceneWord
from tests.seedling.scenes.objects import make_object, make_scene


def test_words_are_the_whole_language() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert {*CATEGORIES, *COLOR_NAMES, "Locate", "mask", "word", "The"} <= set(WORDS)


def test_boxes_and_captions_follow_a_jittered_order() -> None:
    scene = make_scene(make_object("cat", (100, 0, 150, 50)), make_object("dog", (101, 100, 150, 150)))
    for seed in range(8):
        jittered = scene.jitter_order(np.random.default_rng(seed))
        sample = make_sample(jittered, "<OD>", np.random.default_rng(0))
        assert sample
        names = [annotation.label for annotation in sample.answer]
        assert names == [item.category for item in jittered.objects]
        assert descriptions.make_caption(jittered) == f"a {names[0]} and a {names[1]}"


def test_captions_of_an_empty_scene() -> None:
    empty = make_scene()
    assert descriptions.make_caption(empty) == "an empty picture"
    assert descriptions.make_detailed_caption(empty) == "an empty picture on a blue background"
    assert descriptions.make_paragraph(empty) == "The picture shows no objects on a blue background."


def test_captions_of_a_known_scene() -> None:
    word = SceneWord("ABC", (10, 250, 60, 250, 60, 280, 10, 280), (10, 250, 60, 280))
    scene = make_scene(
        make_object("apple", (0, 0, 45, 45), "green"),
        make_object("bus", (110, 110, 200, 200)),
        make_object("bus", (180, 150, 300, 300), "black"),
        words=(word,),
    )
    assert descriptions.make_caption(scene) == "an apple, two buses and a word"
    assert descriptions.make_detailed_caption(scene) == (
        "a small green apple, a medium red bus, a large black bus and a word on a blue background"
    )
    assert descriptions.make_paragraph(scene) == (
        "The picture shows three objects on a blue background. A small green apple is at the top left. "
        "A medium red bus is at the center. A large black bus is at the bottom right. A word is at the bottom left."
    )


@pytest.mark.parametrize(
    ("rivals", "expected"),
    [
        ([], "the dog"),
        ([make_object("cat", (200, 200, 250, 250))], "the dog"),
        ([make_object("dog", (200, 200, 250, 250), "blue")], "the red dog"),
        ([make_object("dog", (150, 150, 300, 300))], "the small dog"),
        ([make_object("dog", (200, 200, 250, 250))], "the dog at the top left"),
        (
            [make_object("dog", (150, 150, 300, 300)), make_object("dog", (240, 0, 290, 50), "blue")],
            "the dog at the top left",
        ),
    ],
)
def test_expressions_are_as_short_as_possible(rivals: list[SceneObject], expected: str) -> None:
    dog = make_object("dog", (10, 10, 60, 60))
    assert make_referring_expression(dog, make_scene(dog, *rivals)) == expected


def test_a_color_with_a_small_margin_does_not_identify_an_object() -> None:
    dog, other = make_object("dog", (10, 10, 60, 60)), make_object("dog", (200, 200, 250, 250), "blue")
    shares = tuple(0.45 * (name == "red") + 0.55 * (name == "blue") for name in COLOR_NAMES)
    multicolored = replace(other, color_shares=shares)
    assert (multicolored.color, dog.color) == ("blue", "red")
    assert make_referring_expression(dog, make_scene(dog, multicolored)) == "the dog at the top left"


def test_a_referring_expression_fits_one_object_only() -> None:
    one, two = make_object("dog", (10, 10, 60, 60)), make_object("dog", (200, 200, 250, 250))
    texts = set()
    for seed in range(40):
        scene = make_scene(one, two)
        sample = make_sample(scene, "<REFERRING_EXPRESSION_SEGMENTATION>", np.random.default_rng(seed))
        assert sample is not None
        texts.add(sample.text)
    assert texts == {"the dog at the top left", "the dog at the bottom right"}
