"""Class lists: the names that answers to a task such as `<OD>` may have, and where they come from.

The first list that exists holds: the request's own labels, the project's list, the recipe's ontology, the adapter's
list. `any_class` turns it off. The model itself may also say the other classes that it knows, so that it names nothing
wrongly for want of a name; objects of other classes are then left out, and counted.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from prompts.label_lists import LabelListError, check_label_list
from prompts.text import normalize_words, truncate
from prompts.vocabulary import find_special_token

_SHOWN_NAMES = 10  # in a sentence
_NEAREST_CUTOFF = 0.6  # similarity below which a name is another word, not a misspelling


class ClassListError(ValueError):
    """A model cannot be held to these names. The message says why."""


@dataclass(frozen=True, slots=True)
class ClassList:
    """The names that answers are held to.

    `names`: distinct, without white space around them. `origin`: where the list comes from, for messages: "project
    birds", "adapter cacti", "the ontology of recipe.yaml". `is_open`: whether answers keep other names too, as those of
    a model without a list in an ensemble, or those that the ontology drops later.
    """

    names: tuple[str, ...]
    origin: str
    is_open: bool = False

    @property
    def problem(self) -> str | None:
        """Why a model cannot be held to this list, such as its size; None if it can."""
        return _find_problem(self.names)

    @property
    def warning(self) -> str | None:
        """A sentence for whoever gets an answer of a model that is not held although there is a list; None if it is."""
        return None if (problem := self.problem) is None else self.describe_problem(problem)

    def describe_problem(self, problem: str) -> str:
        """Returns the warning for a reason why the model is not held to this list."""
        left_out = "" if self.is_open else "; what it names otherwise is left out"
        return f"the model is not held to the classes of {self.origin}: {problem}{left_out}"

    def find_name(self, label: str) -> str | None:
        """Returns the name of the list that a label is, but for case, articles and punctuation; None if it is none."""
        names = _index_names(self.names)
        return names.get(label) or names.get(normalize_words(label))

    def add(self, names: Iterable[str]) -> "ClassList":
        """Returns the list with further names that the model may say."""
        return ClassList(tuple(dict.fromkeys((*self.names, *names))), self.origin, self.is_open)


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


def describe_left_out(labels: Iterable[str]) -> str | None:
    """Returns a sentence about objects of other classes that were left out, most frequent first; None if there are
    none."""
    counts = Counter(labels)
    if not (total := counts.total()):
        return None
    listed = [
        f"{truncate(' '.join(name.split())) or 'unnamed'} ({count:,})"
        for name, count in counts.most_common(_SHOWN_NAMES)
    ]
    rest = f" and {len(counts) - len(listed):,} more" if len(counts) > len(listed) else ""
    objects = "1 object of another class was" if total == 1 else f"{total:,} objects of other classes were"
    return f"{objects} left out: {', '.join(listed)}{rest}"


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


@lru_cache(256)
def _index_names(names: tuple[str, ...]) -> Mapping[str, str]:
    """Returns the names by themselves and by their form for comparisons. The first of equal forms wins."""
    forms = {normalize_words(name): name for name in reversed(names)}
    return {form: name for form, name in forms.items() if form} | {name: name for name in names}


def _quote(name: str) -> str:
    return repr(truncate(name))
