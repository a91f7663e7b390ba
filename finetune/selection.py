"""Which pictures a person should correct next."""

from collections.abc import Sequence

from prompts.annotations import Annotation

NOTHING_FOUND = 0.5  # doubt at a picture on which the model sees nothing: it may be empty, or all may be missed


def doubt(answer: Sequence[Annotation]) -> float:
    """How many of an answer's labels are expected to be wrong, by their scores: Σ (1 - score).

    Uncertainty sampling (Lewis & Gale 1994) for answers of several parts; where scores are calibrated it is the number
    of corrections that a person would make to what was found. What was missed has no score and is not counted.
    """
    if not answer:
        return NOTHING_FOUND
    return sum(1 - (note.score if note.score is not None else 0.5) for note in answer)


def most_doubtful(answers: Sequence[Sequence[Annotation]], count: int) -> list[int]:
    """The places of the `count` answers of the most doubt, the most doubtful first; of equals the first."""
    return sorted(range(len(answers)), key=lambda i: (-doubt(answers[i]), i))[:count]
