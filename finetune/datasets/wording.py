"""Labels as English says them: `a cat`, `two dogs`, `an apple, a bus and three fish`."""

import re
from collections.abc import Sequence

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SAME = ("fish", "sheep", "deer", "aircraft", "scissors", "glasses", "sunglasses", "skis", "pants", "shorts")
_IRREGULAR = dict(zip(_SAME, _SAME, strict=True)) | {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "shelf": "shelves", "loaf": "loaves",
}  # fmt: skip
_HISSED = re.compile(r"(s|x|z|ch|sh)$")
_SINGLE_Y = re.compile(r"(?<=[^aeiou])y$")
_NOUN = re.compile(r"[A-Za-z]+( [A-Za-z]+)?")
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])|(?<![a-z])(left|right)(?=most|hand|ward|side)", re.IGNORECASE)
_PLACE = re.compile(
    r"(?<![a-z])(top|bottom|upper|lower|center|centre|middle|corner|edge|above|below|small|large|bigg?|tiny|huge|close|far"
    r"|medium|half)(r|er|st|est|most|s)?(?![a-z])",
    re.IGNORECASE,
)
_COLOUR = re.compile(
    r"(?<![a-z])(black|white|gr[ae]y|red|green|blue|yellow|orange|purple|pink|brown|violet|beige|cyan|magenta|turquoise"
    r"|golden|gold|silver|blond|blonde|colou?r)(d?ish|ed|s)?(?![a-z])",
    re.IGNORECASE,
)
_PHRASE = 3  # words


def plural(noun: str) -> str:
    """car → cars, bus → buses, fish → fish, traffic light → traffic lights."""
    before, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        return before + space + _IRREGULAR[last]
    if _HISSED.search(last):
        return noun + "es"
    return _SINGLE_Y.sub("ie", noun) + "s"


def with_article(words: str) -> str:
    """`a cat`, `an orange cat`"""
    return f"{'an' if words[0] in 'aeiouAEIOU' else 'a'} {words}"


def counted(noun: str, count: int) -> str:
    """`a cat`, `an apple`, `two dogs`; more than ten are `many`."""
    if count == 1:
        return with_article(noun)
    return f"{NUMBERS[count] if count < len(NUMBERS) else 'many'} {plural(noun)}"


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`"""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def is_phrase(label: str) -> bool:
    """Whether a label describes rather than names: it has three words or more (`small orange cat`)."""
    return len(label.split()) >= _PHRASE


def phrase(label: str, count: int = 1) -> str:
    """How a caption says `count` of a label; what is no plain noun (`No-Helmet`, `man with a hat`) is left alone."""
    return counted(label, count) if _NOUN.fullmatch(label) else label


def expression(label: str) -> str:
    """How the only one of a label is referred to: `the cat`; what is no plain noun is left alone."""
    return f"the {label}" if _NOUN.fullmatch(label) else label


def mirrored(text: str) -> str:
    """The text with left and right exchanged: `the leftmost cat` → `the rightmost cat`."""
    return _SIDE.sub(lambda match: _cased(match[0], "right" if match[0].lower() == "left" else "left"), text)


def has_side(text: str) -> bool:
    """Whether a text says left or right."""
    return _SIDE.search(text) is not None


def has_place(text: str) -> bool:
    """Whether a text says where in the picture something is, or how large, which another view makes untrue."""
    return has_side(text) or _PLACE.search(text) is not None


def has_colour(text: str) -> bool:
    """Whether a text names a colour, which another hue makes untrue; the fruit orange counts as one."""
    return _COLOUR.search(text) is not None


def _cased(like: str, word: str) -> str:
    return word.upper() if like.isupper() else word.capitalize() if like[0].isupper() else word
