"""The report's marks on perfect, empty and wrong answers."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from labels.sample import Sample
from prompts.annotations import Annotation, Box, Text
from prompts.formatting import format_answer
from prompts.parsing import parse_answer
from prompts.tasks import TASKS
from prompts.vocabulary import tokenize_answer
from seedling import report
from seedling.report import LEADING, Marks, named, placed
from seedling.scenes import samples
from seedling.scenes.colors import CLEAR_MARGIN, main_color_margin
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, TRAINING_SETS
from seedling.scenes.scene import Scene
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

AUROC = "score: AUROC of right against wrong boxes"


@pytest.fixture(scope="module")
def asked(scenes: list[Scene]) -> list[tuple[Sample, Scene]]:
    found = [
        (samples.make_sample(scene, token, np.random.default_rng((number, 2))), scene)
        for number, scene in enumerate(scenes)
        if scene.objects
        for token in TASKS
    ]
    return [(question, scene) for question, scene in found if question]


def marked(asked: list[tuple[Sample, Scene]], answers: list[list[Annotation]]) -> dict[str, float]:
    marks = Marks()
    for (question, scene), answer in zip(asked, answers, strict=True):
        marks.mark(question, scene, answer)
    return marks.figures()


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
def test_named(text: str, counts: dict[str, int]) -> None:
    assert named(text) == counts


def test_named_reads_every_caption_of_a_scene(scenes: list[Scene]) -> None:
    for scene in scenes:
        truth = Counter(thing.category for thing in scene.objects)
        for tell in (samples.caption, samples.detailed_caption, samples.paragraph):
            assert named(tell(scene)) == truth


def test_every_category_is_named_alone_and_in_number() -> None:
    for noun in CATEGORIES:
        assert named(samples.counted(noun, 1)) == {noun: 1}
        assert named(samples.counted(noun, 7)) == {noun: 7}


def test_true_answers_are_perfect(asked: list[tuple[Sample, Scene]]) -> None:
    figures = marked(asked, [list(question.answer) for question, _ in asked])
    assert {name.split(" ")[0] for name in figures} == {*TASKS, LEADING.split(" ")[0]}
    assert figures == dict.fromkeys(figures, 1.0)


def test_true_answers_are_nearly_perfect_once_they_were_tokens(asked: list[tuple[Sample, Scene]]) -> None:
    answers = []
    for question, scene in asked:
        size = (scene.width, scene.height)
        said = tokenize_answer(format_answer(question.task, question.answer, size))
        answers.append(parse_answer(question.task, said, size).annotations)
    for name, value in marked(asked, answers).items():
        assert value > 0.95 if "IoU" in name else value == 1.0, name


def test_empty_answers_are_worth_nothing(asked: list[tuple[Sample, Scene]]) -> None:
    figures = marked(asked, [[] for _ in asked])
    absent = {name for name in figures if name.endswith("absent: nothing found")}
    wordless = {"<OCR_WITH_REGION>", "<OCR>"}
    assert absent
    assert wordless <= {name.split(" ")[0] for name in figures}
    assert {name: value for name, value in figures.items() if value} == dict.fromkeys(absent, 1.0)


def test_made_up_boxes_where_nothing_is_cost(asked: list[tuple[Sample, Scene]]) -> None:
    box = Box(label="cat", box=(0, 0, 9, 9))
    absent = [(q, s) for q, s in asked if q.task.token == "<OPEN_VOCABULARY_DETECTION>" and not q.answer]
    assert marked(absent, [[box]] * len(absent)) == {"<OPEN_VOCABULARY_DETECTION> absent: nothing found": 0.0}


@pytest.mark.parametrize(
    ("token", "unlabelled"), [("<OD>", 0.0), ("<DENSE_REGION_CAPTION>", 0.0), ("<REGION_PROPOSAL>", 1.0)]
)
def test_labels_matter_where_they_are_asked_for(
    asked: list[tuple[Sample, Scene]], token: str, unlabelled: float
) -> None:
    ours = [(q, s) for q, s in asked if q.task.token == token]
    renamed = [[note.model_copy(update={"label": "giraffe"}) for note in q.answer] for q, _ in ours]
    figures = marked(ours, renamed)
    assert figures[f"{token} F1@0.5"] == unlabelled
    if token == "<DENSE_REGION_CAPTION>":
        assert figures["<DENSE_REGION_CAPTION> boxes F1@0.5"] == 1.0


def test_half_the_words_read_is_half_the_mark(scenes: list[Scene]) -> None:
    ours = [(samples.make_sample(s, "<OCR>", np.random.default_rng(0)), s) for s in scenes if len(s.words) == 2]
    pairs = [(question, scene) for question, scene in ours if question]
    assert pairs
    first = [[Text(label=question.answer[0].label.split("\n")[0])] for question, _ in pairs]
    assert marked(pairs, first) == {"<OCR> exact words": 0.5}


def test_captions_are_judged_by_set_and_by_count(scenes: list[Scene]) -> None:
    scene = next(s for s in scenes if len({t.category for t in s.objects}) == len(s.objects) == 2)
    question = samples.make_sample(scene, "<CAPTION>", np.random.default_rng(0))
    assert question is not None
    one, two = (thing.category for thing in scene.objects)
    doubled = Text(label=f"two {samples.plural(one)} and {samples.counted(two, 1)}")
    half = Text(label=samples.counted(one, 1))
    assert marked([(question, scene)], [[doubled]]) == {
        "<CAPTION> F1 of named objects": 1.0,
        "<CAPTION> counts right": 0.0,
    }
    assert marked([(question, scene)], [[half]])["<CAPTION> F1 of named objects"] == pytest.approx(2 / 3)


def test_places_of_a_paragraph() -> None:
    said = (
        "The picture shows two objects on a red background. A small red car is at the top left. A word is at the top."
    )
    assert placed(said) == {("car", "top left"): 1, ("word", "top"): 1}


def test_a_paragraph_with_one_wrong_place_and_a_made_up_object(scenes: list[Scene]) -> None:
    scene = next(s for s in scenes if len(s.objects) == 2 and not s.words)
    question = samples.make_sample(scene, "<MORE_DETAILED_CAPTION>", np.random.default_rng(0))
    assert question is not None
    first, second = question.answer[0].label.split(". ")[1:]
    wrong = f"{first}. A red cat is at the {'bottom' if second.endswith(' top.') else 'top'}."
    figures = marked([(question, scene)], [[Text(label=wrong)]])
    assert figures["<MORE_DETAILED_CAPTION> positions right"] == 0.5
    assert figures["<MORE_DETAILED_CAPTION> counts right"] == 0.0


def test_a_description_is_judged_word_by_word(scenes: list[Scene]) -> None:
    lone = (s for s in scenes if len(s.objects) == 1)
    clear, unclear = 0, 0
    for scene in lone:
        question = samples.make_sample(scene, "<REGION_TO_DESCRIPTION>", np.random.default_rng(0))
        assert question is not None
        _, size, color, rest = question.answer[0].label.split(" ", 3)
        other = "red" if color != "red" else "blue"
        figures = marked([(question, scene)], [[Text(label=f"a {size} {other} {rest}")]])
        leads = main_color_margin(scene.objects[0].color_shares) >= CLEAR_MARGIN
        assert figures.pop(LEADING, None) == (0.0 if leads else None)
        told = {name.split(" ", 1)[1]: value for name, value in figures.items()}
        assert told == {"colour right": 0.0, "size right": 1.0, "place right": 1.0, "exact": 0.0}
        clear, unclear = clear + leads, unclear + (not leads)
    assert clear
    assert unclear


def test_dense_captions_are_judged_word_by_word_where_the_thing_is_found(scenes: list[Scene]) -> None:
    scene = next(s for s in scenes if len(s.objects) >= 2)
    question = samples.make_sample(scene, "<DENSE_REGION_CAPTION>", np.random.default_rng(0))
    assert question is not None
    first, *others = question.answer
    size, color, noun = first.label.split(" ")
    other = "red" if color != "red" else "blue"
    figures = marked([(question, scene)], [[first.model_copy(update={"label": f"{size} {other} {noun}"})]])
    assert figures["<DENSE_REGION_CAPTION> colour right"] == 0.0
    assert figures["<DENSE_REGION_CAPTION> size right"] == 1.0  # those that are missed say nothing of words
    figures = marked([(question, scene)], [[first, *others]])
    assert figures["<DENSE_REGION_CAPTION> colour right"] == 1.0


def test_recall_is_of_what_is_there(asked: list[tuple[Sample, Scene]]) -> None:
    ours = [(q, s) for q, s in asked if q.task.token == "<REGION_PROPOSAL>" and len(q.answer) == 2]
    wrong = Box(label="", box=(0, 0, 1, 1), score=0.1)
    figures = marked(ours, [[q.answer[0], wrong, wrong] for q, _ in ours])
    assert figures["<REGION_PROPOSAL> recall@0.5"] == 0.5
    assert figures["<REGION_PROPOSAL> F1@0.5"] == pytest.approx(2 / 5)


def test_scores_that_tell_right_from_wrong(asked: list[tuple[Sample, Scene]]) -> None:
    ours = [(q, s) for q, s in asked if q.task.token == "<OD>"]
    wrong = Box(label="cat", box=(0, 0, 1, 1), score=0.2)
    answers = [[*(n.model_copy(update={"score": 0.8}) for n in q.answer), wrong] for q, _ in ours]
    figures = marked(ours, answers)
    assert figures[AUROC] == 1.0
    assert figures["score: ECE of boxes"] == pytest.approx(0.2)
    assert figures["<OD> mAP@50"] == 1.0  # the made-up ones come last


class Pretender:
    """Stands in for the engine: knows the answers that the report's own questions have, or says nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, knows: bool) -> None:
        self.requests: list[Request] = []
        self.latest: list[Sample] = []
        self.knows, self.closed = knows, False
        ask = samples.make_sample

        def listen(scene: Scene, token: str, rng: np.random.Generator) -> Sample | None:
            question = ask(scene, token, rng)
            if question:
                self.latest.append(question)
            return question

        monkeypatch.setattr(report.samples, "make_sample", listen)

    def submit(self, request: Request) -> SimpleNamespace:
        self.requests.append(request)
        question = self.latest.pop(0)
        assert (question.task, question.text, question.region) == (request.task, request.text, request.region)
        answer = list(question.answer) if self.knows else []
        return SimpleNamespace(wait=lambda: SimpleNamespace(annotations=answer))

    def close(self) -> None:
        self.closed = True


def test_measure_asks_every_task_of_every_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Pretender(monkeypatch, knows=True)
    figures = report.measure(engine, 4, TRAINING_SETS)  # type: ignore[arg-type]
    assert figures == dict.fromkeys(figures, 1.0)
    assert len(engine.requests) >= 4 * (len(TASKS) - 1)  # a scene without words has none to read
    assert {request.task.token for request in engine.requests} == set(TASKS)
    for request in engine.requests:  # as the engine would refuse it
        request.task.build_prompt(request.text, request.region, request.image.size)


@pytest.mark.parametrize("knows", [True, False])
def test_the_command_writes_strict_json(knows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Pretender(monkeypatch, knows=knows)
    monkeypatch.setattr(report, "Engine", SimpleNamespace(load=lambda model: engine))
    monkeypatch.setattr(report, "robustness", lambda engine, scenes: {"blur: loss of mAP@50": 0.25})
    report.main("seedling", scenes=2, out=tmp_path / "figures.json")
    written = json.loads((tmp_path / "figures.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert written.keys() == {"scenes", "known", HOLDOUT_SET, "hard"}
    assert written["known"]["<OD> mAP@50"] == float(knows)
    assert written["known"]["<OD> F1@0.5"] == float(knows)
    assert engine.closed


@pytest.mark.usefixtures("one_thread")
def test_errors_and_inventions_are_drawn(tmp_path: Path) -> None:
    with Engine.load(EngineConfig("seedling", device="cpu")) as engine:
        report.illustrate(engine, tmp_path / "page", 1)
    page = (tmp_path / "page" / "errors.html").read_text()
    assert "1 drawn scenes that were never taught" in page
    assert "&lt;OD&gt;" in page
    with Image.open(tmp_path / "page" / "nothing.png") as sheet:
        assert sheet.width > 1600
