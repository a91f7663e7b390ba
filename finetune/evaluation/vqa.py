"""Answers to questions about a picture, as the VQA challenge scores them."""

import re
from collections.abc import Sequence

# fmt: off
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}
# fmt: on
_ARTICLES = frozenset(("a", "an", "the"))
_NOT = re.compile(r"(ai|are|ca|could|did|does|do|had|has|have|is|might|must|need|should|was|were|wo|would)nt")
_HAVE = re.compile(r"(could|might|must|should|they|would|you|who|not)ve")
_IS = re.compile(r"(that|there|what|when|where|who|why|how|he|she|some(?:body|one|thing))s")
_PERIOD = re.compile(r"(?<!\d)\.|\.(?!\d)")  # but not of a decimal number
_COMMA = re.compile(r"(?<=\d),(?=\d)")  # of thousands
_PUNCTUATION = re.compile(r"[^\w\s':.$%€£]|_")  # an apostrophe may be a possessive's, a colon a time's


def normalized(answer: str) -> str:
    """An answer as the challenge compares it (visualqa.org/evaluation): small letters, no articles, numbers up to ten
    as digits, apostrophes put into contractions that lack theirs, punctuation gone but for apostrophes and colons.

    Its list of contractions is told by rules here, which know the common ones.
    """
    text = _PUNCTUATION.sub(" ", _COMMA.sub("", _PERIOD.sub("", answer.lower())))
    words = (_contracted(_NUMBERS.get(word, word)) for word in text.split() if word not in _ARTICLES)
    return " ".join(words)


def accuracy(said: str, answers: Sequence[str]) -> float:
    """How far an answer agrees with people's (ten, as a rule): the mean, over each of them left out, of a third for
    every other that said the same, at most 1 (Antol et al. 2015). Of a single answer: whether it is the same."""
    own, others = normalized(said), [normalized(answer) for answer in answers]
    if len(others) < 2:
        return float(own in others)
    agreed = [sum(other == own for j, other in enumerate(others) if j != i) for i in range(len(others))]
    return sum(min(1.0, count / 3) for count in agreed) / len(others)


def _contracted(word: str) -> str:
    for pattern, end in ((_NOT, "n't"), (_HAVE, "'ve"), (_IS, "'s")):
        if found := pattern.fullmatch(word):
            return found[1] + end
    return word
