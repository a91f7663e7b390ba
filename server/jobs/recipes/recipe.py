"""The recipe model. `parsing` reads one from YAML or JSON, and `validation` checks what types alone cannot."""

import hashlib
import json
import re
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from prompts.label_lists import MAX_LABELS, check_label_list
from prompts.tasks import AnswerKind, PromptError, Task, find_task
from server.jobs.recipes.ontology import OntologyIndex
from server.jobs.recipes.review_thresholds import ReviewThresholds, Share

ONTOLOGY = "ontology"  # `${ontology}` refers to its phrases, so no step can have this ID
CATEGORY = "<REGION_TO_CATEGORY>"
MAX_STEPS = 200
MAX_TEXT_LENGTH = 2000  # characters of a step's text; models read about 400 tokens
_MAX_NAME_LENGTH = 100  # characters of a task, an adapter or a project
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")

Iou = Annotated[float, Field(gt=0, le=1)]


class _RecipePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tiling(_RecipePart):
    """How a large image is split into square tiles. Each prompt is sent for the whole image and for each tile."""

    size: int = Field(ge=128, description="Side of a tile in pixels of the image.")
    overlap: float = Field(0.2, ge=0, le=0.5, description="Overlap of neighboring tiles, as a share of the side.")
    merge_iou: Iou = Field(0.5, description="Two annotations with one label are the same object from this IoU on.")


class AnnotationFilter(_RecipePart):
    """Which annotations of a step are kept. Sides and areas are relative to the image; overlaps are those of bounding
    boxes."""

    min_score: Share | None = Field(None, description="Minimum score.")
    min_side: Share | None = Field(None, description="Minimum of width and height.")
    max_side: Share | None = Field(None, description="Maximum of width and height.")
    min_area: Share | None = Field(None, description="Minimum area of the bounding box.")
    max_area: Share | None = Field(None, description="Maximum area of the bounding box.")
    max_aspect: float | None = Field(None, ge=1, description="Maximum ratio of the longer to the shorter side.")
    nms: Iou | None = Field(
        None,
        description="Non-maximum suppression: of annotations with one label that overlap by this IoU, the one with the "
        "highest score is kept.",
    )
    class_agnostic_nms: Iou | None = Field(None, description="The same for annotations with any labels.")
    max_count: int | None = Field(None, ge=1, description="Maximum number for an image; the highest scores are kept.")


class RecipeStep(_RecipePart):
    """One kind of prompt. A step runs after the steps that it refers to, and sends all its prompts at once."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=64)]
    task: Annotated[str, Field(max_length=_MAX_NAME_LENGTH)]
    text: str | None = Field(
        None,
        max_length=MAX_TEXT_LENGTH,
        description="The text of the prompt; `${step}` for an earlier step's texts, `${ontology}` for each phrase.",
    )
    for_each: str | None = Field(
        None, max_length=_MAX_NAME_LENGTH, description="An earlier step: one prompt for each region that it found."
    )
    adapter: Annotated[str, Field(min_length=1, max_length=_MAX_NAME_LENGTH)] | None = None
    project: Annotated[str, Field(min_length=1, max_length=_MAX_NAME_LENGTH)] | None = Field(
        None, description="Instead of `adapter`: use the model that is promoted in this project for the task."
    )
    keep: bool = Field(True, description="Whether the annotations are stored, or only used by later steps.")
    tile: Tiling | None = None
    flip: Iou | None = Field(None, description="The mirrored image must lead to the same annotation, at this IoU.")
    check: bool = Field(False, description=f"Verify each region: {CATEGORY} must return the same label.")
    any_class: bool = Field(False, description="The model may name other classes than those of its class list.")
    filter: AnnotationFilter = AnnotationFilter()
    review_below: Share | None = Field(
        None, description="Labels with a lower score are to review, in place of the recipe's `review_below`."
    )

    @field_validator("task")
    @classmethod
    def _check_task(cls, token: str) -> str:
        try:
            find_task(token)
        except PromptError as error:
            raise ValueError(
                str(error).replace("GET /v1/tasks (or `florist tasks`) lists", "`florist tasks` lists")
            ) from error
        return token

    @property
    def task_definition(self) -> Task:
        return find_task(self.task)

    @property
    def reference(self) -> str | None:
        """The name in a text that is `${name}`; None for any other text."""
        match = _REFERENCE.fullmatch(self.text.strip()) if self.text else None
        return match[1].strip() if match else None

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The IDs of the steps that this step uses."""
        return tuple(name for name in (self.for_each, self.reference) if name is not None and name != ONTOLOGY)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tokens of all tasks that the step uses."""
        return (self.task, CATEGORY) if self.check else (self.task,)

    @property
    def finds_shapes(self) -> bool:
        """Whether the step's annotations are shapes, not only text."""
        return self.task_definition.answer_kind is not AnswerKind.TEXT


class PinnedChampion(_RecipePart):
    """A model of a project, by its ID."""

    model: int = Field(ge=1, le=2**63 - 1)  # the limit of databases
    sha256: str = Field(description="Hash of everything that answers.")

    def get_name(self, project: str) -> str:
        """Returns the name that prompts and annotations use. No uploaded adapter can have it."""
        return f"projects/{project}/model-{self.model}"


def get_project_key(project: str) -> str:
    """Returns the name of a project's own list in `Recipe.class_lists`. No adapter can have it."""
    return f"projects/{project}"


class Recipe(_RecipePart):
    """The steps of a job, each after the steps that it refers to, and the labels of their annotations."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    ontology: dict[str, list[str]] = Field(
        {}, description="Label → phrases of the model. A label without phrases is its own phrase."
    )
    unmatched: Literal["keep", "drop", "review"] = Field(
        "drop", description="What to do with annotations that match no phrase of the ontology."
    )
    disagreement: Literal["drop", "review"] = Field(
        "review",
        description="What to do with annotations that `flip` or `check` contradicts, and with grounded phrases that "
        "are not in the text.",
    )
    review_below: ReviewThresholds | None = Field(
        None,
        description="Labels with a lower score are to review. A number applies to objects and words; `{objects: 0.5, "
        "words: 0.3, captions: 0}` sets each.",
    )
    any_class: bool = Field(False, description="`any_class` for all steps.")
    steps: Annotated[list[RecipeStep], Field(min_length=1, max_length=MAX_STEPS)]
    champions: dict[str, dict[str, PinnedChampion | None]] = Field(
        {},
        max_length=MAX_STEPS,
        description="Project → task → model (null: the base model). A job writes this when it starts.",
    )
    class_lists: dict[str, list[str]] = Field(
        {},
        max_length=MAX_STEPS,
        description="Adapter, project or champion → the classes that its answers are held to. A job writes this when "
        "it starts.",
    )

    @field_validator("ontology", mode="before")
    @classmethod
    def _fill_phrases(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if len(value) > MAX_LABELS:  # also checked here, before each of them is
            raise ValueError(f"there are {len(value):,} labels; the limit is {MAX_LABELS:,}, so send fewer")
        return {label: phrases if phrases not in (None, []) else [label] for label, phrases in value.items()}

    @field_validator("ontology")
    @classmethod
    def _check_ontology_size(cls, ontology: dict[str, list[str]]) -> dict[str, list[str]]:
        check_label_list(ontology)
        check_label_list([phrase for phrases in ontology.values() for phrase in phrases], "phrases")
        return ontology

    @cached_property
    def ontology_index(self) -> OntologyIndex:
        return OntologyIndex(self.ontology)

    @cached_property
    def _steps_by_id(self) -> dict[str, RecipeStep]:
        return {step.id: step for step in reversed(self.steps)}  # of two with one ID, the first

    def get_step(self, id: str) -> RecipeStep:
        """Returns a step by its ID. Raises KeyError."""
        return self._steps_by_id[id]

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that must be loaded."""
        return sorted({step.adapter for step in self.steps if step.adapter})

    @property
    def projects(self) -> list[tuple[str, str]]:
        """The projects that the recipe uses, each with a task."""
        return sorted({(step.project, task) for step in self.steps if step.project for task in step.tasks})

    @property
    def models(self) -> dict[str, str]:
        """The SHA-256 of each champion, by the name that `get_adapter` returns."""
        return {
            champion.get_name(project): champion.sha256
            for project, tasks in self.champions.items()
            for champion in tasks.values()
            if champion
        }

    @property
    def answers_classes(self) -> bool:
        """Whether a step names classes, to which it can be held."""
        return any(find_task(token).answers_classes for step in self.steps for token in step.tasks)

    def list_class_list_names(self) -> list[str]:
        """Returns the names that `class_lists` may have: of adapters, projects and champions."""
        projects = dict.fromkeys(get_project_key(project) for project, _ in self.projects)
        return [*self.adapters, *projects, *self.models]

    def get_adapter(self, step: RecipeStep, task: str) -> str | None:
        """Returns the name of the adapter or champion that answers a step's prompts of a task; None for the base model.

        Raises KeyError if the step uses a project and the champions are not pinned yet.
        """
        if step.project is None:
            return step.adapter
        champion = self.champions[step.project][task]
        return champion.get_name(step.project) if champion else None

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of everything that can change an annotation: without the name and without default values."""
        return hashlib.sha256(json.dumps(self.normalize(), sort_keys=True).encode()).hexdigest()

    def normalize(self) -> dict[str, Any]:
        """Returns the recipe as JSON data, without the name and without default values."""
        return self.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
