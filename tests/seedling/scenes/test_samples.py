"""Samples of all tasks: answers can be written and read back, and they are true of the scene."""

import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from finetune.datasets.wording import pluralize
from labels.sample import Sample
from prompts import locations
from prompts.annotations import Annotation, Box, Polygon, Quad
from prompts.formatting import format_answer
from prompts.parsing import parse_answer
from prompts.tasks import FLORENCE_TASKS, InputKind
from prompts.vocabulary import tokenize_answer
from seedling.scenes.colors import COLOR_NAMES
from seedling.scenes.descriptions import describe_size
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Scene, SceneObject, SceneWord
from tests.seedling.scenes.objects import make_scene

PER_TASK = 4  # samples of each task and scene


def make_all(scenes: list[Scene], *tokens: str) -> Iterator[tuple[Sample, Scene]]:
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng(number)
        for token in tokens or FLORENCE_TASKS:
            for _ in range(PER_TASK):
                if sample := make_sample(scene, token, rng):
                    yield sample, scene


def quantize(annotation: Annotation, size: tuple[int, int]) -> list[list[int]]:
    match annotation:
        case Box():
            return [locations.quantize_points(annotation.box, *size)]
        case Quad():
            return [locations.quantize_points(annotation.quad, *size)]
        case Polygon():
            return [locations.quantize_points(ring, *size) for ring in annotation.polygons]
        case _:
            return []


def test_every_task_has_samples(scenes: list[Scene]) -> None:
    assert {sample.task.token for sample, _ in make_all(scenes)} == set(FLORENCE_TASKS)


def test_the_same_generator_makes_the_same_samples(scenes: list[Scene]) -> None:
    assert [s for s, _ in make_all(scenes[:12])] == [s for s, _ in make_all(scenes[:12])]


def test_answers_are_read_back_with_the_same_bins_and_labels(scenes: list[Scene]) -> None:
    for sample, scene in make_all(scenes):
        size = (scene.width, scene.height)
        text = format_answer(sample.task, sample.answer, size)
        read = parse_answer(sample.task, tokenize_answer(text), size)
        assert not read.dropped
        assert [(a.kind, a.label) for a in read.annotations] == [(a.kind, a.label) for a in sample.answer]
        for back, true in zip(read.annotations, sample.answer, strict=True):
            assert quantize(back, size) == quantize(true, size)


def test_prompts_and_regions_are_valid(scenes: list[Scene]) -> None:
    for sample, scene in make_all(scenes):
        sample.task.build_prompt(sample.text, sample.region, (scene.width, scene.height))
        assert (sample.region is not None) == (sample.task.input_kind is InputKind.REGION)
        assert bool(sample.text) == (sample.task.input_kind is InputKind.TEXT)


def test_every_word_is_one_token(scenes: list[Scene], tokenizer: PreTrainedTokenizerBase) -> None:
    """Only words printed in the image are split into bytes."""
    known, printed = set[str](), set[str]()
    for sample, scene in make_all(scenes):
        size = (scene.width, scene.height)
        answer = format_answer(sample.task, sample.answer, size)
        for text in (sample.task.build_prompt(sample.text, sample.region, size), answer):
            words = re.findall(r" ?[A-Za-z0-9]+", re.sub(r"<\w+>|</\w+>", "\n", text))
            (printed if text == answer and "OCR" in sample.task.token else known).update(words)
    assert printed == {word.text for scene in scenes for word in scene.words}
    lengths = {word: len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in known | printed}
    assert lengths == dict.fromkeys(known, 1) | {word: len(word) for word in printed}


def test_answers_fit_the_generation_limit(scenes: list[Scene], tokenizer: PreTrainedTokenizerBase) -> None:
    answers = [format_answer(s.task, s.answer, (scene.width, scene.height)) for s, scene in make_all(scenes)]
    assert max(map(len, tokenizer(answers, add_special_tokens=False)["input_ids"])) + 2 < 256


@pytest.mark.parametrize("token", ["<CAPTION_TO_PHRASE_GROUNDING>", "<OPEN_VOCABULARY_DETECTION>"])
def test_each_phrase_has_the_boxes_of_its_objects(scenes: list[Scene], token: str) -> None:
    absent = 0
    for sample, scene in make_all(scenes, token):
        phrases = re.split(r", | and ", sample.text or "")
        true = {}
        for phrase in phrases:
            noun = phrase.split(" ")[-1]
            color = next((c for c in COLOR_NAMES if c in phrase.split(" ")), None)
            true[phrase] = {
                item.box
                for item in scene.objects
                if noun in (item.category, pluralize(item.category)) and color in (None, item.color)
            }
        boxes = {phrase: {a.box for a in sample.answer if isinstance(a, Box) and a.label == phrase} for phrase in true}
        assert boxes == true
        assert len(sample.answer) == sum(map(len, true.values()))
        absent += sum(not boxes for boxes in true.values())
    assert absent >= 20


def test_grounding_phrases_count_what_they_name(scenes: list[Scene]) -> None:
    numbered = 0
    for sample, _ in make_all(scenes, "<CAPTION_TO_PHRASE_GROUNDING>"):
        for label, count in Counter(annotation.label for annotation in sample.answer).items():
            assert label.split(" ")[0] == {1: label.split(" ")[0], 2: "two", 3: "three", 4: "four"}[count]
            numbered += count > 1
    assert numbered


def test_detection_lists_every_object_in_the_order_of_the_scene(scenes: list[Scene]) -> None:
    labels: dict[str, Callable[[SceneObject, Scene], str]] = {
        "<OD>": lambda o, _: o.category,
        "<REGION_PROPOSAL>": lambda *_: "",
        "<DENSE_REGION_CAPTION>": lambda o, s: f"{describe_size(o.box, s)} {o.color} {o.category}",
    }
    for sample, scene in make_all(scenes, *labels):
        label_of = labels[sample.task.token]
        assert sample.answer == tuple(Box(label=label_of(o, scene), box=o.box) for o in scene.objects)


def test_words_are_read_in_the_order_of_the_scene(scenes: list[Scene]) -> None:
    for sample, scene in make_all(scenes, "<OCR>", "<OCR_WITH_REGION>"):
        lines = [line for annotation in sample.answer for line in annotation.label.split("\n")]
        assert lines == [word.text for word in scene.words]
        if sample.task.token == "<OCR_WITH_REGION>":
            assert [a.quad for a in sample.answer if isinstance(a, Quad)] == [word.quad for word in scene.words]


def test_region_answers_are_about_what_lies_in_the_region(scenes: list[Scene]) -> None:
    region_tasks = (token for token, task in FLORENCE_TASKS.items() if task.input_kind is InputKind.REGION)
    for sample, scene in make_all(scenes, *region_tasks):
        region, (annotation,) = sample.region, sample.answer
        assert region is not None
        near = [
            item
            for item in (*scene.objects, *scene.words)
            if all(
                abs(region[k] - item.box[k]) <= 0.061 * (item.box[k % 2 + 2] - item.box[k % 2]) + 1 for k in range(4)
            )
        ]
        assert near, sample
        match sample.task.token:
            case "<REGION_TO_OCR>":
                assert annotation.label in [item.text for item in near if isinstance(item, SceneWord)]
            case "<REGION_TO_CATEGORY>":
                assert annotation.label in [i.category if isinstance(i, SceneObject) else "word" for i in near]
            case "<REGION_TO_SEGMENTATION>":
                assert isinstance(annotation, Polygon)
                assert annotation.polygons in [i.polygons for i in near if isinstance(i, SceneObject)]
            case _:
                objects = [item for item in near if isinstance(item, SceneObject)]
                assert any(f" {o.color} {o.category} at the " in annotation.label for o in objects)


def test_an_empty_scene_has_samples_of_some_tasks_only() -> None:
    empty, rng = make_scene(), np.random.default_rng(0)
    made = {token: make_sample(empty, token, rng) for token in FLORENCE_TASKS}
    assert {token for token, sample in made.items() if sample is None} == {
        *("<REFERRING_EXPRESSION_SEGMENTATION>", "<REGION_TO_SEGMENTATION>", "<REGION_TO_CATEGORY>"),
        *("<REGION_TO_DESCRIPTION>", "<REGION_TO_OCR>"),
    }
    without_answer = {token for token, sample in made.items() if sample and not sample.answer}
    assert without_answer == {
        *("<OCR>", "<OCR_WITH_REGION>", "<OD>", "<DENSE_REGION_CAPTION>", "<REGION_PROPOSAL>"),
        *("<CAPTION_TO_PHRASE_GROUNDING>", "<OPEN_VOCABULARY_DETECTION>"),
    }
