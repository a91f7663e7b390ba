"""English phrases for labels: `a cat`, `two dogs`, `an apple, a bus and three fish`."""

import re
from collections.abc import Sequence

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_UNCHANGED = ("fish", "sheep", "deer", "aircraft", "scissors", "glasses", "sunglasses", "skis", "pants", "shorts")
_IRREGULAR = dict(zip(_UNCHANGED, _UNCHANGED, strict=True)) | {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "shelf": "shelves", "loaf": "loaves",
}  # fmt: skip
_SIBILANT = re.compile(r"(s|x|z|ch|sh)$")
_CONSONANT_Y = re.compile(r"(?<=[^aeiou])y$")
_NOUN = re.compile(r"[A-Za-z]+( [A-Za-z]+)?")
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])|(?<![a-z])(left|right)(?=most|hand|ward|side)", re.IGNORECASE)
_PLACE = re.compile(
    r"(?<![a-z])(top|bottom|upper|lower|center|centre|middle|corner|edge|above|below|small|large|bigg?|tiny|huge|close|far"
    r"|medium|half)(r|er|st|est|most|s)?(?![a-z])",
    re.IGNORECASE,
)
_COLOR = re.compile(
    r"(?<![a-z])(black|white|gr[ae]y|red|green|blue|yellow|orange|purple|pink|brown|violet|beige|cyan|magenta|turquoise"
    r"|golden|gold|silver|blond|blonde|colou?r)(d?ish|ed|s)?(?![a-z])",
    re.IGNORECASE,
)
_MIN_PHRASE_WORDS = 3


def pluralize(noun: str) -> str:
    """Returns the plural: car → cars, bus → buses, fish → fish, traffic light → traffic lights."""
    before, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        return before + space + _IRREGULAR[last]
    if _SIBILANT.search(last):
        return noun + "es"
    return _CONSONANT_Y.sub("ie", noun) + "s"


def add_article(words: str) -> str:
    """Adds the indefinite article: `a cat`, `an orange cat`."""
    return f"{'an' if words[0] in 'aeiouAEIOU' else 'a'} {words}"


def count_noun(noun: str, count: int) -> str:
    """Returns `a cat`, `an apple`, `two dogs`; more than ten are `many`."""
    if count == 1:
        return add_article(noun)
    return f"{NUMBERS[count] if count < len(NUMBERS) else 'many'} {pluralize(noun)}"


def join_list(parts: Sequence[str]) -> str:
    """Returns `a`, `a and b`, or `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def is_phrase(label: str) -> bool:
    """Returns whether a label is a description and not a name: it has three or more words (`small orange cat`)."""
    return len(label.split()) >= _MIN_PHRASE_WORDS


def make_phrase(label: str, count: int = 1) -> str:
    """Returns the phrase of a caption for `count` objects; a label that is not a plain noun (`No-Helmet`) is kept."""
    return count_noun(label, count) if _NOUN.fullmatch(label) else label


def make_expression(label: str) -> str:
    """Returns the expression that refers to the only object of a class: `the cat`; other labels than nouns are kept."""
    return f"the {label}" if _NOUN.fullmatch(label) else label


def swap_sides(text: str) -> str:
    """Exchanges left and right: `the leftmost cat` → `the rightmost cat`."""
    return _SIDE.sub(lambda match: _match_case(match[0], "right" if match[0].lower() == "left" else "left"), text)


def mentions_side(text: str) -> bool:
    """Returns whether a text contains left or right."""
    return _SIDE.search(text) is not None


def mentions_place(text: str) -> bool:
    """Returns whether a text contains a position or size in the image, which a crop can make wrong."""
    return mentions_side(text) or _PLACE.search(text) is not None


def mentions_color(text: str) -> bool:
    """Returns whether a text contains a color, which a hue shift makes wrong; the fruit orange counts as one."""
    return _COLOR.search(text) is not None


def _match_case(like: str, word: str) -> str:
    return word.upper() if like.isupper() else word.capitalize() if like[0].isupper() else word
