"""Recipes as people write them, wrong ones above all: each fault with its line, and what to do."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.recipes.parsing import RecipeError, load, parse, read, ready
from tests.server.jobs.recipes.answering import steady

TOP = "name: x\n"


def wrong(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text, "r.yaml")
    return str(caught.value)


def test_a_recipe_of_every_key() -> None:
    recipe = read("""
# A comment
name: city
ontology:
  vehicle: [car, truck]
  no:                     # YAML 1.2: a word like any other
  person: []
others: review
disagreement: drop
review_below: 0.4
steps:
  - id: things
    task: <OD>
    adapter: project-7
    tile: {size: 768, overlap: 0.1, merge: 0.6}
    flip: 0.5
    check: true
    keep: no
    filter: {score: 0.1, min_side: 0.01, max_side: 0.9, min_area: 0, max_area: 1, max_aspect: 8, count: 50,
             nms: 0.6, duplicates: 0.9}
  - id: outlines
    task: <REGION_TO_SEGMENTATION>
    each: things
  - {id: named, task: <OPEN_VOCABULARY_DETECTION>, text: "${ontology}"}
""")
    assert recipe.ontology == {"vehicle": ["car", "truck"], "no": ["no"], "person": ["person"]}
    assert not recipe.step("things").keep
    assert recipe.step("outlines").sources == ("things",)
    assert recipe.step("named").sources == ()
    assert recipe.adapters == ["project-7"]


def test_json_is_read_too_and_data_of_a_request() -> None:
    data = {"name": "x", "steps": [{"id": "a", "task": "<OD>"}]}
    assert read(json.dumps(data)) == parse(data) == read("name: x\nsteps: [{id: a, task: <OD>}]")


def test_a_token_of_a_fine_tuned_model_passes_through() -> None:
    assert read(TOP + "steps: [{id: a, task: <VQA>, text: how many?}]").steps[0].asked.token == "<VQA>"


FAULTS = [
    # YAML itself
    ("", "1:1", "it is empty"),
    ("name: [", "1:8", "this is no YAML: expected the node content"),
    ("name: x\nsteps:\n\t- id: a", "3:1", "indent with spaces"),
    ("name: x\nname: y", "2:1", "the key 'name' is there twice"),
    ("name: &n x\nsteps: *n", "1:7", "an alias"),
    ("name: !!int x", "1:7", "take the tag out"),
    ("? [a]\n: b", "1:3", "a key is one word"),
    ("a: 1\n---\nb: 2", "2:1", "but found another document"),
    # types
    ("- a", "1:1", "a recipe should have keys: name, ontology"),
    (TOP, "1:1", "`steps` is missing"),
    (TOP + "steps: []", "2:8", "steps should"),
    (TOP + "steps: {}", "2:8", "steps should be a list"),
    (TOP + "steps: [a]", "2:9", "steps should have keys: id, task"),
    ("name: 7\nsteps: [{id: a, task: <OD>}]", "1:7", "name should be text, not 7; put it in quotes"),
    (TOP + "ontology: cat\nsteps: [{id: a, task: <OD>}]", "2:11", "as in `cat: [cat, kitten]`"),
    (TOP + "ontology: {cat: kitten}\nsteps: [{id: a, task: <OD>}]", "2:17", "ontology.cat should be a list"),
    (TOP + "ontology: {cat: [7]}\nsteps: [{id: a, task: <OD>}]", "2:18", "put it in quotes"),
    (
        TOP + "others: kep\nsteps: [{id: a, task: <OD>}]",
        "2:9",
        "others should be 'keep', 'drop' or 'review', not 'kep'",
    ),
    (TOP + "step: []\nsteps: [{id: a, task: <OD>}]", "2:1", "there is no key 'step' here; did you mean `steps`?"),
    (TOP + "steps:\n- id: a\n  task: <OD>\n  filtr: {}", "5:3", "did you mean `filter`?"),
    (TOP + "steps:\n- id: a\n  task: <OD>\n  filter:\n    nsm: 0.5", "6:5", "did you mean `nms`?"),
    (TOP + "steps:\n- id: a\n  task: <OD>\n  qqqqq: 1", "5:3", "there are id, task, text"),
    (TOP + "steps:\n- id: a", "3:3", "`task` is missing; say what to ask, such as <OD>"),
    (TOP + "steps:\n- task: <OD>", "3:3", "`id` is missing"),
    (TOP + "steps: [{id: a b, task: <OD>}]", "2:14", "id is letters, digits, - and _"),
    (TOP + "steps: [{id: a, task: OD}]", "2:23", "no such task: 'OD'. Did you mean <OD>?"),
    (TOP + "steps: [{id: a, task: <OCR_WITH_REGIONS>}]", "2:23", "Did you mean <OCR_WITH_REGION>?"),
    (TOP + "steps: [{id: a, task: find things}]", "2:23", "`florist tasks` lists them"),
    (TOP + "steps: [{id: a, task: <OD>, flip: 2}]", "2:35", "flip should be less than or equal to 1, not 2"),
    (TOP + "steps: [{id: a, task: <OD>, filter: {score: .nan}}]", "2:45", "filter.score should be"),
    (TOP + "steps: [{id: a, task: <OD>, tile: {size: 3}}]", "2:42", "tile.size should be greater than"),
    # references
    (TOP + "steps: [{id: a, task: <OD>}, {id: a, task: <OD>}]", "2:35", "two steps are called a"),
    (TOP + "steps: [{id: a, task: <OD>}, {id: a, task: <REGION_TO_SEGMENTATION>, each: a}]", "2:35", "two steps are"),
    (TOP + "steps: [{id: ontology, task: <OD>}]", "2:14", "call it otherwise"),
    (TOP + "steps: [{id: things, task: <OD>}, {id: b, task: <REGION_TO_OCR>, each: thing}]", "2:72", "mean things?"),
    (TOP + "steps: [{id: b, task: <REGION_TO_OCR>, each: a}]", "2:46", "there is no step 'a': there is none before it"),
    (TOP + "steps: [{id: b, task: <REGION_TO_OCR>, each: b}]", "2:46", "b waits for itself"),
    (
        TOP + "steps:\n- {id: b, task: <REGION_TO_OCR>, each: a}\n- {id: a, task: <OD>}",
        "3:40",
        "b asks about a, which comes later; move a before it",
    ),
    (
        TOP + "steps:\n- {id: a, task: <OD>}\n- {id: p, task: <REFERRING_EXPRESSION_SEGMENTATION>, text: '${q}'}\n"
        "- {id: q, task: <REGION_TO_SEGMENTATION>, each: p}",
        "4:60",
        "a cycle: p waits for q waits for p",
    ),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: 'a ${b}'}]", "2:58", "a reference stands alone"),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: '${ontology}'}]", "2:58", "add `ontology`"),
    # what does not fit
    (
        TOP + "steps: [{id: a, task: <CAPTION>}, {id: b, task: <OCR>, each: a}]",
        "2:62",
        "a (<CAPTION>) finds no regions",
    ),
    (TOP + "steps: [{id: a, task: <REGION_TO_OCR>}]", "2:23", "add `each:`"),
    (TOP + "steps: [{id: a, task: <OD>, text: cat}]", "2:35", "<OD> takes no text"),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>}]", "2:23", "needs `text`"),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: ' '}]", "2:23", "needs `text`"),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: a <s>}]", "2:58", "control token <s>"),
    (
        TOP + "steps:\n- {id: a, task: <REGION_PROPOSAL>}\n- {id: b, task: <OPEN_VOCABULARY_DETECTION>, text: '${a}'}",
        "4:52",
        "a gives regions without words",
    ),
    (TOP + "steps: [{id: a, task: <CAPTION>, tile: {size: 500}}]", "2:40", "gives text without a place"),
    (
        TOP + "steps: [{id: a, task: <OD>}, {id: b, task: <OD>, each: a, tile: {size: 500}}]",
        "2:65",
        "questions about the whole picture",
    ),
    (TOP + "steps: [{id: a, task: <CAPTION>, flip: 0.5}]", "2:40", "gives text without a place"),
    (TOP + "steps: [{id: a, task: <OCR_WITH_REGION>, flip: 0.5}]", "2:48", "words cannot be read in a mirror"),
    (TOP + "steps: [{id: a, task: <OCR_WITH_REGION>, check: true}]", "2:49", "gives no labelled regions"),
    (TOP + "steps: [{id: a, task: <REGION_PROPOSAL>, check: true}]", "2:49", "gives no labelled regions"),
    (TOP + "steps: [{id: a, task: <CAPTION>, filter: {nms: 0.5}}]", "2:48", "gives text, which has no nms"),
    (TOP + "steps: [{id: a, task: <OD>, filter: {min_side: 0.5, max_side: 0.1}}]", "2:48", "nothing is between"),
    (TOP + "steps: [{id: a, task: <OD>, keep: false}]", "2:35", "it would be asked for nothing"),
    (TOP + "steps: [{id: a, task: <OD>, adapter: b, project: c}]", "2:50", "name `adapter` or `project`, not both"),
    (
        TOP + "champions: {c: {<OD>: , <OCR>: }}\nsteps: [{id: a, task: <OD>, project: c}]",
        "2:31",
        "no step asks the project c for <OCR>",
    ),
    (
        TOP + "champions: {c: {<OD>: {model: 3, sha256: x, id: 4}}}\nsteps: [{id: a, task: <OD>, project: c}]",
        "2:45",
        "there is no key 'id' here; there are model, sha256",
    ),
    # the ontology
    (TOP + "others: keep\nsteps: [{id: a, task: <OD>}]", "2:9", "add `ontology`"),
    (
        TOP + "ontology:\n  cat: [cat]\n  pet: [dog, a Cat]\nsteps: [{id: a, task: <OD>}]",
        "4:14",
        "phrase of cat already",
    ),
    (TOP + "ontology:\n  cat: ['!']\nsteps: [{id: a, task: <OD>}]", "3:9", "has no word in it"),
    (TOP + "ontology:\n  '': [cat]\nsteps: [{id: a, task: <OD>}]", "3:3", "a label is empty"),
    (TOP + "ontology:\n  cat: [<pad>]\nsteps: [{id: a, task: <OD>}]", "3:9", "control token <pad>"),
    (TOP + "ontology:\n  cat:\nsteps: [{id: a, task: <CAPTION>}]", "3:3", "no step names things"),
    (TOP + "ontology:\n  cat:\nsteps: [{id: a, task: <REGION_PROPOSAL>}]", "3:3", "no step names things"),
    (
        TOP + "ontology:\n  cat:\n  dog:\nsteps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: cat}]",
        "4:3",
        "dog can never be given: the steps ask for 'cat' alone; write `text: ${ontology}`",
    ),
]


@pytest.mark.parametrize(
    ("text", "place", "message"), FAULTS, ids=[f"{i}-{fault[2][:30]}" for i, fault in enumerate(FAULTS)]
)
def test_a_fault_is_told_with_its_line_and_what_to_do(text: str, place: str, message: str) -> None:
    lines = wrong(text).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"r.yaml:{place}: ")
    assert message in lines[0]


def test_all_faults_are_told_by_line() -> None:
    told = wrong("name: 7\nsteps:\n- id: a\n  task: <OD>\n  flop: 1\n- {task: OCR, id: b}")
    assert [line.split(": ")[0] for line in told.splitlines()] == ["r.yaml:1:7", "r.yaml:5:3", "r.yaml:6:10"]


def test_data_without_lines_has_errors_too() -> None:
    with pytest.raises(RecipeError, match=r"^recipe: there is no key 'tsk' here; did you mean `task`\?") as caught:
        parse({"name": "x", "steps": [{"id": "a", "task": "<OD>", "tsk": 1}]})
    assert caught.value.problems[0].line is None


def test_a_text_without_end_is_refused_unread() -> None:
    assert "1048576 at most" in wrong("#" * ((1 << 20) + 1))


@pytest.mark.parametrize("text", ["[" * 5000, "- " * 5000, "a: \x00", "{a: " * 3000, "a: '\\", "\ud800"])
def test_junk_is_refused(text: str) -> None:
    assert wrong(text).startswith("r.yaml")


@steady
@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    with pytest.raises(RecipeError):
        read(text)


def test_a_file_or_a_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsteps: [{id: a, task: <OD>}]", encoding="utf-8")
    assert load(path).name == "mine"
    assert load("detect").name == "detect"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for where, message in [
        (tmp_path / "none.yaml", "there is no such file"),
        ("detct", "did you mean detect?"),
        (tmp_path, "it cannot be read"),
        (tmp_path / "bytes.yaml", "UTF-8"),
        ("a\0b", "it cannot be read"),
    ]:
        with pytest.raises(RecipeError, match=message):
            load(where)


def test_the_ready_ones_are_ready() -> None:
    assert ready() == ["caption", "dense", "detect", "full", "ground", "ocr", "segment"]
    for name in ready():
        assert load(name).name == name
