import pytest

from prompts import tasks
from prompts.tasks import ADDED_TOKENS, TASKS, Gives, Takes, TaskError, resolve

SIZE = (1000, 500)


def takers(takes):
    return [t for t in TASKS.values() if t.takes is takes]


def name(task):
    return task.token


# From 50265 on, where BART's vocabulary ends.
@pytest.mark.parametrize(
    ("token", "index"),
    [
        ("<od>", 50265),
        ("</ocr>", 50268),
        ("<loc_0>", 50269),
        ("<loc_999>", 51268),
        ("<cap>", 51269),
        ("</seg>", 51278),
        ("<sep>", 51279),
        ("<poly>", 51286),
        ("</poly>", 51287),
        ("<and>", 51288),
        ("<image>", 51289),
    ],
)
def test_added_tokens_stand_in_the_order_of_their_ids(token, index):
    assert 50265 + ADDED_TOKENS.index(token) == index


def test_no_token_is_added_twice():
    assert len(set(ADDED_TOKENS)) == len(ADDED_TOKENS) == 1025


@pytest.mark.parametrize("task", TASKS.values(), ids=name)
def test_a_row_is_whole(task):
    assert resolve(task.token) is task
    assert task.title
    assert task.wording.count("{input}") == (task.takes is not Takes.NOTHING)


@pytest.mark.parametrize("task", takers(Takes.NOTHING), ids=name)
def test_a_task_that_takes_nothing_says_its_wording(task):
    assert task.prompt() == task.wording
    with pytest.raises(TaskError) as caught:
        task.prompt(text="a cat")
    assert caught.value.field == "text"
    with pytest.raises(TaskError) as caught:
        task.prompt(region=[1, 2, 3, 4], size=SIZE)
    assert caught.value.field == "region"


@pytest.mark.parametrize("task", takers(Takes.TEXT), ids=name)
def test_a_task_that_takes_text_says_it_within_its_wording(task):
    # Braces are letters like others, and white space around the text is not part of it.
    assert task.prompt(" a {cat}\n") == task.wording.replace("{input}", "a {cat}")
    for missing in (None, "", " \n"):
        with pytest.raises(TaskError, match="needs text") as caught:
            task.prompt(missing)
        assert caught.value.field == "text"


@pytest.mark.parametrize("task", takers(Takes.REGION), ids=name)
def test_a_task_that_takes_a_region_says_its_locations(task):
    wording = task.wording.replace("{input}", "<loc_100><loc_200><loc_200><loc_400>")
    assert task.prompt(region=[100, 100, 200, 200], size=SIZE) == wording
    for region, size in ((None, SIZE), ([1, 2, 3, 4], None)):
        with pytest.raises(TaskError, match="needs a region") as caught:
            task.prompt(region=region, size=size)
        assert caught.value.field == "region"
    with pytest.raises(TaskError) as caught:
        task.prompt("a cat", region=[100, 100, 200, 200], size=SIZE)
    assert caught.value.field == "text"


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ([1, 2, 3], "four numbers"),
        ([3, 2, 1, 4], "inverted or empty"),
        ([1, 4, 3, 4], "inverted or empty"),
        ([float("nan"), 2, 3, 4], "inverted or empty"),
        ([-1, 2, 3, 4], "outside"),
        ([1, 2, 1001, 4], "outside"),
        ([1, 2, 3, 501], "outside"),
    ],
)
def test_a_region_lies_upright_within_the_picture(region, message):
    with pytest.raises(TaskError, match=message) as caught:
        TASKS["<REGION_TO_OCR>"].prompt(region=region, size=SIZE)
    assert caught.value.field == "region"


def test_the_whole_picture_is_a_region():
    prompt = TASKS["<REGION_TO_OCR>"].prompt(region=[0, 0, *SIZE], size=SIZE)
    assert "<loc_0><loc_0><loc_999><loc_999>" in prompt


@pytest.mark.parametrize("token", tasks.CONTROL)
def test_a_control_token_in_the_text_is_refused(token):
    for task in (TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], resolve("<VQA>")):
        with pytest.raises(TaskError, match=token) as caught:
            task.prompt(f"a{token}b")
        assert caught.value.field == "text"


@pytest.mark.parametrize(
    "token", ["<VQA>", "<DocVQA>", "<GENERATE_TAGS>", "<ANALYZE>", "<MIXED_CAPTION>", "<MIXED_CAPTION_PLUS>"]
)
def test_a_fine_tuned_models_own_token_passes_through_literally(token):
    task = resolve(token)
    assert (task.token, task.takes, task.gives) == (token, Takes.TEXT, Gives.TEXT)
    assert task.prompt() == token
    assert task.prompt(" what is it?") == token + " what is it?"


@pytest.mark.parametrize(
    ("token", "meant"),
    [
        ("caption", "<CAPTION>"),
        ("<caption>", "<CAPTION>"),
        ("<CAPTON>", "<CAPTION>"),
        ("<OD", "<OD>"),
        ("<od>", "<OD>"),
        ("<DETAILED_CAPTIONS>", "<DETAILED_CAPTION>"),
        ("<OCR_WITH_REGIONS>", "<OCR_WITH_REGION>"),
        ("<OPEN_VOCABULARY_DETECION>", "<OPEN_VOCABULARY_DETECTION>"),
    ],
)
def test_a_misspelt_token_is_told_what_it_may_mean(token, meant):
    with pytest.raises(TaskError) as caught:
        resolve(token)
    assert f"Did you mean {meant}?" in str(caught.value)
    assert caught.value.field == "task"


@pytest.mark.parametrize(
    "token", ["", "what?", "<two words>", "<s>", "<loc_5>", "<sep>", "<image>", "<A><B>", "x" * 10_000]
)
def test_what_is_no_task_token_is_refused(token):
    with pytest.raises(TaskError, match="no such task") as caught:
        resolve(token)
    assert len(str(caught.value)) < 250
