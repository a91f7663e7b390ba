"""Every question can be asked, every answer written and read back, and what is said of a scene is true of it."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerBase

from labels.sample import Sample
from prompts import locations
from prompts.annotations import Annotation, Box, Polygon, Quad
from prompts.formatting import format_answer
from prompts.parsing import parse_answer
from prompts.tasks import TASKS, InputKind
from prompts.vocabulary import tokenize_answer
from seedling.scenes import samples
from seedling.scenes.colors import COLOR_NAMES, pure_color_shares
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.samples import WORDS, counted, expression, listed, make_sample
from seedling.scenes.scene import Object, Scene, Word

TIMES = 4  # questions of each task on each scene


def every(scenes: list[Scene], *tokens: str) -> Iterator[tuple[Sample, Scene]]:
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng(number)
        for token in tokens or TASKS:
            for _ in range(TIMES):
                if question := make_sample(scene, token, rng):
                    yield question, scene


def bins(note: Annotation, size: tuple[int, int]) -> list[list[int]]:
    match note:
        case Box():
            return [locations.quantize_points(note.box, *size)]
        case Quad():
            return [locations.quantize_points(note.quad, *size)]
        case Polygon():
            return [locations.quantize_points(ring, *size) for ring in note.polygons]
        case _:
            return []


def thing(category: str, box: tuple[float, float, float, float], color: str = "red") -> Object:
    return Object(category, "noto/x", box, [[box[0], box[1], box[2], box[1], box[2], box[3]]], pure_color_shares(color))


def scene_of(*things: Object, words: tuple[Word, ...] = ()) -> Scene:
    return Scene(Image.new("RGB", (300, 300)), things, words, "blue")


def test_every_task_is_asked(scenes: list[Scene]) -> None:
    assert {question.task.token for question, _ in every(scenes)} == set(TASKS)


def test_the_same_chance_asks_the_same(scenes: list[Scene]) -> None:
    assert [q for q, _ in every(scenes[:12])] == [q for q, _ in every(scenes[:12])]


def test_answers_read_back_to_the_same_bins_and_labels(scenes: list[Scene]) -> None:
    for question, scene in every(scenes):
        size = (scene.width, scene.height)
        read = parse_answer(question.task, tokenize_answer(format_answer(question.task, question.answer, size)), size)
        assert not read.dropped
        assert [(n.kind, n.label) for n in read.annotations] == [(n.kind, n.label) for n in question.answer]
        for back, true in zip(read.annotations, question.answer, strict=True):
            assert bins(back, size) == bins(true, size)


def test_prompts_and_regions_are_valid(scenes: list[Scene]) -> None:
    for question, scene in every(scenes):
        question.task.build_prompt(question.text, question.region, (scene.width, scene.height))
        assert (question.region is not None) == (question.task.input_kind is InputKind.REGION)
        assert bool(question.text) == (question.task.input_kind is InputKind.TEXT)


def test_every_word_is_a_whole_token(scenes: list[Scene], words: PreTrainedTokenizerBase) -> None:
    """Nothing is spelled but the words that are printed on the picture."""
    told, read = set[str](), set[str]()
    for question, scene in every(scenes):
        size = (scene.width, scene.height)
        answer = format_answer(question.task, question.answer, size)
        for text in (question.task.build_prompt(question.text, question.region, size), answer):
            spoken = re.findall(r" ?[A-Za-z0-9]+", re.sub(r"<\w+>|</\w+>", "\n", text))
            (read if text == answer and "OCR" in question.task.token else told).update(spoken)
    assert read == {word.text for scene in scenes for word in scene.words}
    lengths = {word: len(words(word, add_special_tokens=False)["input_ids"]) for word in told | read}
    assert lengths == dict.fromkeys(told, 1) | {word: len(word) for word in read}


def test_answers_fit_the_generation_limit(scenes: list[Scene], words: PreTrainedTokenizerBase) -> None:
    answers = [format_answer(q.task, q.answer, (s.width, s.height)) for q, s in every(scenes)]
    assert max(map(len, words(answers, add_special_tokens=False)["input_ids"])) + 2 < 256


def test_words_are_the_whole_language() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert {*CATEGORIES, *COLOR_NAMES, "Locate", "mask", "word", "The"} <= set(WORDS)


@pytest.mark.parametrize("token", ["<CAPTION_TO_PHRASE_GROUNDING>", "<OPEN_VOCABULARY_DETECTION>"])
def test_boxes_are_those_of_the_phrases_and_of_no_other(scenes: list[Scene], token: str) -> None:
    absent = 0
    for question, scene in every(scenes, token):
        phrases = re.split(r", | and ", question.text or "")
        true = {}
        for phrase in phrases:
            noun = phrase.split(" ")[-1]
            color = next((c for c in COLOR_NAMES if c in phrase.split(" ")), None)
            true[phrase] = {
                t.box
                for t in scene.objects
                if noun in (t.category, samples.plural(t.category)) and color in (None, t.color)
            }
        found = {
            phrase: {n.box for n in question.answer if isinstance(n, Box) and n.label == phrase} for phrase in true
        }
        assert found == true
        assert len(question.answer) == sum(map(len, true.values()))
        absent += sum(not boxes for boxes in true.values())
    assert absent >= 20


def test_grounding_phrases_count_what_they_name(scenes: list[Scene]) -> None:
    numbered = 0
    for question, _ in every(scenes, "<CAPTION_TO_PHRASE_GROUNDING>"):
        for label, count in Counter(note.label for note in question.answer).items():
            assert label.split(" ")[0] == {1: label.split(" ")[0], 2: "two", 3: "three", 4: "four"}[count]
            numbered += count > 1
    assert numbered


def test_detection_tells_every_object_in_the_order_of_the_scene(scenes: list[Scene]) -> None:
    tellers: dict[str, Callable[[Object, Scene], str]] = {
        "<OD>": lambda t, _: t.category,
        "<REGION_PROPOSAL>": lambda *_: "",
        "<DENSE_REGION_CAPTION>": lambda t, s: f"{samples.size_word(t.box, s)} {t.color} {t.category}",
    }
    for question, scene in every(scenes, *tellers):
        told = tellers[question.task.token]
        assert question.answer == tuple(Box(label=told(t, scene), box=t.box) for t in scene.objects)


def test_boxes_and_captions_follow_a_new_order() -> None:
    scene = scene_of(thing("cat", (100, 0, 150, 50)), thing("dog", (101, 100, 150, 150)))
    for seed in range(8):
        turned = scene.reordered(np.random.default_rng(seed))
        boxes = make_sample(turned, "<OD>", np.random.default_rng(0))
        assert boxes
        names = [note.label for note in boxes.answer]
        assert names == [found.category for found in turned.objects]
        assert samples.caption(turned) == f"a {names[0]} and a {names[1]}"


def test_words_are_read_in_the_scenes_order(scenes: list[Scene]) -> None:
    for question, scene in every(scenes, "<OCR>", "<OCR_WITH_REGION>"):
        said = [line for note in question.answer for line in note.label.split("\n")]
        assert said == [word.text for word in scene.words]
        if question.task.token == "<OCR_WITH_REGION>":
            assert [n.quad for n in question.answer if isinstance(n, Quad)] == [word.quad for word in scene.words]


def test_regions_are_asked_about_what_lies_in_them(scenes: list[Scene]) -> None:
    for question, scene in every(scenes, *(t for t, task in TASKS.items() if task.input_kind is InputKind.REGION)):
        region, (note,) = question.region, question.answer
        assert region is not None
        near = [
            place
            for place in (*scene.objects, *scene.words)
            if all(
                abs(region[k] - place.box[k]) <= 0.061 * (place.box[k % 2 + 2] - place.box[k % 2]) + 1 for k in range(4)
            )
        ]
        assert near, question
        match question.task.token:
            case "<REGION_TO_OCR>":
                assert note.label in [p.text for p in near if isinstance(p, Word)]
            case "<REGION_TO_CATEGORY>":
                assert note.label in [p.category if isinstance(p, Object) else "word" for p in near]
            case "<REGION_TO_SEGMENTATION>":
                assert isinstance(note, Polygon)
                assert note.polygons in [p.polygons for p in near if isinstance(p, Object)]
            case _:
                kinds = [p for p in near if isinstance(p, Object)]
                assert any(f" {p.color} {p.category} at the " in note.label for p in kinds)


def test_nothing_is_asked_about_nothing() -> None:
    bare, rng = scene_of(), np.random.default_rng(0)
    asked = {token: make_sample(bare, token, rng) for token in TASKS}
    assert {token for token, question in asked.items() if question is None} == {
        *("<REFERRING_EXPRESSION_SEGMENTATION>", "<REGION_TO_SEGMENTATION>", "<REGION_TO_CATEGORY>"),
        *("<REGION_TO_DESCRIPTION>", "<REGION_TO_OCR>"),
    }
    silent = {token for token, question in asked.items() if question and not question.answer}
    assert silent == {
        *("<OCR>", "<OCR_WITH_REGION>", "<OD>", "<DENSE_REGION_CAPTION>", "<REGION_PROPOSAL>"),
        *("<CAPTION_TO_PHRASE_GROUNDING>", "<OPEN_VOCABULARY_DETECTION>"),
    }
    assert samples.caption(bare) == "an empty picture"
    assert samples.detailed_caption(bare) == "an empty picture on a blue background"
    assert samples.paragraph(bare) == "The picture shows no objects on a blue background."


def test_captions_of_a_known_scene() -> None:
    word = Word("ABC", (10, 250, 60, 250, 60, 280, 10, 280), (10, 250, 60, 280))
    scene = scene_of(
        thing("apple", (0, 0, 45, 45), "green"),
        thing("bus", (110, 110, 200, 200)),
        thing("bus", (180, 150, 300, 300), "black"),
        words=(word,),
    )
    assert samples.caption(scene) == "an apple, two buses and a word"
    assert samples.detailed_caption(scene) == (
        "a small green apple, a medium red bus, a large black bus and a word on a blue background"
    )
    assert samples.paragraph(scene) == (
        "The picture shows three objects on a blue background. A small green apple is at the top left. "
        "A medium red bus is at the center. A large black bus is at the bottom right. A word is at the bottom left."
    )


@pytest.mark.parametrize(
    ("rivals", "said"),
    [
        ([], "the dog"),
        ([thing("cat", (200, 200, 250, 250))], "the dog"),
        ([thing("dog", (200, 200, 250, 250), "blue")], "the red dog"),
        ([thing("dog", (150, 150, 300, 300))], "the small dog"),
        ([thing("dog", (200, 200, 250, 250))], "the dog at the top left"),
        ([thing("dog", (150, 150, 300, 300)), thing("dog", (240, 0, 290, 50), "blue")], "the dog at the top left"),
    ],
)
def test_expressions_use_the_fewest_words(rivals: list[Object], said: str) -> None:
    dog = thing("dog", (10, 10, 60, 60))
    assert expression(dog, scene_of(dog, *rivals)) == said


def test_a_colour_that_is_hardly_the_commonest_tells_nothing_apart() -> None:
    dog, other = thing("dog", (10, 10, 60, 60)), thing("dog", (200, 200, 250, 250), "blue")
    measure_color_shares = tuple(0.45 * (name == "red") + 0.55 * (name == "blue") for name in COLOR_NAMES)
    motley = replace(other, color_shares=measure_color_shares)
    assert (motley.color, dog.color) == ("blue", "red")
    assert expression(dog, scene_of(dog, motley)) == "the dog at the top left"


def test_what_is_referred_to_is_the_only_one_of_its_words() -> None:
    one, two = thing("dog", (10, 10, 60, 60)), thing("dog", (200, 200, 250, 250))
    token, asked = "<REFERRING_EXPRESSION_SEGMENTATION>", set()
    for seed in range(40):
        question = make_sample(scene_of(one, two), token, np.random.default_rng(seed))
        assert question is not None
        asked.add(question.text)
    assert asked == {"the dog at the top left", "the dog at the bottom right"}


@pytest.mark.parametrize(
    ("noun", "count", "said"),
    [("cat", 1, "a cat"), ("apple", 1, "an apple"), ("bus", 2, "two buses"), ("fish", 3, "three fish")],
)
def test_counted(noun: str, count: int, said: str) -> None:
    assert counted(noun, count) == said


def test_listed() -> None:
    assert [listed("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
