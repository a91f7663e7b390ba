"""Class lists: the names that answers to a task such as `<OD>` are held to, and where they come from.

The first list that exists holds: the request's own labels, the recipe's ontology, the project's list, the adapter's
list. `any_class` turns it off.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from prompts.label_lists import LabelListError, check_label_list
from prompts.text import truncate
from prompts.vocabulary import find_special_token

_NEAREST_CUTOFF = 0.6  # similarity below which a name is another word, not a misspelling


class ClassListError(ValueError):
    """A model cannot be held to these names. The message says why."""


@dataclass(frozen=True, slots=True)
class ClassList:
    """The names that answers are held to.

    `names`: distinct, without white space around them. `origin`: where the list comes from, for messages: "project
    birds", "adapter cacti", "the ontology of recipe.yaml".
    """

    names: tuple[str, ...]
    origin: str

    @property
    def problem(self) -> str | None:
        """Why answers cannot be held to this list, such as its size; None if they can."""
        return _find_problem(self.names)

    @property
    def warning(self) -> str | None:
        """A sentence for whoever gets an answer that is not held although there is a list; None if it is held."""
        return None if (problem := self.problem) is None else self.describe_problem(problem)

    def describe_problem(self, problem: str) -> str:
        """Returns the warning for a reason why answers are not held to this list."""
        return f"answers are not held to the classes of {self.origin}: {problem}"


def clean_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in order, each once, without white space around them and without blank ones."""
    return tuple(dict.fromkeys(cleaned for name in names if (cleaned := name.strip())))


def check_class_names(names: tuple[str, ...]) -> None:
    """Raises ClassListError for names that a model cannot be held to: none, too many, or one that it cannot write."""
    if not names:
        raise ClassListError("it names no class")
    try:
        check_label_list(names, "classes")
    except LabelListError as error:
        raise ClassListError(str(error)) from error
    seen = set[str]()
    for name in names:
        if not name.strip():
            raise ClassListError("one of its classes is blank")
        if name != name.strip():
            raise ClassListError(f"the class {_quote(name)} has white space around it, which answers lose")
        if special := find_special_token(name):
            raise ClassListError(f"the class {_quote(name)} contains the reserved token {special}")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ClassListError(f"the class {_quote(name)} contains half a character (a lone surrogate)")
        if name in seen:
            raise ClassListError(f"the class {_quote(name)} is listed twice")
        seen.add(name)


def join_class_lists(lists: Iterable[ClassList]) -> ClassList | None:
    """Returns the union of several lists, such as those of an ensemble's members. None if there are none."""
    lists = list(lists)
    if not lists:
        return None
    names = dict.fromkeys(name for each in lists for name in each.names)
    return ClassList(tuple(names), " and ".join(dict.fromkeys(each.origin for each in lists)))


def normalize_class_name(name: str) -> str:
    """Returns a name for comparisons: lower case, and spaces in place of `_`, `-` and runs of white space."""
    return " ".join(name.replace("_", " ").replace("-", " ").split()).casefold()


def find_nearest_class(name: str, names: Iterable[str]) -> str | None:
    """Returns the most similar of the names, or None if none is similar."""
    by_key = {normalize_class_name(each): each for each in reversed(list(names))}  # of equal keys, the first name wins
    if found := difflib.get_close_matches(normalize_class_name(name), by_key, n=1, cutoff=_NEAREST_CUTOFF):
        return by_key[found[0]]
    return None


@lru_cache(256)
def _find_problem(names: tuple[str, ...]) -> str | None:
    try:
        check_class_names(names)
    except ClassListError as error:
        return str(error)
    return None


def _quote(name: str) -> str:
    return repr(truncate(name))
