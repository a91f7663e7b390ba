"""The accuracy of the VQA challenge."""

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
_PERIOD = re.compile(r"(?<!\d)\.|\.(?!\d)")  # not the point of a decimal number
_COMMA = re.compile(r"(?<=\d),(?=\d)")  # the thousands separator
_PUNCTUATION = re.compile(r"[^\w\s':.$%€£]|_")  # keeps apostrophes (possessives) and colons (times)


def normalize_answer(answer: str) -> str:
    """Returns the form of an answer that the challenge compares (visualqa.org/evaluation).

    Lower case, no articles, numbers up to ten as digits, apostrophes added to contractions, and no punctuation except
    apostrophes and colons. The challenge's list of contractions is replaced by rules that cover the common ones.
    """
    text = _PUNCTUATION.sub(" ", _COMMA.sub("", _PERIOD.sub("", answer.lower())))
    words = (_add_apostrophe(_NUMBERS.get(word, word)) for word in text.split() if word not in _ARTICLES)
    return " ".join(words)


def compute_vqa_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """Returns the agreement of a prediction with the answers of several people, usually ten (Antol et al. 2015).

    Each person is left out in turn: the score is then a third for each of the others who gave the predicted answer, at
    most 1. The result is the mean. With a single answer it is 1 for the same answer and 0 for another.
    """
    own, others = normalize_answer(predicted), [normalize_answer(answer) for answer in answers]
    if len(others) < 2:
        return float(own in others)
    agreeing = [sum(other == own for j, other in enumerate(others) if j != i) for i in range(len(others))]
    return sum(min(1.0, count / 3) for count in agreeing) / len(others)


def _add_apostrophe(word: str) -> str:
    for pattern, ending in ((_NOT, "n't"), (_HAVE, "'ve"), (_IS, "'s")):
        if match := pattern.fullmatch(word):
            return match[1] + ending
    return word
