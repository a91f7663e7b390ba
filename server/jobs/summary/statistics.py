"""A job counted, picture by picture."""

from collections import Counter
from dataclasses import dataclass, field

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Text
from server.jobs.recipes.recipe import Recipe, RecipeStep
from server.jobs.summary.reasons import like
from server.jobs.summary.scores import ScoreCounts

# What is told apart at most, so that a million sentences, each its own name, take no memory.
_CLASSES, _REASONS, _ANSWERERS = 2000, 200, 20
_NAME = 200  # letters of a class's name
_SHOWN = 12  # classes of a step


@dataclass(slots=True)
class StepTally:
    """One step's labels. `step`: None where the recipe has none of that id. `shapes`: how many are places, no texts."""

    id: str
    step: RecipeStep | None
    scores: ScoreCounts = field(default_factory=ScoreCounts)
    pictures: int = 0
    shapes: int = 0
    classes: dict[str, ScoreCounts] = field(default_factory=dict)
    others: ScoreCounts = field(default_factory=ScoreCounts)  # of names met when there were too many already

    @property
    def wide(self) -> bool:
        """Whether it has classes to show."""
        return self.shapes > 0

    def top(self) -> tuple[list[tuple[str, ScoreCounts]], int, ScoreCounts]:
        """The most frequent classes; how many more there are, and their labels together."""
        ranked = sorted(self.classes.items(), key=lambda item: (-item[1].count, item[0]))
        shown = ranked if len(ranked) == _SHOWN + 1 else ranked[:_SHOWN]  # a line "1 more" says less than the class
        rest = ScoreCounts()
        rest.join(self.others)
        for _, scores in ranked[len(shown) :]:
            rest.join(scores)
        return shown, len(ranked) - len(shown), rest


class JobStatistics:
    """Counts; its memory does not grow with the job."""

    def __init__(self, recipe: Recipe) -> None:
        self.steps = {step.id: StepTally(step.id, step) for step in recipe.steps}
        self.pictures = self.bare = self.doubtful = 0
        self.reasons: Counter[str] = Counter()
        self.answerers: dict[tuple[str, str | None], None] = {}
        self._classes = 0

    @property
    def labels(self) -> int:
        return sum(step.scores.count for step in self.steps.values())

    @property
    def review(self) -> int:
        return sum(step.scores.review for step in self.steps.values())

    def add(self, picture: LabeledImage) -> None:
        self.pictures += 1
        self.bare += not picture.traces
        self.doubtful += any(label.review for label in picture.traces)
        for id in {label.step for label in picture.traces}:
            self._step(id).pictures += 1
        for label in picture.traces:
            self._add(label)

    def _step(self, id: str) -> StepTally:
        return self.steps.setdefault(id, StepTally(id, None))

    def _add(self, label: TracedAnnotation) -> None:
        step, note, review = self._step(label.step), label.annotation, bool(label.review)
        step.scores.add(note.score, review)
        if not isinstance(note, Text):
            step.shapes += 1
            self._class(step, note.label[:_NAME]).add(note.score, review)
        for reason in filter(None, label.review.split("; ")):
            kind = like(reason)
            if kind in self.reasons or len(self.reasons) < _REASONS:
                self.reasons[kind] += 1
        if label.model and len(self.answerers) < _ANSWERERS:
            self.answerers[label.model, label.adapter] = None

    def _class(self, step: StepTally, name: str) -> ScoreCounts:
        known = step.classes.get(name)
        if known is None:
            if self._classes == _CLASSES:
                return step.others
            self._classes += 1
            known = step.classes[name] = ScoreCounts()
        return known
