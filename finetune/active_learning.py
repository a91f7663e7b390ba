"""Active learning: which images a person should correct next."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

from prompts.annotations import Annotation

EMPTY_UNCERTAINTY = 0.5  # of an image without predictions: it may be empty, or every object may be missed
_EMPTY_CLASS = ""  # the class under which an image without predictions counts


def estimate_uncertainty(predicted: Sequence[Annotation]) -> float:
    """Returns the expected number of wrong annotations by their scores: Σ (1 - score).

    Uncertainty sampling (Lewis & Gale 1994) for predictions with several parts. With calibrated scores it is the number
    of predictions that a person would correct. Missed objects have no score and are not counted.
    """
    return sum(uncertainty for _, uncertainty in _list_uncertainties(predicted))


def select_next(predictions: Sequence[Sequence[Annotation]], count: int, labeled: Iterable[str] = ()) -> list[int]:
    """Returns the indices of up to `count` predictions to correct, the most useful first; among equals the first.

    Uncertainty alone would select the same error again and again. An annotation therefore counts for
    (1 - score) / (1 + n), with n the number of annotations of its class in `labeled` (the classes of what is corrected
    already), in the images selected before, and before it in its own image. The selection is greedy. Values only
    decrease, so that few must be computed again at each step (accelerated greedy algorithm, Minoux 1978).
    """
    counts, uncertainties = Counter(labeled), [_list_uncertainties(predicted) for predicted in predictions]

    def compute_value(index: int) -> float:
        own: Counter[str] = Counter()
        total = 0.0
        for label, uncertainty in uncertainties[index]:
            total += uncertainty / (1 + counts[label] + own[label])
            own[label] += 1
        return total

    heap = [(-compute_value(index), index) for index in range(len(uncertainties))]
    heapq.heapify(heap)
    selected: list[int] = []
    while heap and len(selected) < count:
        old, index = heapq.heappop(heap)
        new = -compute_value(index)
        if new > old:
            heapq.heappush(heap, (new, index))
            continue
        selected.append(index)
        counts.update(label for label, _ in uncertainties[index])
    return selected


def _list_uncertainties(predicted: Sequence[Annotation]) -> list[tuple[str, float]]:
    """Returns the class and the uncertainty of each annotation; no annotations count as one."""
    if not predicted:
        return [(_EMPTY_CLASS, EMPTY_UNCERTAINTY)]
    return [(a.label, 1 - (a.score if a.score is not None else 0.5)) for a in predicted]
