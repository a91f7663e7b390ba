"""Recipes in files: each problem is reported with its line and what to do."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe, parse_recipe, validate_recipe
from server.jobs.recipes.problems import RecipeError
from server.jobs.recipes.recipe import MAX_STEPS
from server.jobs.recipes.yaml_document import MAX_LENGTH
from tests.server.jobs.recipes.scripted_answers import deterministic

TOP = "name: x\n"


def get_error(text: str) -> str:
    """Returns the message for an invalid recipe."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml")
    return str(caught.value)


def test_a_recipe_with_every_key() -> None:
    recipe = parse_recipe("""
# A comment
name: city
ontology:
  vehicle: [car, truck]
  no:                     # a string in YAML 1.2
  person: []
unmatched: review
disagreement: drop
review_below: 0.4
steps:
  - id: things
    task: <OD>
    adapter: project-7
    tile: {size: 768, overlap: 0.1, merge_iou: 0.6}
    flip: 0.5
    check: true
    keep: no
    filter: {min_score: 0.1, min_side: 0.01, max_side: 0.9, min_area: 0, max_area: 1, max_aspect: 8, max_count: 50,
             nms: 0.6, class_agnostic_nms: 0.9}
  - id: outlines
    task: <REGION_TO_SEGMENTATION>
    for_each: things
  - {id: named, task: <OPEN_VOCABULARY_DETECTION>, text: "${ontology}"}
""")
    assert recipe.ontology == {"vehicle": ["car", "truck"], "no": ["no"], "person": ["person"]}
    assert not recipe.get_step("things").keep
    assert recipe.get_step("outlines").dependencies == ("things",)
    assert recipe.get_step("named").dependencies == ()
    assert recipe.adapters == ["project-7"]


def test_json_and_plain_data_are_recipes_too() -> None:
    data = {"name": "x", "steps": [{"id": "a", "task": "<OD>"}]}
    assert (
        parse_recipe(json.dumps(data)) == validate_recipe(data) == parse_recipe("name: x\nsteps: [{id: a, task: <OD>}]")
    )


def test_an_unknown_task_token_is_accepted() -> None:
    assert (
        parse_recipe(TOP + "steps: [{id: a, task: <VQA>, text: how many?}]").steps[0].task_definition.token == "<VQA>"
    )


PROBLEMS = [
    # YAML
    ("", "1:1", "it is empty"),
    ("name: [", "1:8", "this is not valid YAML: did not find expected node content"),
    ("name: x\nsteps:\n\t- id: a", "3:1", "indent with spaces"),
    ("name: x\nname: y", "2:1", "the key 'name' appears twice"),
    ("name: &n x\nsteps: *n", "2:8", "aliases such as *n are not supported"),
    ("name: !!int x", "1:7", "remove the tag"),
    ("? [a]\n: b", "1:3", "a key must be a word"),
    ("a: 1\n---\nb: 2", "2:1", "but found another document"),
    # types
    ("- a", "1:1", "a recipe must have keys: name, ontology"),
    (TOP, "1:1", "`steps` is missing"),
    (TOP + "steps: []", "2:8", "steps must"),
    (TOP + "steps: {}", "2:8", "steps must be a list"),
    (TOP + "steps: [a]", "2:9", "steps must have keys: id, task"),
    ("name: 7\nsteps: [{id: a, task: <OD>}]", "1:7", "name must be text, not 7; put it in quotes"),
    (TOP + "ontology: cat\nsteps: [{id: a, task: <OD>}]", "2:11", "as in `cat: [cat, kitten]`"),
    (TOP + "ontology: {cat: kitten}\nsteps: [{id: a, task: <OD>}]", "2:17", "ontology.cat must be a list"),
    (TOP + "ontology: {cat: [7]}\nsteps: [{id: a, task: <OD>}]", "2:18", "put it in quotes"),
    (
        TOP + "unmatched: kep\nsteps: [{id: a, task: <OD>}]",
        "2:12",
        "unmatched must be 'keep', 'drop' or 'review', not 'kep'",
    ),
    (TOP + "step: []\nsteps: [{id: a, task: <OD>}]", "2:1", "there is no key 'step' here; did you mean `steps`?"),
    (TOP + "steps:\n- id: a\n  task: <OD>\n  filtr: {}", "5:3", "did you mean `filter`?"),
    (TOP + "steps:\n- id: a\n  task: <OD>\n  filter:\n    nsm: 0.5", "6:5", "did you mean `nms`?"),
    (TOP + "steps:\n- id: a\n  task: <OD>\n  qqqqq: 1", "5:3", "the keys are id, task, text"),
    (TOP + "steps:\n- id: a", "3:3", "`task` is missing: for example <OD>"),
    (TOP + "steps:\n- task: <OD>", "3:3", "`id` is missing"),
    (TOP + "steps: [{id: a b, task: <OD>}]", "2:14", "id must be letters, digits, - and _"),
    (TOP + "steps: [{id: a, task: OD}]", "2:23", "no such task: 'OD'. Did you mean <OD>?"),
    (TOP + "steps: [{id: a, task: <OCR_WITH_REGIONS>}]", "2:23", "Did you mean <OCR_WITH_REGION>?"),
    (TOP + "steps: [{id: a, task: find things}]", "2:23", "`florist tasks` lists them"),
    (TOP + "steps: [{id: a, task: <OD>, flip: 2}]", "2:35", "flip must be less than or equal to 1, not 2"),
    (TOP + "steps: [{id: a, task: <OD>, filter: {min_score: .nan}}]", "2:49", "filter.min_score must be"),
    (TOP + "steps: [{id: a, task: <OD>, tile: {size: 3}}]", "2:42", "tile.size must be greater than"),
    # references
    (TOP + "steps: [{id: a, task: <OD>}, {id: a, task: <OD>}]", "2:35", "two steps have the ID a"),
    (
        TOP + "steps: [{id: a, task: <OD>}, {id: a, task: <REGION_TO_SEGMENTATION>, for_each: a}]",
        "2:35",
        "two steps have",
    ),
    (TOP + "steps: [{id: ontology, task: <OD>}]", "2:14", "use another ID"),
    (
        TOP + "steps: [{id: things, task: <OD>}, {id: b, task: <REGION_TO_OCR>, for_each: thing}]",
        "2:76",
        "mean things?",
    ),
    (
        TOP + "steps: [{id: b, task: <REGION_TO_OCR>, for_each: a}]",
        "2:50",
        "there is no step 'a': there is no earlier step",
    ),
    (TOP + "steps: [{id: b, task: <REGION_TO_OCR>, for_each: b}]", "2:50", "b refers to itself"),
    (
        TOP + "steps:\n- {id: b, task: <REGION_TO_OCR>, for_each: a}\n- {id: a, task: <OD>}",
        "3:44",
        "b refers to a, which comes later; move a before it",
    ),
    (
        TOP + "steps:\n- {id: a, task: <OD>}\n- {id: p, task: <REFERRING_EXPRESSION_SEGMENTATION>, text: '${q}'}\n"
        "- {id: q, task: <REGION_TO_SEGMENTATION>, for_each: p}",
        "4:60",
        "a cycle: p needs q needs p",
    ),
    (
        TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: 'a ${b}'}]",
        "2:58",
        "a reference must be the whole text",
    ),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: '${ontology}'}]", "2:58", "add `ontology`"),
    # inputs that do not fit
    (
        TOP + "steps: [{id: a, task: <CAPTION>}, {id: b, task: <OCR>, for_each: a}]",
        "2:66",
        "a (<CAPTION>) finds no regions",
    ),
    (TOP + "steps: [{id: a, task: <REGION_TO_OCR>}]", "2:23", "add `for_each:`"),
    (TOP + "steps: [{id: a, task: <OD>, text: cat}]", "2:35", "<OD> takes no text"),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>}]", "2:23", "needs `text`"),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: ' '}]", "2:23", "needs `text`"),
    (TOP + 'steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: ", ,"}]', "2:58", "what to look for"),
    (TOP + "steps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: a <s>}]", "2:58", "control token <s>"),
    (
        TOP + "steps:\n- {id: a, task: <REGION_PROPOSAL>}\n- {id: b, task: <OPEN_VOCABULARY_DETECTION>, text: '${a}'}",
        "4:52",
        "a finds regions without words",
    ),
    (TOP + "steps: [{id: a, task: <CAPTION>, tile: {size: 500}}]", "2:40", "returns text without a position"),
    (
        TOP + "steps: [{id: a, task: <OD>}, {id: b, task: <OD>, for_each: a, tile: {size: 500}}]",
        "2:69",
        "prompts about the whole image",
    ),
    (TOP + "steps: [{id: a, task: <CAPTION>, flip: 0.5}]", "2:40", "returns text without a position"),
    (TOP + "steps: [{id: a, task: <OCR_WITH_REGION>, flip: 0.5}]", "2:48", "text cannot be read in a mirrored image"),
    (TOP + "steps: [{id: a, task: <OCR_WITH_REGION>, check: true}]", "2:49", "returns no labeled regions"),
    (TOP + "steps: [{id: a, task: <REGION_PROPOSAL>, check: true}]", "2:49", "returns no labeled regions"),
    (
        TOP + "steps: [{id: a, task: <CAPTION>, filter: {nms: 0.5}}]",
        "2:48",
        "returns text, to which nms does not apply",
    ),
    (TOP + "steps: [{id: a, task: <OD>, filter: {min_side: 0.5, max_side: 0.1}}]", "2:48", "is greater than max_side"),
    (TOP + "steps: [{id: a, task: <OD>, keep: false}]", "2:35", "has no effect"),
    (
        TOP + "steps: [{id: a, task: <OD>, adapter: b, project: c}]",
        "2:50",
        "use either `adapter` or `project`, not both",
    ),
    (
        TOP + "champions: {c: {<OD>: , <OCR>: }}\nsteps: [{id: a, task: <OD>, project: c}]",
        "2:32",
        "no step uses the project c for <OCR>",
    ),
    (
        TOP + "champions: {c: {<OD>: {model: 3, sha256: x, id: 4}}}\nsteps: [{id: a, task: <OD>, project: c}]",
        "2:45",
        "there is no key 'id' here; the keys are model, sha256",
    ),
    # the ontology
    (TOP + "unmatched: keep\nsteps: [{id: a, task: <OD>}]", "2:12", "add `ontology`"),
    (
        TOP + "ontology:\n  cat: [cat]\n  pet: [dog, a Cat]\nsteps: [{id: a, task: <OD>}]",
        "4:14",
        "already a phrase of cat",
    ),
    (TOP + "ontology:\n  cat: ['!']\nsteps: [{id: a, task: <OD>}]", "3:9", "has no word in it"),
    (TOP + "ontology:\n  '': [cat]\nsteps: [{id: a, task: <OD>}]", "3:3", "a label is empty"),
    (TOP + "ontology:\n  cat: [<pad>]\nsteps: [{id: a, task: <OD>}]", "3:9", "control token <pad>"),
    (TOP + "ontology:\n  cat:\nsteps: [{id: a, task: <CAPTION>}]", "3:3", "no step names objects"),
    (TOP + "ontology:\n  cat:\nsteps: [{id: a, task: <REGION_PROPOSAL>}]", "3:3", "no step names objects"),
    (
        TOP + "ontology:\n  cat:\n  dog:\nsteps: [{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: cat}]",
        "4:3",
        "get the label dog: the steps look only for 'cat'; use `text: ${ontology}`",
    ),
]


@pytest.mark.parametrize(
    ("text", "place", "message"), PROBLEMS, ids=[f"{i}-{problem[2][:30]}" for i, problem in enumerate(PROBLEMS)]
)
def test_a_problem_is_reported_with_its_line_and_what_to_do(text: str, place: str, message: str) -> None:
    lines = get_error(text).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"r.yaml:{place}: ")
    assert message in lines[0]


def test_all_problems_are_reported_in_order() -> None:
    message = get_error("name: 7\nsteps:\n- id: a\n  task: <OD>\n  flop: 1\n- {task: OCR, id: b}")
    assert [line.split(": ")[0] for line in message.splitlines()] == ["r.yaml:1:7", "r.yaml:5:3", "r.yaml:6:10"]


def test_plain_data_has_problems_without_lines() -> None:
    with pytest.raises(RecipeError, match=r"^recipe: there is no key 'tsk' here; did you mean `task`\?") as caught:
        validate_recipe({"name": "x", "steps": [{"id": "a", "task": "<OD>", "tsk": 1}]})
    assert caught.value.problems[0].line is None


def write_chain(steps: int) -> str:
    """Returns a recipe whose steps wait for each other in reverse: each for the next one."""
    lines = [f"- {{id: s{i}, task: <REGION_TO_CATEGORY>, for_each: s{i + 1}}}" for i in range(steps)]
    return TOP + "steps:\n" + "\n".join(lines) + f"\n- {{id: s{steps}, task: <OD>}}"


LARGE = [
    ("#" * (MAX_LENGTH + 1), "r.yaml: it has 262,145 characters; the limit is 262,144"),
    (TOP + "steps:\n- [" + "a," * 50_000 + "]", "r.yaml:3:39996: it has more than 20,000 values"),
    (TOP + "steps: " + "[" * 200, "r.yaml:2:28: it is nested more than 20 levels deep"),
    (TOP + "steps:\n" + "- " * 200, "r.yaml:3:41: it is nested more than 20 levels deep"),
    (write_chain(300), "r.yaml:3:1: steps has 301 entries; the limit is 200"),
    (
        TOP + f"steps: [{{id: a, task: <OPEN_VOCABULARY_DETECTION>, text: {'x' * 2001}}}]",
        "r.yaml:2:58: text has 2,001 characters; the limit is 2,000",
    ),
    (
        TOP + "ontology: {" + ", ".join(f"l{i}: " for i in range(2001)) + "}\nsteps: [{id: a, task: <OD>}]",
        "r.yaml:2:11: there are 2,001 labels; the limit is 2,000",
    ),
    (
        TOP + "ontology: {a: [" + ", ".join(f"p{i}" for i in range(2001)) + "]}\nsteps: [{id: a, task: <OD>}]",
        "r.yaml:2:11: there are 2,001 phrases; the limit is 2,000",
    ),
    (
        TOP + f"ontology: {{{'x' * 513}: }}\nsteps: [{{id: a, task: <OD>}}]",
        "has 513 bytes; the limit of one of the labels is 512",
    ),
]


@pytest.mark.parametrize(("text", "message"), LARGE, ids=[message[:50] for _, message in LARGE])
def test_a_recipe_above_a_limit_is_rejected_with_the_limit(text: str, message: str) -> None:
    assert message in get_error(text)


def test_problems_of_many_steps_are_found_quickly_and_the_first_are_reported() -> None:
    lines = get_error(write_chain(MAX_STEPS - 1)).splitlines()
    assert len(lines) == 21
    assert lines[0] == "r.yaml:3:50: s0 refers to s1, which comes later; move s1 before it"
    assert lines[-1] == "r.yaml: there are more problems; these are the first 20"


def test_an_ontology_of_the_largest_size_is_read_with_the_most_steps() -> None:
    """The search of all texts for each phrase is the most costly check."""
    phrases = [f"{i:04} {'word ' * 5}".strip() for i in range(2000)]
    steps = [
        {"id": f"s{i}", "task": "<OPEN_VOCABULARY_DETECTION>", "text": ", ".join(phrases[10 * i : 10 * i + 10])}
        for i in range(MAX_STEPS)
    ]
    data = {"name": "x", "ontology": {phrase: [] for phrase in phrases}, "steps": steps}
    assert parse_recipe(json.dumps(data)) == validate_recipe(data)


def test_emoji_that_json_escapes_as_two_halves_are_one_character() -> None:
    data = {"name": "\U0001f600 \\ud83d\\ude00", "steps": [{"id": "a", "task": "<OD>"}]}
    assert parse_recipe(json.dumps(data)).name == data["name"]
    assert "is not valid YAML" in get_error('name: "\\ud83d"\nsteps: [{id: a, task: <OD>}]')


@pytest.mark.parametrize("text", ["[" * 5000, "- " * 5000, "a: \x00", "{a: " * 3000, "a: '\\", "\ud800"])
def test_invalid_yaml_is_rejected(text: str) -> None:
    assert get_error(text).startswith("r.yaml")


@deterministic
@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(text)


def test_load_recipe_takes_a_file_or_a_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsteps: [{id: a, task: <OD>}]", encoding="utf-8")
    assert load_recipe(path).name == "mine"
    assert load_recipe("detect").name == "detect"


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for where, message in [
        (tmp_path / "none.yaml", "there is no such file"),
        ("detct", "did you mean detect?"),
        (tmp_path, "it cannot be read"),
        (tmp_path / "bytes.yaml", "UTF-8"),
        ("a\0b", "it cannot be read"),
    ]:
        with pytest.raises(RecipeError, match=message):
            load_recipe(where)


def test_the_built_in_recipes_load() -> None:
    assert list_builtin_recipes() == ["caption", "dense", "detect", "full", "ground", "ocr", "segment"]
    for name in list_builtin_recipes():
        assert load_recipe(name).name == name


def test_a_question_mark_in_brackets_is_text() -> None:
    recipe = parse_recipe(
        TOP + 'steps: [{id: a, task: <VQA>, text: how many? or none?}, {id: b, task: "<VQA>", text: "?"}]'
    )
    assert [step.text for step in recipe.steps] == ["how many? or none?", "?"]


def test_references_are_checked_beside_other_problems() -> None:
    """A bad `for_each` is listed with the wrong types of a recipe, and with the other problems of its step."""
    error = get_error(
        TOP + "steps:\n- {id: a, task: <OD>, filter: {min_score: 2}}\n"
        "- {id: b, task: <REGION_TO_OCR>, for_each: aa}\n- {id: my step, task: <OCR>}\n"
        "- {id: c, task: <REGION_TO_OCR>, for_each: my step}"
    )
    assert "r.yaml:3:" in error
    assert "min_score" in error
    assert "r.yaml:4:44: there is no step 'aa': did you mean a?" in error
    assert "there is no step 'my step'" not in error
    error = get_error(TOP + "steps: [{id: a, task: <CAPTION>, for_each: b, tile: {size: 500}}]")
    assert "there is no step 'b'" in error
    assert "`tile` splits the image" in error
