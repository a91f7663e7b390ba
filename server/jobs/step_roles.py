"""What the answers of each step of a recipe are to an image: objects, outlines of objects, words, or free text."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from labels.label_kind import LabelKind
from labels.labeled_image import TracedAnnotation
from labels.sample import CAPTION_TASKS
from labels.writing.categories import DESCRIPTION
from prompts.annotations import Polygon, Quad, Text
from prompts.tasks import AnswerKind
from server.jobs.recipes.recipe import CATEGORY, ONTOLOGY, Recipe, RecipeStep
from server.jobs.recipes.review import WORD_TASKS, get_step_kind
from server.jobs.recipes.validation import INHERITS_LABELS

PHRASES, WORDS = "phrases", "words"
"""Names of attributes: phrases about an object, and the words in it."""

_DESCRIPTION_TASKS = ("<REGION_TO_DESCRIPTION>", *CAPTION_TASKS)
_OUTLINE_KINDS = (AnswerKind.POLYGONS, AnswerKind.BOXES_OR_POLYGONS)


class AnswerRole(StrEnum):
    """What an answer is to its image.

    OBJECT is a shape whose label is a class, REGION one with free text. OUTLINE is the outline of an object or region
    that another step has found.
    """

    OBJECT = "object"
    OUTLINE = "outline"
    REGION = "region"
    WORD = "word"
    TEXT = "text"


class StepRoles:
    """The roles of the answers to a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self._ontology = recipe.ontology
        self._steps: Mapping[str, RecipeStep] = {step.id: step for step in recipe.steps}
        without = recipe.model_copy(update={"ontology": {}})
        self._kinds = {step.id: get_step_kind(recipe, step) for step in recipe.steps}
        # A phrase of a caption that matches no phrase of the ontology stays free text.
        self._is_free = {step.id: get_step_kind(without, step) is LabelKind.CAPTIONS for step in recipe.steps}
        self._outlines = {step.id: self._finds_outlines(step) for step in recipe.steps}

    def find_parent(self, traces: Sequence[TracedAnnotation], trace: TracedAnnotation) -> int | None:
        """Returns the index of the answer whose region a prompt was about; None if there is none, or it is not kept.

        Without a step that is not kept, `parent` may be an earlier answer, from which that step found its region.
        """
        if trace.parent is None or not 0 <= trace.parent < len(traces):
            return None
        step = self._steps.get(trace.step)
        return trace.parent if step is None or traces[trace.parent].step == step.for_each else None

    def get_role(self, trace: TracedAnnotation, parent: int | None) -> AnswerRole:
        """Returns the role of an answer. `parent`: as `find_parent` returns it.

        A shape of a step that the recipe does not have is an object.
        """
        if isinstance(trace.annotation, Text):
            return AnswerRole.TEXT
        if isinstance(trace.annotation, Quad):
            return AnswerRole.WORD
        if isinstance(trace.annotation, Polygon) and self._outlines.get(trace.step):
            step = self._steps[trace.step]
            is_kept = parent is not None if step.for_each else self._steps[step.reference or ""].keep
            if is_kept:  # else it is all that is kept of its object
                return AnswerRole.OUTLINE
        kind = self._kinds.get(trace.step, LabelKind.OBJECTS)
        is_free = self._is_free.get(trace.step) and trace.annotation.label not in self._ontology
        return AnswerRole.OBJECT if kind is LabelKind.OBJECTS and not is_free else AnswerRole.REGION

    def get_attribute(self, trace: TracedAnnotation) -> str:
        """Returns the name of the attribute that a text about a region is."""
        step = self._steps.get(trace.step)
        if step is None or step.task in _DESCRIPTION_TASKS:
            return DESCRIPTION
        return WORDS if step.task in WORD_TASKS else step.id

    def names_class(self, trace: TracedAnnotation) -> bool:
        """Returns whether a text is the class of the region that it is about."""
        step = self._steps.get(trace.step)
        return step is not None and step.task == CATEGORY

    def is_detected(self, trace: TracedAnnotation) -> bool:
        """Returns whether an answer is one to <OD>, which names what is there, and not to a question about a class."""
        step = self._steps.get(trace.step)
        return step is not None and step.task == "<OD>"

    def is_about_region(self, trace: TracedAnnotation) -> bool:
        """Returns whether an answer is about a region, and not about the whole image."""
        step = self._steps.get(trace.step)
        return trace.parent is not None if step is None else step.for_each is not None

    def is_caption(self, trace: TracedAnnotation) -> bool:
        """Returns whether a text about the whole image is a caption."""
        step = self._steps.get(trace.step)
        return step is None or step.task in CAPTION_TASKS

    def _finds_outlines(self, step: RecipeStep) -> bool:
        """Returns whether a step outlines what another one has found: its region, or what its words name."""
        if step.task == INHERITS_LABELS:
            return True
        if step.task_definition.answer_kind not in _OUTLINE_KINDS or step.reference in (None, ONTOLOGY):
            return False
        source = self._steps[step.reference or ""]
        if step.for_each is not None:
            return step.for_each in (source.id, source.for_each)
        return source.finds_shapes and self._kinds[source.id] is LabelKind.OBJECTS
