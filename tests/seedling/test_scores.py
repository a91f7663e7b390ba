"""Scores of correct, empty and wrong answers."""

from collections import Counter

import numpy as np
import pytest

from finetune.datasets.wording import count_noun, pluralize
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Text
from prompts.formatting import format_answer
from prompts.parsing import parse_answer
from prompts.tasks import FLORENCE_TASKS
from prompts.vocabulary import tokenize_answer
from seedling.scenes import descriptions
from seedling.scenes.colors import CLEAR_MARGIN, compute_main_color_margin
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Scene
from seedling.scores import CLEAR_COLOR_METRIC, TaskScores, count_categories, count_positions

AUROC = "score: AUROC of correct against wrong boxes"
Pairs = list[tuple[Sample, Scene]]


@pytest.fixture(scope="module")
def pairs(scenes: list[Scene]) -> Pairs:
    made = [
        (make_sample(scene, token, np.random.default_rng((number, 2))), scene)
        for number, scene in enumerate(scenes)
        if scene.objects
        for token in FLORENCE_TASKS
    ]
    return [(sample, scene) for sample, scene in made if sample]


def score(pairs: Pairs, answers: list[list[Annotation]]) -> dict[str, float]:
    scores = TaskScores()
    for (sample, scene), answer in zip(pairs, answers, strict=True):
        scores.add(sample, scene, answer)
    return scores.compute()


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("two dogs and a cat", {"dog": 2, "cat": 1}),
        ("a small orange cat, a large red cat and two words", {"cat": 2}),
        ("an umbrella, three buses and four fish", {"umbrella": 1, "bus": 3, "fish": 4}),
        ("two words and a dog", {"dog": 1}),
        ("Two Dogs.", {"dog": 2}),
        ("The picture shows three objects on a red background. A small red car is at the top.", {"car": 1}),
        ("an empty picture on a white background", {}),
        ("catalogue of dogmas", {}),
        ("", {}),
    ],
)
def test_categories_are_counted(text: str, counts: dict[str, int]) -> None:
    assert count_categories(text) == counts


def test_categories_are_counted_in_every_caption_of_a_scene(scenes: list[Scene]) -> None:
    for scene in scenes:
        truth = Counter(item.category for item in scene.objects)
        for describe in (descriptions.make_caption, descriptions.make_detailed_caption, descriptions.make_paragraph):
            assert count_categories(describe(scene)) == truth


def test_every_category_is_counted_in_singular_and_plural() -> None:
    for noun in CATEGORIES:
        assert count_categories(count_noun(noun, 1)) == {noun: 1}
        assert count_categories(count_noun(noun, 7)) == {noun: 7}


def test_true_answers_are_perfect(pairs: Pairs) -> None:
    metrics = score(pairs, [list(sample.answer) for sample, _ in pairs])
    assert {name.split(" ")[0] for name in metrics} == {*FLORENCE_TASKS, CLEAR_COLOR_METRIC.split(" ")[0]}
    assert metrics == dict.fromkeys(metrics, 1.0)


def test_true_answers_are_nearly_perfect_after_quantization(pairs: Pairs) -> None:
    answers = []
    for sample, scene in pairs:
        size = (scene.width, scene.height)
        tokens = tokenize_answer(format_answer(sample.task, sample.answer, size))
        answers.append(parse_answer(sample.task, tokens, size).annotations)
    for name, value in score(pairs, answers).items():
        assert value > 0.95 if "IoU" in name else value == 1.0, name


def test_empty_answers_score_zero(pairs: Pairs) -> None:
    metrics = score(pairs, [[] for _ in pairs])
    absent = {name for name in metrics if name.endswith("absent phrases rejected")}
    reading = {"<OCR_WITH_REGION>", "<OCR>"}
    assert absent
    assert reading <= {name.split(" ")[0] for name in metrics}
    assert {name: value for name, value in metrics.items() if value} == dict.fromkeys(absent, 1.0)


def test_false_positives_for_absent_phrases_cost(pairs: Pairs) -> None:
    box = Box(label="cat", box=(0, 0, 9, 9))
    absent = [(s, scene) for s, scene in pairs if s.task.token == "<OPEN_VOCABULARY_DETECTION>" and not s.answer]
    assert score(absent, [[box]] * len(absent)) == {"<OPEN_VOCABULARY_DETECTION> absent phrases rejected": 0.0}


@pytest.mark.parametrize(
    ("token", "mislabeled"), [("<OD>", 0.0), ("<DENSE_REGION_CAPTION>", 0.0), ("<REGION_PROPOSAL>", 1.0)]
)
def test_labels_matter_in_tasks_with_labels(pairs: Pairs, token: str, mislabeled: float) -> None:
    own = [(s, scene) for s, scene in pairs if s.task.token == token]
    renamed = [[a.model_copy(update={"label": "giraffe"}) for a in s.answer] for s, _ in own]
    metrics = score(own, renamed)
    assert metrics[f"{token} F1@0.5"] == mislabeled
    if token == "<DENSE_REGION_CAPTION>":
        assert metrics["<DENSE_REGION_CAPTION> box F1@0.5"] == 1.0


def test_half_the_words_are_half_the_recall(scenes: list[Scene]) -> None:
    made = [(make_sample(s, "<OCR>", np.random.default_rng(0)), s) for s in scenes if len(s.words) == 2]
    pairs = [(sample, scene) for sample, scene in made if sample]
    assert pairs
    first = [[Text(label=sample.answer[0].label.split("\n")[0])] for sample, _ in pairs]
    assert score(pairs, first) == {"<OCR> word recall": 0.5}


def test_captions_are_scored_by_categories_and_by_counts(scenes: list[Scene]) -> None:
    scene = next(s for s in scenes if len({o.category for o in s.objects}) == len(s.objects) == 2)
    sample = make_sample(scene, "<CAPTION>", np.random.default_rng(0))
    assert sample is not None
    one, two = (item.category for item in scene.objects)
    doubled = Text(label=f"two {pluralize(one)} and {count_noun(two, 1)}")
    half = Text(label=count_noun(one, 1))
    assert score([(sample, scene)], [[doubled]]) == {
        "<CAPTION> object F1": 1.0,
        "<CAPTION> count accuracy": 0.0,
    }
    assert score([(sample, scene)], [[half]])["<CAPTION> object F1"] == pytest.approx(2 / 3)


def test_positions_of_a_paragraph_are_counted() -> None:
    text = (
        "The picture shows two objects on a red background. A small red car is at the top left. A word is at the top."
    )
    assert count_positions(text) == {("car", "top left"): 1, ("word", "top"): 1}


def test_a_paragraph_with_one_wrong_position_and_one_wrong_object(scenes: list[Scene]) -> None:
    scene = next(s for s in scenes if len(s.objects) == 2 and not s.words)
    sample = make_sample(scene, "<MORE_DETAILED_CAPTION>", np.random.default_rng(0))
    assert sample is not None
    first, second = sample.answer[0].label.split(". ")[1:]
    wrong = f"{first}. A red cat is at the {'bottom' if second.endswith(' top.') else 'top'}."
    metrics = score([(sample, scene)], [[Text(label=wrong)]])
    assert metrics["<MORE_DETAILED_CAPTION> position accuracy"] == 0.5
    assert metrics["<MORE_DETAILED_CAPTION> count accuracy"] == 0.0


def test_a_description_is_scored_word_by_word(scenes: list[Scene]) -> None:
    clear, unclear = 0, 0
    for scene in (s for s in scenes if len(s.objects) == 1):
        sample = make_sample(scene, "<REGION_TO_DESCRIPTION>", np.random.default_rng(0))
        assert sample is not None
        _, size, color, rest = sample.answer[0].label.split(" ", 3)
        other = "red" if color != "red" else "blue"
        metrics = score([(sample, scene)], [[Text(label=f"a {size} {other} {rest}")]])
        is_clear = compute_main_color_margin(scene.objects[0].color_shares) >= CLEAR_MARGIN
        assert metrics.pop(CLEAR_COLOR_METRIC, None) == (0.0 if is_clear else None)
        own = {name.split(" ", 1)[1]: value for name, value in metrics.items()}
        assert own == {"color accuracy": 0.0, "size accuracy": 1.0, "position accuracy": 1.0, "exact match": 0.0}
        clear, unclear = clear + is_clear, unclear + (not is_clear)
    assert clear
    assert unclear


def test_dense_captions_are_scored_word_by_word_where_the_object_is_located(scenes: list[Scene]) -> None:
    scene = next(s for s in scenes if len(s.objects) >= 2)
    sample = make_sample(scene, "<DENSE_REGION_CAPTION>", np.random.default_rng(0))
    assert sample is not None
    first, *others = sample.answer
    size, color, noun = first.label.split(" ")
    other = "red" if color != "red" else "blue"
    metrics = score([(sample, scene)], [[first.model_copy(update={"label": f"{size} {other} {noun}"})]])
    assert metrics["<DENSE_REGION_CAPTION> color accuracy"] == 0.0
    assert metrics["<DENSE_REGION_CAPTION> size accuracy"] == 1.0  # missed objects do not count for words
    metrics = score([(sample, scene)], [[first, *others]])
    assert metrics["<DENSE_REGION_CAPTION> color accuracy"] == 1.0


def test_recall_is_the_share_of_objects_that_are_located(pairs: Pairs) -> None:
    own = [(s, scene) for s, scene in pairs if s.task.token == "<REGION_PROPOSAL>" and len(s.answer) == 2]
    wrong = Box(label="", box=(0, 0, 1, 1), score=0.1)
    metrics = score(own, [[s.answer[0], wrong, wrong] for s, _ in own])
    assert metrics["<REGION_PROPOSAL> recall@0.5"] == 0.5
    assert metrics["<REGION_PROPOSAL> F1@0.5"] == pytest.approx(2 / 5)


def test_scores_that_separate_correct_from_wrong_boxes(pairs: Pairs) -> None:
    own = [(s, scene) for s, scene in pairs if s.task.token == "<OD>"]
    wrong = Box(label="cat", box=(0, 0, 1, 1), score=0.2)
    answers = [[*(a.model_copy(update={"score": 0.8}) for a in s.answer), wrong] for s, _ in own]
    metrics = score(own, answers)
    assert metrics[AUROC] == 1.0
    assert metrics["score: ECE of boxes"] == pytest.approx(0.2)
    assert metrics["<OD> mAP@50"] == 1.0  # the false positives come last
