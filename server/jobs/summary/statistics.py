"""The counts of a job: its labels by class, kind and score, and the answers of each step.

A label is an object, a word or a caption, as datasets have it (see `object_view`). Several answers may make one label.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from labels.label_kind import LabelKind, get_label_kind
from labels.labeled_image import LabeledImage, TracedAnnotation
from server.jobs.recipes.recipe import Recipe, RecipeStep
from server.jobs.recipes.review import get_review_threshold, get_step_kind, is_low_score
from server.jobs.summary.reasons import generalize_reason
from server.jobs.summary.scores import ScoreCounts

LABELS = ""  # in place of the ID of a step
# Limits on what is counted separately: a million different labels must not fill the memory.
_MAX_CLASSES, _MAX_CLASS_COUNTS = 2000, 10_000  # of a step; of all steps together
_MAX_REASONS, _MAX_MODELS = 200, 20
_MAX_CLASS_NAME = 200  # characters


@dataclass(slots=True)
class StepStatistics:
    """The answers of one step; for the step with the ID LABELS, the labels that all answers make.

    `step` is None if the recipe has no step with this ID, and `kind` is None until such a step has an answer.
    `threshold` is the score below which its answers are to review; 0 if scores are not reviewed. `classes` counts
    answers that are classes; `other_classes` those beyond the limit.
    """

    id: str
    step: RecipeStep | None = None
    kind: LabelKind | None = None
    threshold: float = 0.0
    scores: ScoreCounts = field(default_factory=ScoreCounts)
    images: int = 0
    classes: dict[str, ScoreCounts] = field(default_factory=dict)
    other_classes: ScoreCounts = field(default_factory=ScoreCounts)


@dataclass(slots=True)
class KindStatistics:
    """The number of labels of a kind, of those that are to review, and of those whose score is below the threshold."""

    count: int = 0
    review: int = 0
    low: int = 0


@dataclass(slots=True)
class ClassStatistics:
    """A class: the scores of its labels, and the number of its answers by step."""

    name: str
    scores: ScoreCounts = field(default_factory=ScoreCounts)
    steps: Counter[str] = field(default_factory=Counter)


class JobStatistics:
    """Counts the images of a job. Memory does not grow with the job."""

    def __init__(self, recipe: Recipe) -> None:
        self.steps = {
            step.id: StepStatistics(step.id, step, get_step_kind(recipe, step), get_review_threshold(recipe, step))
            for step in recipe.steps
        }
        self.labels = StepStatistics(LABELS)
        self.images = self.images_without_annotations = self.images_to_review = 0
        self.kinds = {kind: KindStatistics() for kind in LabelKind}
        self.reasons: Counter[str] = Counter()
        self.models: dict[tuple[str, str | None], None] = {}  # hashes of model and adapter, in the order of appearance
        self._class_count = 0

    @property
    def annotations(self) -> int:
        """The number of labels."""
        return self.labels.scores.count

    @property
    def annotations_to_review(self) -> int:
        return self.labels.scores.review

    @property
    def class_steps(self) -> list[StepStatistics]:
        """The steps whose answers are classes."""
        return [step for step in self.steps.values() if step.classes]

    def rank_classes(self, expected: Iterable[str] = ()) -> list[ClassStatistics]:
        """Returns all classes, those with most labels first; at the end those of `expected` that no label has."""
        found = {name: ClassStatistics(name, scores) for name, scores in self.labels.classes.items()}
        for step in self.steps.values():
            for name, scores in step.classes.items():
                found.setdefault(name, ClassStatistics(name)).steps[step.id] += scores.count
        missing = [ClassStatistics(name) for name in dict.fromkeys(expected) if name not in found]
        return sorted(found.values(), key=lambda one: (-one.scores.count, one.name)) + missing

    def list_classes(self, image: LabeledImage) -> list[str]:
        """Returns the classes of the labels of an image that has been counted."""
        return [t.annotation.label for t in image.traces if self.steps[t.step].kind is LabelKind.OBJECTS]

    def add(self, image: LabeledImage) -> None:
        """Counts one image. Its traces are the labels; the answers are `image.answers` if they are others."""
        self.images += 1
        self.images_without_annotations += not image.traces
        self.images_to_review += any(trace.review for trace in image.traces)
        answers = image.answers or image.traces
        for id in {trace.step for trace in answers}:
            self._get_step(id).images += 1
        for trace in answers:
            step = self._get_step(trace.step)
            step.kind = step.kind or get_label_kind(trace.annotation)
            self._count(step, trace, step.kind)
            if trace.model and len(self.models) < _MAX_MODELS:
                self.models[trace.model, trace.adapter] = None
        for trace in image.traces:
            self._add_label(trace, self.steps[trace.step].kind or get_label_kind(trace.annotation))

    def _get_step(self, id: str) -> StepStatistics:
        return self.steps.setdefault(id, StepStatistics(id))

    def _count(self, step: StepStatistics, trace: TracedAnnotation, kind: LabelKind) -> None:
        score, needs_review = trace.annotation.score, bool(trace.review)
        step.scores.add(score, needs_review)
        if kind is LabelKind.OBJECTS:
            self._get_class(step, get_class_name(trace.annotation.label)).add(score, needs_review)

    def _add_label(self, trace: TracedAnnotation, kind: LabelKind) -> None:
        self._count(self.labels, trace, kind)
        counts = self.kinds[kind]
        counts.count += 1
        counts.review += bool(trace.review)
        counts.low += is_low_score(trace.review)
        for reason in filter(None, trace.review.split("; ")):
            general = generalize_reason(reason)
            if general in self.reasons or len(self.reasons) < _MAX_REASONS:
                self.reasons[general] += 1

    def _get_class(self, step: StepStatistics, name: str) -> ScoreCounts:
        scores = step.classes.get(name)
        if scores is None:
            if len(step.classes) == _MAX_CLASSES or self._class_count == _MAX_CLASS_COUNTS:
                return step.other_classes
            self._class_count += 1
            scores = step.classes[name] = ScoreCounts()
        return scores


def get_class_name(label: str) -> str:
    """Returns the name that a label is counted under."""
    return label[:_MAX_CLASS_NAME]
