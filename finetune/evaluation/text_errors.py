"""What was read against what is written: character and word error rates."""

from collections.abc import Iterable
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

Pairs = Iterable[tuple[str, str]]
"""What was said, and what is true."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Edits (insertions, deletions, substitutions) that turn what was said into the truth, and how long that is."""

    edits: int = 0
    length: int = 0

    @property
    def rate(self) -> float:
        """Edits over the length: 0 is perfect, and above 1 are more edits than there is to say; nan of no truth."""
        return self.edits / self.length if self.length else float("nan")

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(self.edits + other.edits, self.length + other.length)


def letters(said: str, true: str) -> Errors:
    """Of the characters (CER), white space made single blanks, case kept."""
    first, second = (" ".join(text.split()) for text in (said, true))
    return Errors(Levenshtein.distance(first, second), len(second))


def words(said: str, true: str) -> Errors:
    """Of the words between white space (WER), case kept."""
    return Errors(Levenshtein.distance(said.split(), true.split()), len(true.split()))


def cer(pairs: Pairs) -> float:
    """The character error rate of all pairs together, as a long text weighs more than a short one."""
    return sum((letters(*pair) for pair in pairs), Errors()).rate


def wer(pairs: Pairs) -> float:
    """The word error rate of all pairs together."""
    return sum((words(*pair) for pair in pairs), Errors()).rate
