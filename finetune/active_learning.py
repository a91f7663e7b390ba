"""Which pictures a person should correct next."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

from prompts.annotations import Annotation

NOTHING_FOUND = 0.5  # doubt at a picture on which the model sees nothing: it may be empty, or all may be missed
_NAMELESS = ""  # as what an empty answer counts


def doubt(answer: Sequence[Annotation]) -> float:
    """How many of an answer's labels are expected to be wrong, by their scores: Σ (1 - score).

    Uncertainty sampling (Lewis & Gale 1994) for answers of several parts; where scores are calibrated it is the number
    of corrections that a person would make to what was found. What was missed has no score and is not counted.
    """
    return sum(each for _, each in _parts(answer))


def select(answers: Sequence[Sequence[Annotation]], count: int, known: Iterable[str] = ()) -> list[int]:
    """The places of `count` answers that together tell most, the best first; of equals the first.

    Doubt alone asks for the same confusion again and again. So a label's doubt is shared out among all of its name:
    each answer is worth Σ (1 - score) / (1 + n), n being how many labels of that name are there already: among `known`
    (the names of what is corrected), in the answers chosen before it, or before it in its own. Chosen greedily;
    worth only falls, so that few are reckoned anew at each step (the accelerated greedy algorithm, Minoux 1978).
    """
    names, parts = Counter(known), [_parts(answer) for answer in answers]

    def worth(place: int) -> float:
        own: Counter[str] = Counter()
        total = 0.0
        for name, each in parts[place]:
            total += each / (1 + names[name] + own[name])
            own[name] += 1
        return total

    heap = [(-worth(place), place) for place in range(len(parts))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        before, place = heapq.heappop(heap)
        now = -worth(place)
        if now > before:
            heapq.heappush(heap, (now, place))
            continue
        chosen.append(place)
        names.update(name for name, _ in parts[place])
    return chosen


def _parts(answer: Sequence[Annotation]) -> list[tuple[str, float]]:
    """The name and the doubt of each label; nothing found is one of its own."""
    if not answer:
        return [(_NAMELESS, NOTHING_FOUND)]
    return [(note.label, 1 - (note.score if note.score is not None else 0.5)) for note in answer]
