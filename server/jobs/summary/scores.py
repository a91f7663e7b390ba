"""A histogram of scores."""

from dataclasses import dataclass, field, replace

BINS = 20  # of scores from 0 to 1


@dataclass(slots=True)
class ScoreCounts:
    """Counts annotations by score.

    `review` is the number of annotations to review. `bins` and `review_bins` count all annotations, and those to
    review, by score; annotations without a score are in no bin.
    """

    count: int = 0
    review: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    review_bins: list[int] = field(default_factory=lambda: [0] * BINS)
    score_sum: float = 0.0

    def add(self, score: float | None, needs_review: bool) -> None:
        """Counts one annotation."""
        self.count += 1
        self.review += needs_review
        if score is not None:
            index = min(int(score * BINS), BINS - 1)
            self.bins[index] += 1
            self.review_bins[index] += needs_review
            self.score_sum += score

    def copy(self) -> "ScoreCounts":
        """Returns a copy."""
        return replace(self, bins=[*self.bins], review_bins=[*self.review_bins])

    def subtract(self, other: "ScoreCounts") -> None:
        """Removes the counts of another histogram, which are a part of these."""
        self.count -= other.count
        self.review -= other.review
        self.score_sum -= other.score_sum
        for index in range(BINS):
            self.bins[index] -= other.bins[index]
            self.review_bins[index] -= other.review_bins[index]

    @property
    def mean(self) -> float | None:
        """The mean score; None if no annotation has a score."""
        scored = sum(self.bins)
        return self.score_sum / scored if scored else None
