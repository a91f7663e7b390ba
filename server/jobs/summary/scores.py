"""How many labels there are of a kind, and how sure the model was of them."""

from dataclasses import dataclass, field

BINS = 20  # of scores from 0 to 1


@dataclass(slots=True)
class Scores:
    """Labels counted. `review`: those for a person to look at; `bins`, `doubted`: all, and those to review, by score;
    labels without a score are in none."""

    count: int = 0
    review: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    doubted: list[int] = field(default_factory=lambda: [0] * BINS)
    total: float = 0.0

    def add(self, score: float | None, review: bool) -> None:
        self.count += 1
        self.review += review
        if score is not None:
            place = min(int(score * BINS), BINS - 1)
            self.bins[place] += 1
            self.doubted[place] += review
            self.total += score

    def join(self, other: "Scores") -> None:
        """Adds what another counted."""
        self.count += other.count
        self.review += other.review
        self.total += other.total
        for place in range(BINS):
            self.bins[place] += other.bins[place]
            self.doubted[place] += other.doubted[place]

    @property
    def mean(self) -> float | None:
        """None where nothing has a score."""
        scored = sum(self.bins)
        return self.total / scored if scored else None
