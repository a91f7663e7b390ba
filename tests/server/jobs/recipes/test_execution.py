"""What a recipe asks, and what it makes of the answers: no model, every answer made by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labels.labeled_image import TracedAnnotation
from prompts import locations
from prompts.annotations import Box, Polygon, Text
from prompts.parsing import parse_answer
from prompts.special_tokens import STRUCTURE_TOKENS
from prompts.tasks import TASKS, AnswerKind, InputKind, find_task
from prompts.vocabulary import Token
from server.engine.request import Result
from server.jobs.model_prompts import ModelPrompt
from server.jobs.recipes.parsing import RecipeError, load_recipe, validate_recipe, list_builtin_recipes
from tests.server.jobs.recipes.answering import (
    SIZE,
    box,
    by_task,
    play,
    polygon,
    quad,
    recipe,
    result,
    shown,
    steady,
    text,
)

CASCADE = """
- {id: things, task: <OD>}
- {id: outlines, task: <REGION_TO_SEGMENTATION>, each: things}
- {id: captions, task: <CAPTION>}
- {id: phrases, task: <CAPTION_TO_PHRASE_GROUNDING>, text: "${captions}"}
"""


def names(labels: list[TracedAnnotation]) -> list[str]:
    return [label.annotation.label for label in labels]


def test_all_that_can_be_asked_is_asked_at_once() -> None:
    _, turns = play(recipe(CASCADE), by_task(OD=result(box("cat", 1, 1, 9, 9)), CAPTION=text("a cat")))
    assert [[ask.task.token for ask in turn] for turn in turns] == [
        ["<OD>", "<CAPTION>"],
        ["<REGION_TO_SEGMENTATION>", "<CAPTION_TO_PHRASE_GROUNDING>"],
    ]
    outline, phrases = turns[1]
    assert outline.region == (1, 1, 9, 9)
    assert phrases.text == "a cat"


def test_labels_say_where_they_came_from() -> None:
    labels, _ = play(
        recipe("- {id: things, task: <OD>, adapter: mine}\n- {id: said, task: <REGION_TO_DESCRIPTION>, each: things}"),
        by_task(OD=result(box("cat", 0, 0, 500, 250), text="cat<loc_0>"), REGION_TO_DESCRIPTION=text("a fine cat")),
    )
    thing, said = labels
    assert (thing.step, thing.prompt, thing.raw) == (
        "things",
        "Locate the objects with category name in the image.",
        "cat<loc_0>",
    )
    assert (thing.adapter, thing.parent, thing.review) == ("mine", None, "")
    assert (said.step, said.parent, said.adapter) == ("said", 0, None)
    assert said.prompt == "What does the region <loc_0><loc_0><loc_500><loc_500> describe?"
    assert said.annotation == Text(label="a fine cat", score=0.9)


def test_labels_come_by_step_then_by_source_then_by_answer() -> None:
    def outline(ask: ModelPrompt) -> Result:
        assert ask.region
        x = ask.region[0]
        return result(polygon([x, 0, x + 1, 0, x, 1]), polygon([x, 0, x + 2, 0, x, 1]))

    labels, _ = play(
        recipe("- {id: a, task: <OD>}\n- {id: b, task: <REGION_TO_SEGMENTATION>, each: a}\n- {id: c, task: <CAPTION>}"),
        by_task(
            OD=result(box("dog", 50, 0, 60, 9), box("cat", 5, 0, 9, 9)),
            REGION_TO_SEGMENTATION=outline,
            CAPTION=text("x"),
        ),
    )
    assert [(label.step, label.parent) for label in labels] == [
        *(("a", None), ("a", None), ("b", 0), ("b", 0), ("b", 1), ("b", 1), ("c", None))
    ]
    assert names(labels) == ["dog", "cat", "dog", "dog", "cat", "cat", "x"]  # outlines are called as their regions


def test_what_is_not_kept_is_asked_about_and_its_parents_stand_in() -> None:
    labels, _ = play(
        recipe("""
            - {id: things, task: <OD>}
            - {id: outlines, task: <REGION_TO_SEGMENTATION>, each: things, keep: no}
            - {id: words, task: <REGION_TO_OCR>, each: outlines}
        """),
        by_task(
            OD=result(box("sign", 10, 10, 90, 90)),
            REGION_TO_SEGMENTATION=result(polygon([20, 20, 40, 20, 40, 60])),
            REGION_TO_OCR=lambda ask: text(str(ask.region)),
        ),
    )
    assert [(label.step, label.annotation.label, label.parent) for label in labels] == [
        ("things", "sign", None),
        ("words", "(20.0, 20.0, 40.0, 60.0)", 0),
    ]


def test_a_region_is_cut_out_for_a_task_that_takes_none() -> None:
    labels, turns = play(
        recipe("- {id: things, task: <OD>}\n- {id: words, task: <OCR_WITH_REGION>, each: things}"),
        by_task(OD=result(box("sign", 100.4, 50.6, 199.2, 80)), OCR_WITH_REGION=result(quad("STOP", *range(8)))),
    )
    assert turns[1][0].crop == (100, 50, 200, 80)
    assert turns[1][0].region is None
    assert labels[1].annotation == quad("STOP", 100, 51, 102, 53, 104, 55, 106, 57)


@pytest.mark.parametrize(
    "wild", [(-5.0, -5.0, 2000.0, 900.0), (10.0, 10.0, 10.0, 90.0), (1100.0, 0.0, 1200.0, 9.0), (5.0, 5.0, 5.0, 5.0)]
)
def test_regions_lie_in_the_picture_and_are_not_empty(wild: tuple[float, ...]) -> None:
    steps = "- {id: a, task: <OD>, check: true}\n- {id: b, task: <REGION_TO_OCR>, each: a}\n"
    _, turns = play(recipe(steps + "- {id: c, task: <OCR>, each: a}"), by_task(OD=result(box("x", *wild))))
    assert len(turns) == (3 if wild[0] < 0 else 1)  # `play` holds each ask to what the tasks take


def test_a_texts_region_has_its_own_words() -> None:
    _, turns = play(
        recipe("""
            - {id: things, task: <OD>}
            - {id: said, task: <REGION_TO_DESCRIPTION>, each: things}
            - {id: cut, task: <REFERRING_EXPRESSION_SEGMENTATION>, each: things, text: "${said}"}
            - {id: whole, task: <OPEN_VOCABULARY_DETECTION>, text: "${things}"}
        """),
        by_task(
            OD=result(box("cat", 0, 0, 9, 9), box("dog", 20, 0, 29, 9), box("cat", 40, 0, 49, 9)),
            REGION_TO_DESCRIPTION=lambda ask: text(f"thing at {ask.region[0]:.0f}" if ask.region else ""),
        ),
    )
    asked = [(ask.task.token, ask.text, ask.crop) for turn in turns for ask in turn if ask.text]
    assert asked == [
        ("<OPEN_VOCABULARY_DETECTION>", "cat", None),  # each distinct one once
        ("<OPEN_VOCABULARY_DETECTION>", "dog", None),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "thing at 0", (0, 0, 9, 9)),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "thing at 20", (20, 0, 29, 9)),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "thing at 40", (40, 0, 49, 9)),
    ]


def test_words_that_cannot_be_asked_are_not() -> None:
    _, turns = play(recipe(CASCADE), by_task(CAPTION=text("a <pad> of paper")))
    assert len(turns) == 1
    _, turns = play(recipe(CASCADE), by_task(CAPTION=text("word " * 1000)))
    assert len(turns[1][0].text or "") <= 1000


def test_a_step_without_anything_to_ask_ends_those_after_it() -> None:
    labels, turns = play(recipe(CASCADE), by_task())
    assert labels == []
    assert len(turns) == 1


ONTOLOGY = """
ontology:
  vehicle: [car, truck]
  pet: [cat]
"""


@pytest.mark.parametrize(
    ("others", "expected"),
    [("drop", ["vehicle", "pet"]), ("keep", ["vehicle", "pet", "tree"]), ("review", ["vehicle", "pet", "tree"])],
)
def test_labels_are_the_projects(others: str, expected: list[str]) -> None:
    od = result(box("a red Car", 0, 0, 9, 9), box("cat", 9, 9, 20, 20), box("tree", 30, 30, 50, 50))
    labels, _ = play(recipe("- {id: a, task: <OD>}", ONTOLOGY + f"others: {others}"), by_task(OD=od))
    assert names(labels) == expected
    reviewed = [label.annotation.label for label in labels if label.review]
    assert reviewed == (["tree"] if others == "review" else [])


def test_the_ontology_leaves_words_and_descriptions_alone() -> None:
    labels, _ = play(
        recipe(
            """
            - {id: a, task: <OD>}
            - {id: b, task: <OCR_WITH_REGION>}
            - {id: c, task: <REGION_TO_DESCRIPTION>, each: a}
            - {id: d, task: <REGION_TO_CATEGORY>, each: a}
            - {id: e, task: <REGION_PROPOSAL>}
            """,
            ONTOLOGY,
        ),
        by_task(
            OD=result(box("cat", 0, 0, 9, 9)),
            OCR_WITH_REGION=result(quad("CARS", *range(8))),
            REGION_TO_DESCRIPTION=text("a house"),
            REGION_TO_CATEGORY=text("truck"),
            REGION_PROPOSAL=result(box("", 1, 1, 5, 5)),
        ),
    )
    assert names(labels) == ["pet", "CARS", "a house", "vehicle", ""]


def test_a_category_outside_the_ontology_is_not_its_regions_label() -> None:
    steps = "- {id: a, task: <OD>}\n- {id: b, task: <REGION_TO_CATEGORY>, each: a}"
    answers = by_task(OD=result(box("cat", 0, 0, 9, 9)), REGION_TO_CATEGORY=text("zebra"))
    assert names(play(recipe(steps, ONTOLOGY), answers)[0]) == ["pet"]
    assert names(play(recipe(steps, ONTOLOGY + "others: keep"), answers)[0]) == ["pet", "zebra"]


def test_each_phrase_of_the_ontology_is_asked_for_and_its_answer_is_its_label() -> None:
    def find(ask: ModelPrompt) -> Result:
        return result(box("automobile" if ask.text == "car" else "", 10, 10, 50, 50)) if ask.text != "cat" else result()

    labels, turns = play(
        recipe("- {id: a, task: <OPEN_VOCABULARY_DETECTION>, text: '${ontology}'}", ONTOLOGY),
        by_task(OPEN_VOCABULARY_DETECTION=find),
    )
    assert [ask.text for ask in turns[0]] == ["cat", "car", "truck"]
    assert names(labels) == ["vehicle"]  # car and truck at one place are one vehicle


def test_a_text_asked_for_by_phrase_stays_what_was_said() -> None:
    labels, turns = play(
        recipe("- {id: a, task: <OD>}\n- {id: b, task: <VQA>, text: '${ontology}'}", ONTOLOGY), by_task(VQA=text("two"))
    )
    assert [ask.text for ask in turns[0][1:]] == ["cat", "car", "truck"]
    assert names(labels) == ["two"] * 3


def test_a_shape_without_words_is_called_what_was_asked_for() -> None:
    labels, _ = play(
        recipe("""
            - {id: a, task: <REFERRING_EXPRESSION_SEGMENTATION>, text: the cat}
            - {id: b, task: <CAPTION_TO_PHRASE_GROUNDING>, text: a cat on a mat}
        """),
        by_task(
            REFERRING_EXPRESSION_SEGMENTATION=result(polygon([0, 0, 9, 0, 9, 9])),
            CAPTION_TO_PHRASE_GROUNDING=result(box("", 0, 0, 9, 9)),
        ),
    )
    assert names(labels) == ["the cat", ""]


@pytest.mark.parametrize("policy", ["review", "drop"])
def test_a_grounded_phrase_that_the_text_does_not_say_is_doubtful(policy: str) -> None:
    labels, _ = play(
        recipe("- {id: a, task: <CAPTION_TO_PHRASE_GROUNDING>, text: a cat on a mat}", f"disagreement: {policy}"),
        by_task(CAPTION_TO_PHRASE_GROUNDING=result(box("a mat", 0, 0, 9, 9), box("a rocket", 5, 5, 9, 9))),
    )
    assert names(labels) == (["a mat", "a rocket"] if policy == "review" else ["a mat"])
    assert [bool(label.review) for label in labels] == [False, True][: len(labels)]


@pytest.mark.parametrize("policy", ["review", "drop"])
def test_the_mirror_image_must_agree(policy: str) -> None:
    def look(ask: ModelPrompt) -> Result:
        if ask.mirrored:  # 1000 pixels wide: the cat at 100 … 200 is at 800 … 900 there
            return result(box("cat", 800, 0, 900, 100), box("dog", 0, 0, 100, 100))
        return result(box("cat", 102, 0, 200, 100), box("dog", 0, 0, 100, 100), box("bird", 100, 0, 200, 100))

    labels, turns = play(recipe("- {id: a, task: <OD>, flip: 0.9}", f"disagreement: {policy}"), by_task(OD=look))
    assert [ask.mirrored for ask in turns[0]] == [False, True]
    assert names(labels) == (["cat", "dog", "bird"] if policy == "review" else ["cat"])
    assert labels[0].annotation == box("cat", 102, 0, 200, 100)
    assert all("mirror" in label.review for label in labels[1:])


@pytest.mark.parametrize("policy", ["review", "drop"])
def test_a_region_asked_back_must_get_its_label(policy: str) -> None:
    said = {0.0: "the cat", 20.0: "wolf", 40.0: "lorry", 60.0: ""}
    labels, turns = play(
        recipe("- {id: a, task: <OD>, check: true, adapter: mine}", f"disagreement: {policy}\n" + CHECKED),
        by_task(
            OD=result(
                *(box(name, x, 0, x + 10, 9) for name, x in zip(["cat", "dog", "truck", "bird"], said, strict=True))
            ),
            REGION_TO_CATEGORY=lambda ask: text(said[ask.region[0]]) if ask.region else result(),
        ),
    )
    assert [(ask.task.token, ask.adapter) for ask in turns[1]] == [("<REGION_TO_CATEGORY>", "mine")] * 4
    assert names(labels) == (["cat", "dog", "truck", "bird"] if policy == "review" else ["cat", "truck"])
    if policy == "review":
        assert "'wolf'" in labels[1].review
        assert "no name" in labels[3].review


def test_each_task_that_a_step_asks_a_project_has_its_own_champion() -> None:
    steps = "- {id: a, task: <OD>, check: true, project: birds}\n- {id: b, task: <OCR>}"
    answers = by_task(OD=result(box("cat", 0, 0, 9, 9)), REGION_TO_CATEGORY=text("cat"), OCR=text("X"))
    for other, name in (("{model: 4, sha256: b}", "projects/birds/model-4"), ("null", None)):
        champions = f"champions: {{birds: {{<OD>: {{model: 3, sha256: a}}, <REGION_TO_CATEGORY>: {other}}}}}"
        asked = recipe(steps, champions)
        assert asked.projects == [("birds", "<OD>"), ("birds", "<REGION_TO_CATEGORY>")]
        assert asked.models == {"projects/birds/model-3": "a", **({name: "b"} if name else {})}
        labels, turns = play(asked, answers)
        who = [(ask.task.token, ask.adapter) for turn in turns for ask in turn]
        assert who == [("<OD>", "projects/birds/model-3"), ("<OCR>", None), ("<REGION_TO_CATEGORY>", name)]
        assert [label.adapter for label in labels] == ["projects/birds/model-3", None]


CHECKED = "ontology: {cat: , dog: , truck: [truck, lorry], bird: }"


def test_only_what_the_filters_leave_is_asked_back() -> None:
    _, turns = play(
        recipe("- {id: a, task: <OD>, check: true, filter: {score: 0.5}}"),
        by_task(OD=result(box("cat", 0, 0, 9, 9, score=0.4), box("dog", 0, 0, 9, 9, score=0.5))),
    )
    assert len(turns[1]) == 1


def test_low_scores_and_what_is_about_them_are_for_review() -> None:
    labels, _ = play(
        recipe("- {id: a, task: <OD>}\n- {id: b, task: <REGION_TO_OCR>, each: a}", "review_below: 0.5"),
        by_task(
            OD=result(box("cat", 0, 0, 9, 9, score=0.49), box("dog", 9, 9, 20, 20, score=0.5)),
            REGION_TO_OCR=text("X", score=None),
        ),
    )
    assert [label.review for label in labels] == [*("score 0.49 is below 0.5", "", "what it is about is doubtful", "")]


def test_a_text_that_ran_out_of_length_is_for_review() -> None:
    long = result(Text(label="and so on and so on", score=0.9), finish="length")
    labels, _ = play(recipe("- {id: a, task: <CAPTION>}"), by_task(CAPTION=long))
    assert labels[0].review == "the answer was cut short"


def test_tiles_answers_are_the_pictures() -> None:
    """A thing in the overlap of two tiles, seen by both and in the whole, is one thing in its own place."""
    there = (430.0, 200.0, 470.0, 260.0)

    def look(ask: ModelPrompt) -> Result:
        x, y = ask.crop[:2] if ask.crop else (0, 0)
        width, _ = shown(ask, SIZE)
        if there[0] < x or there[2] > x + width:
            return result()
        score = 0.5 if ask.crop is None else 0.9
        return result(box("cat", there[0] - x, there[1] - y, there[2] - x, there[3] - y, score=score))

    labels, turns = play(recipe("- {id: a, task: <OD>, tile: {size: 500, overlap: 0.2}}"), by_task(OD=look))
    assert [ask.crop for ask in turns[0]] == [None, (0, 0, 500, 500), (250, 0, 750, 500), (500, 0, 1000, 500)]
    assert [label.annotation for label in labels] == [box("cat", *there, score=0.9)]
    assert not labels[0].review


def test_what_a_tiles_edge_cut_gives_way_or_is_doubtful() -> None:
    whole = (100.0, 100.0, 600.0, 200.0)

    def look(ask: ModelPrompt, seen_whole: bool) -> Result:
        if ask.crop is None:
            return result(box("bus", *whole, score=0.3)) if seen_whole else result()
        x1, x2 = max(whole[0], ask.crop[0]), min(whole[2], ask.crop[2])
        return result(box("bus", x1 - ask.crop[0], 100, x2 - ask.crop[0], 200)) if x1 < x2 else result()

    given = recipe("- {id: a, task: <OD>, tile: {size: 500, overlap: 0.0}}")
    labels, _ = play(given, by_task(OD=lambda ask: look(ask, True)))
    assert [label.annotation for label in labels] == [box("bus", *whole, score=0.3)]
    labels, _ = play(given, by_task(OD=lambda ask: look(ask, False)))
    assert [label.review for label in labels] == ["cut by the edge of a tile"] * 2


ODD = [
    result(),
    result(Box(box=(3, 3, 3, 3)), Box(label="cat", box=(-9, -9, 5000, 5000)), Box(label="  ", box=(9, 9, 1, 1))),
    result(Polygon(polygons=[]), Polygon(label="cat", polygons=[[]]), Polygon(polygons=[[1.0]]), polygon([1, 1])),
    result(Text(label=""), Text(label="cat")),
    result(quad("", *range(8))),
    result(*[box("cat", 0, 0, 1000, 500)] * 3),
]
EVERYTHING = recipe(
    """
    - {id: things, task: <OD>, tile: {size: 400}, flip: 0.5, check: true, filter: {nms: 0.5, duplicates: 0.9, count: 3}}
    - {id: outlines, task: <REGION_TO_SEGMENTATION>, each: things, filter: {max_aspect: 3, min_area: 0.01}}
    - {id: words, task: <OCR_WITH_REGION>, each: outlines, filter: {min_side: 0.01, max_side: 0.9}}
    - {id: read, task: <REGION_TO_OCR>, each: words}
    - {id: caption, task: <CAPTION>}
    - {id: phrases, task: <CAPTION_TO_PHRASE_GROUNDING>, text: "${caption}", flip: 0.5, check: true}
    - {id: open, task: <OPEN_VOCABULARY_DETECTION>, text: "${ontology}", tile: {size: 300}, check: true}
    - {id: masks, task: <REFERRING_EXPRESSION_SEGMENTATION>, text: "${words}", flip: 0.3}
    - {id: own, task: <REFERRING_EXPRESSION_SEGMENTATION>, text: "${things}", each: things}
    - {id: proposals, task: <REGION_PROPOSAL>, tile: {size: 300}}
    - {id: categories, task: <REGION_TO_CATEGORY>, each: proposals}
    - {id: question, task: <VQA>, text: how many?, each: proposals}
    """,
    "ontology: {cat: [cat, kitten], dog: }\nothers: review\nreview_below: 0.5",
)


def sound(labels: list[TracedAnnotation]) -> None:
    """What every consumer of labels counts on."""
    for index, label in enumerate(labels):
        assert label.parent is None or 0 <= label.parent < index


@steady
@given(st.lists(st.sampled_from(ODD), min_size=1, max_size=20), st.sampled_from([(1, 1), (7, 3), SIZE]))
def test_no_answer_makes_it_raise(answers: list[Result], size: tuple[int, int]) -> None:
    turn = iter(answers * 1000)
    sound(play(EVERYTHING, lambda ask: next(turn), size)[0])


TOKENS = st.one_of(
    st.sampled_from(["cat", " dog", "a", " ", "é", "<s>", "${caption}", "\n"]).map(lambda s: Token(text_bytes=s.encode())),
    st.integers(0, locations.BINS - 1).map(lambda n: Token(location=n)),
    st.sampled_from(STRUCTURE_TOKENS).map(lambda s: Token(structure=s)),
)


@steady
@given(st.lists(st.lists(TOKENS, max_size=30), min_size=1, max_size=8))
def test_no_tokens_make_it_raise(said: list[list[Token]]) -> None:
    turn = iter(said * 1000)

    def answer(ask: ModelPrompt) -> Result:
        read = parse_answer(ask.task, next(turn), shown(ask, SIZE))
        return result(*read.annotations, text=read.text)

    labels, _ = play(EVERYTHING, answer)
    sound(labels)
    for label in labels:
        if isinstance(label.annotation, Box):
            x1, y1, x2, y2 = label.annotation.box
            assert 0 <= x1 <= x2 <= SIZE[0]
            assert 0 <= y1 <= y2 <= SIZE[1]
        assert label.annotation.score is None or math.isfinite(label.annotation.score)


LIMITS = [{}, {}, {}, {"score": 0.5}, {"nms": 0.5, "count": 2}, {"min_side": 0.1, "max_area": 0.5}]


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, object]:
    """Recipes, of which many fit."""
    steps: list[dict[str, object]] = []
    for id in "abcd"[: draw(st.integers(1, 4))]:
        task = find_task(draw(st.sampled_from([*TASKS, "<VQA>"])))
        step: dict[str, object] = {"id": id, "task": task.token, "filter": draw(st.sampled_from(LIMITS))}
        before = [str(other["id"]) for other in steps]
        if before and (task.input_kind is InputKind.REGION or draw(st.booleans())):
            step["each"] = draw(st.sampled_from(before))
        elif task.input_kind is not InputKind.REGION and task.answer_kind is not AnswerKind.TEXT:
            step |= draw(st.sampled_from([{}, {"tile": {"size": 300}}, {"flip": 0.5}]))
        if task.input_kind is InputKind.TEXT:
            step["text"] = draw(st.sampled_from(["a cat", "${ontology}", *(f"${{{name}}}" for name in before)]))
        steps.append(step | draw(st.sampled_from([{}, {}, {}, {"check": True}, {"keep": False}])))
    named = draw(st.booleans()) or any(step.get("text") == "${ontology}" for step in steps)
    policy = (
        {"ontology": {"pet": ["cat"]}, "others": draw(st.sampled_from(["keep", "drop", "review"]))} if named else {}
    )
    return {"name": "x", "steps": steps, "disagreement": "drop", "review_below": 0.5} | policy


@settings(steady, max_examples=150)
@given(recipes(), st.lists(st.sampled_from(ODD), min_size=1, max_size=8))
def test_a_recipe_is_refused_or_runs(data: dict[str, object], answers: list[Result]) -> None:
    try:
        given_ = validate_recipe(data)
    except RecipeError:
        return
    turn = iter(answers * 1000)
    labels, _ = play(given_, lambda ask: next(turn))
    sound(labels)
    assert {label.step for label in labels} <= {step.id for step in given_.steps if step.keep}


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_the_same_answers_give_the_same_labels(name: str) -> None:
    def answer(ask: ModelPrompt) -> Result:
        if ask.task.answer_kind is AnswerKind.TEXT:
            return text(f"a cat and a dog, asked of {ask.region}")
        return result(*(box("cat", x, 0, x + 90, 90, score=0.5) for x in range(0, 900, 40)))

    assert play(load_recipe(name), answer) == play(load_recipe(name), answer)
