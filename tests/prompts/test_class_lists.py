import pytest

from prompts.class_lists import (
    ClassList,
    ClassListError,
    check_class_names,
    clean_class_names,
    describe_left_out,
    find_nearest_class,
    join_class_lists,
)
from prompts.label_lists import MAX_LABELS
from prompts.tasks import TASKS

CLASSES = ("traffic light", "cactus", "octopus", "T-shirt")


def test_only_tasks_whose_labels_are_classes_answer_classes():
    assert [task.token for task in TASKS.values() if task.answers_classes] == ["<OD>", "<REGION_TO_CATEGORY>"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "no class"),
        (tuple(map(str, range(MAX_LABELS + 1))), "2,001 classes; the limit is 2,000"),
        (("cat", " dog"), "white space"),
        (("cat", "\t"), "blank"),
        (("cat", "cat"), "listed twice"),
        (("x" * 513,), "513 bytes"),
        (("a<loc_1>",), "reserved token <loc_1>"),
        (("\ud800",), "lone surrogate"),
    ],
)
def test_a_list_that_cannot_be_held_says_why(names, reason):
    with pytest.raises(ClassListError, match=reason):
        check_class_names(names)
    class_list = ClassList(names, "project birds")
    assert class_list.warning == (
        f"the model is not held to the classes of project birds: {class_list.problem}; what it names otherwise is left "
        "out"
    )


def test_a_list_that_can_be_held_has_no_warning():
    assert ClassList(CLASSES, "project birds").warning is None


def test_a_label_is_a_name_but_for_case_articles_and_punctuation():
    class_list = ClassList(("cat", "The cat", "Traffic Light"), "project birds")
    labels = ("cat", "The cat", "a CAT.", "traffic  light", "dog", "black cat", "")
    found = [class_list.find_name(label) for label in labels]
    assert found == ["cat", "The cat", "cat", "Traffic Light", None, None, None]


def test_what_is_left_out_is_counted():
    assert describe_left_out([]) is None
    assert describe_left_out(["a\ndog"]) == "1 object of another class was left out: a dog (1)"
    sentence = "3 objects of other classes were left out: dog (2), unnamed (1)"
    assert describe_left_out(["dog", "", "dog"]) == sentence
    assert describe_left_out(map(str, range(1200))).endswith("9 (1) and 1,190 more")


def test_names_are_cleaned():
    assert clean_class_names([" cat ", "dog", "", "cat", " "]) == ("cat", "dog")


def test_the_list_of_several_models_is_their_union():
    joined = join_class_lists([ClassList(("cat", "dog"), "adapter a"), ClassList(("dog", "cow"), "adapter b")])
    assert joined == ClassList(("cat", "dog", "cow"), "adapter a and adapter b")
    assert join_class_lists([]) is None


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cacccs", "cactus"),
        ("ocoos", "octopus"),
        ("Traffic_Light", "traffic light"),
        ("traffic-lights", "traffic light"),
        ("t shirt", "T-shirt"),
        ("zeppelin", None),
    ],
)
def test_the_nearest_class(name, nearest):
    assert find_nearest_class(name, CLASSES) == nearest
