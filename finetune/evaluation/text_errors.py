"""Character and word error rates of recognized text."""

from collections.abc import Iterable
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

TextPairs = Iterable[tuple[str, str]]
"""The predicted text and the true text of each sample."""


@dataclass(frozen=True, slots=True)
class EditCounts:
    """`edits`: insertions, deletions and substitutions that turn a prediction into the truth; `length`: of that."""

    edits: int = 0
    length: int = 0

    @property
    def rate(self) -> float:
        """Edits divided by the length: 0 is perfect, and it can exceed 1; nan if the truth is empty."""
        return self.edits / self.length if self.length else float("nan")

    def __add__(self, other: "EditCounts") -> "EditCounts":
        return EditCounts(self.edits + other.edits, self.length + other.length)


def count_character_edits(predicted: str, truth: str) -> EditCounts:
    """Counts edits of characters. White space is collapsed; case matters."""
    first, second = (" ".join(text.split()) for text in (predicted, truth))
    return EditCounts(Levenshtein.distance(first, second), len(second))


def count_word_edits(predicted: str, truth: str) -> EditCounts:
    """Counts edits of words, which white space separates; case matters."""
    return EditCounts(Levenshtein.distance(predicted.split(), truth.split()), len(truth.split()))


def compute_cer(pairs: TextPairs) -> float:
    """Returns the character error rate over all pairs together: long texts weigh more than short ones."""
    return sum((count_character_edits(*pair) for pair in pairs), EditCounts()).rate


def compute_wer(pairs: TextPairs) -> float:
    """Returns the word error rate over all pairs together."""
    return sum((count_word_edits(*pair) for pair in pairs), EditCounts()).rate
