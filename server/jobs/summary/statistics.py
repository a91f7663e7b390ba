"""The counts of a job: annotations by step, class and score."""

from collections import Counter
from dataclasses import dataclass, field

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Text
from server.jobs.recipes.recipe import Recipe, RecipeStep
from server.jobs.summary.reasons import generalize_reason
from server.jobs.summary.scores import ScoreCounts

# Limits on what is counted separately: a million different sentences must not fill the memory.
_MAX_CLASSES, _MAX_REASONS, _MAX_MODELS = 2000, 200, 20
_MAX_CLASS_NAME = 200  # characters
_SHOWN_CLASSES = 12  # for each step


@dataclass(slots=True)
class StepStatistics:
    """The annotations of one step.

    `step` is None if the recipe has no step with this ID. `shapes` is the number of annotations that are not text.
    `other_classes` counts classes beyond the limit.
    """

    id: str
    step: RecipeStep | None
    scores: ScoreCounts = field(default_factory=ScoreCounts)
    images: int = 0
    shapes: int = 0
    classes: dict[str, ScoreCounts] = field(default_factory=dict)
    other_classes: ScoreCounts = field(default_factory=ScoreCounts)

    @property
    def has_classes(self) -> bool:
        return self.shapes > 0

    def rank_classes(self) -> tuple[list[tuple[str, ScoreCounts]], int, ScoreCounts]:
        """Returns the most frequent classes, the number of the other classes, and their counts together."""
        ranked = sorted(self.classes.items(), key=lambda item: (-item[1].count, item[0]))
        # A row "1 more class" would take as much space as the class itself.
        shown = ranked if len(ranked) == _SHOWN_CLASSES + 1 else ranked[:_SHOWN_CLASSES]
        rest = ScoreCounts()
        rest.merge(self.other_classes)
        for _, scores in ranked[len(shown) :]:
            rest.merge(scores)
        return shown, len(ranked) - len(shown), rest


class JobStatistics:
    """Counts the images of a job. Memory does not grow with the job."""

    def __init__(self, recipe: Recipe) -> None:
        self.steps = {step.id: StepStatistics(step.id, step) for step in recipe.steps}
        self.images = self.images_without_annotations = self.images_to_review = 0
        self.reasons: Counter[str] = Counter()
        self.models: dict[tuple[str, str | None], None] = {}  # hashes of model and adapter, in the order of appearance
        self._class_count = 0

    @property
    def annotations(self) -> int:
        return sum(step.scores.count for step in self.steps.values())

    @property
    def annotations_to_review(self) -> int:
        return sum(step.scores.review for step in self.steps.values())

    def add(self, image: LabeledImage) -> None:
        """Counts one image."""
        self.images += 1
        self.images_without_annotations += not image.traces
        self.images_to_review += any(trace.review for trace in image.traces)
        for id in {trace.step for trace in image.traces}:
            self._get_step(id).images += 1
        for trace in image.traces:
            self._add_annotation(trace)

    def _get_step(self, id: str) -> StepStatistics:
        return self.steps.setdefault(id, StepStatistics(id, None))

    def _add_annotation(self, trace: TracedAnnotation) -> None:
        step, annotation, needs_review = self._get_step(trace.step), trace.annotation, bool(trace.review)
        step.scores.add(annotation.score, needs_review)
        if not isinstance(annotation, Text):
            step.shapes += 1
            self._get_class(step, annotation.label[:_MAX_CLASS_NAME]).add(annotation.score, needs_review)
        for reason in filter(None, trace.review.split("; ")):
            kind = generalize_reason(reason)
            if kind in self.reasons or len(self.reasons) < _MAX_REASONS:
                self.reasons[kind] += 1
        if trace.model and len(self.models) < _MAX_MODELS:
            self.models[trace.model, trace.adapter] = None

    def _get_class(self, step: StepStatistics, name: str) -> ScoreCounts:
        scores = step.classes.get(name)
        if scores is None:
            if self._class_count == _MAX_CLASSES:
                return step.other_classes
            self._class_count += 1
            scores = step.classes[name] = ScoreCounts()
        return scores
