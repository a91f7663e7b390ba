import pytest

from prompts.class_texts import split_classes
from prompts.tasks import TASKS, InputKind, PromptError

OPEN_VOCABULARY = TASKS["<OPEN_VOCABULARY_DETECTION>"]
OTHERS = [task for task in TASKS.values() if task is not OPEN_VOCABULARY]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("hat, book", ("hat", "book")),
        ("hat,book , hat,", ("hat", "book")),
        (" hat,", ("hat",)),
        (["hat", " book ", "hat"], ("hat", "book")),
        (["a man, smiling"], ("a man, smiling",)),
        ('["hat", "a man, smiling"]', ("hat", "a man, smiling")),
        (' ["hat"]', ("hat",)),
        ("[hat, book]", ("[hat", "book]")),
        ("[1]", ()),
        ("[]", ()),
        ("[" * 100_000, ()),
        ("hat", ()),
        ("hat and book", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_classes_are_split(text, classes):
    assert split_classes(OPEN_VOCABULARY, text) == classes


@pytest.mark.parametrize("task", OTHERS, ids=lambda task: task.token)
def test_a_comma_is_text_for_other_tasks(task):
    assert split_classes(task, "the man on the left, with a hat") == ()
    assert split_classes(task, '["a man", "a hat"]') == ()
    with pytest.raises(PromptError, match="takes one text") as caught:
        split_classes(task, ["a man", "a hat"])
    assert caught.value.field == "text"
    assert not task.takes_classes


def test_only_a_task_with_text_takes_classes():
    assert OPEN_VOCABULARY.input_kind is InputKind.TEXT


@pytest.mark.parametrize("text", [[], [""], ["hat", " "], " , ", '["hat", ""]'])
def test_a_text_without_a_class_is_refused(text):
    with pytest.raises(PromptError, match=r"blank|needs text") as caught:
        split_classes(OPEN_VOCABULARY, text)
    assert caught.value.field == "text"
