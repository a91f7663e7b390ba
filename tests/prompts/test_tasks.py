import pytest

from prompts.special_tokens import ADDED_TOKENS, CONTROL_TOKENS
from prompts.tasks import (
    TASKS,
    AnswerKind,
    InputKind,
    PromptError,
    describe_unknown_token,
    find_nearest_task,
    find_task,
)

SIZE = (1000, 500)


def tasks_with_input(kind):
    return [t for t in TASKS.values() if t.input_kind is kind]


def get_token(task):
    return task.token


# BART's vocabulary ends at 50264.
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
def test_added_tokens_are_in_the_order_of_their_ids(token, index):
    assert 50265 + ADDED_TOKENS.index(token) == index


def test_no_token_is_added_twice():
    assert len(set(ADDED_TOKENS)) == len(ADDED_TOKENS) == 1025


@pytest.mark.parametrize("task", TASKS.values(), ids=get_token)
def test_a_row_is_complete(task):
    assert find_task(task.token) is task
    assert task.title
    assert task.template.count("{input}") == (task.input_kind is not InputKind.NOTHING)


@pytest.mark.parametrize("task", tasks_with_input(InputKind.NOTHING), ids=get_token)
def test_the_prompt_of_a_task_without_input_is_its_template(task):
    assert task.build_prompt() == task.template
    with pytest.raises(PromptError) as caught:
        task.build_prompt(text="a cat")
    assert caught.value.field == "text"
    with pytest.raises(PromptError) as caught:
        task.build_prompt(region=[1, 2, 3, 4], size=SIZE)
    assert caught.value.field == "region"


@pytest.mark.parametrize("task", tasks_with_input(InputKind.TEXT), ids=get_token)
def test_text_is_inserted_into_the_template(task):
    # Braces have no special meaning, and white space around the text is stripped.
    assert task.build_prompt(" a {cat}\n") == task.template.replace("{input}", "a {cat}")
    for missing in (None, "", " \n"):
        with pytest.raises(PromptError, match="needs text") as caught:
            task.build_prompt(missing)
        assert caught.value.field == "text"


@pytest.mark.parametrize("task", tasks_with_input(InputKind.REGION), ids=get_token)
def test_a_region_is_inserted_as_location_tokens(task):
    expected = task.template.replace("{input}", "<loc_100><loc_200><loc_200><loc_400>")
    assert task.build_prompt(region=[100, 100, 200, 200], size=SIZE) == expected
    for region, size in ((None, SIZE), ([1, 2, 3, 4], None)):
        with pytest.raises(PromptError, match="needs a region") as caught:
            task.build_prompt(region=region, size=size)
        assert caught.value.field == "region"
    with pytest.raises(PromptError) as caught:
        task.build_prompt("a cat", region=[100, 100, 200, 200], size=SIZE)
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
def test_an_invalid_region_is_rejected(region, message):
    with pytest.raises(PromptError, match=message) as caught:
        TASKS["<REGION_TO_OCR>"].build_prompt(region=region, size=SIZE)
    assert caught.value.field == "region"


def test_the_whole_image_is_a_valid_region():
    prompt = TASKS["<REGION_TO_OCR>"].build_prompt(region=[0, 0, *SIZE], size=SIZE)
    assert "<loc_0><loc_0><loc_999><loc_999>" in prompt


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_a_control_token_in_the_text_is_rejected(token):
    for task in (TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], find_task("<VQA>")):
        with pytest.raises(PromptError, match=token) as caught:
            task.build_prompt(f"a{token}b")
        assert caught.value.field == "text"


@pytest.mark.parametrize(
    "token", ["<VQA>", "<DocVQA>", "<GENERATE_TAGS>", "<ANALYZE>", "<MIXED_CAPTION>", "<MIXED_CAPTION_PLUS>"]
)
def test_the_token_of_a_fine_tuned_model_is_passed_through_unchanged(token):
    task = find_task(token)
    assert (task.token, task.input_kind, task.answer_kind) == (token, InputKind.TEXT, AnswerKind.TEXT)
    assert task.build_prompt() == token
    assert task.build_prompt(" what is it?") == token + " what is it?"


@pytest.mark.parametrize(
    ("token", "suggestion"),
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
def test_a_misspelled_token_gets_a_suggestion(token, suggestion):
    with pytest.raises(PromptError) as caught:
        find_task(token)
    assert f"Did you mean {suggestion}?" in str(caught.value)
    assert caught.value.field == "task"


@pytest.mark.parametrize(
    "token", ["", "what?", "<two words>", "<s>", "<loc_5>", "<sep>", "<image>", "<A><B>", "x" * 10_000]
)
def test_an_invalid_task_token_is_rejected(token):
    with pytest.raises(PromptError, match="no such task") as caught:
        find_task(token)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("token", "nearest"),
    [
        ("<DETECT>", "<OD>"),
        ("<OBJECT_DETECTION>", "<OD>"),
        ("<SEGMENT>", "<REFERRING_EXPRESSION_SEGMENTATION>"),
        ("<GROUNDING>", "<CAPTION_TO_PHRASE_GROUNDING>"),
        ("<READ_TEXT>", "<OCR>"),
        ("<DENSE_CAPTION>", "<DENSE_REGION_CAPTION>"),
        ("<OPEN_VOCABULARY>", "<OPEN_VOCABULARY_DETECTION>"),
        ("<VQA>", None),
        ("<ASK>", None),
        ("<X>", None),
        ("<..>", None),
    ],
)
def test_the_nearest_task_has_the_words_of_the_token(token, nearest):
    found = find_nearest_task(token)
    assert (found and found.token) == nearest
    warning = describe_unknown_token(token)
    assert token in warning
    assert (nearest or "GET /v1/tasks") in warning
