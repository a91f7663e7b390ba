"""What a recipe says. `reading` makes one of YAML or JSON and checks what types alone cannot."""

import hashlib
import json
import re
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from prompts.tasks import AnswerKind, PromptError, Task, find_task
from server.jobs.recipes.ontology import Ontology

ONTOLOGY = "ontology"  # `${ontology}` asks for its phrases, so no step is called so
CATEGORY = "<REGION_TO_CATEGORY>"
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")

Share = Annotated[float, Field(ge=0, le=1)]
Iou = Annotated[float, Field(gt=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tile(_Part):
    """Large pictures are asked about in squares too, beside the whole."""

    size: int = Field(ge=128, description="A square's side in pixels of the picture.")
    overlap: float = Field(0.2, ge=0, le=0.5, description="What neighbours share, of the side.")
    merge: Iou = Field(0.5, description="The IoU from which two answers of one label are one thing.")


class Filter(_Part):
    """What is kept of a step's answers. Sides and areas are shares of the picture's; overlaps are of upright boxes."""

    score: Share | None = Field(None, description="At least this sure.")
    min_side: Share | None = Field(None, description="Width and height at least.")
    max_side: Share | None = Field(None, description="Width and height at most.")
    min_area: Share | None = None
    max_area: Share | None = None
    max_aspect: float | None = Field(None, ge=1, description="The longer side over the shorter at most, in pixels.")
    nms: Iou | None = Field(None, description="Of one label, what overlaps a surer one so much goes.")
    duplicates: Iou | None = Field(None, description="Of any label, what overlaps a surer one so much goes.")
    count: int | None = Field(None, ge=1, description="The surest so many of a picture.")


class Step(_Part):
    """One question. It waits for the steps that it names, and asks all that it has to ask at once."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=64)]
    task: str
    text: str | None = Field(None, description="Words, `${step}` for an earlier step's, `${ontology}` for each phrase.")
    each: str | None = Field(None, description="An earlier step: each region that it found is asked about.")
    adapter: Annotated[str, Field(min_length=1)] | None = None
    project: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Instead of `adapter`: the model that this project has promoted, for each task that is asked."
    )
    keep: bool = Field(True, description="Whether its answers are labels, or only what later steps ask about.")
    tile: Tile | None = None
    flip: Iou | None = Field(None, description="The mirror image must show the same, at this IoU.")
    check: bool = Field(False, description=f"Each region is asked back by {CATEGORY}, and must get its label.")
    filter: Filter = Filter()

    @field_validator("task")
    @classmethod
    def _known(cls, token: str) -> str:
        try:
            find_task(token)
        except PromptError as error:
            raise ValueError(
                str(error).replace("GET /v1/tasks (or `florist tasks`) lists", "`florist tasks` lists")
            ) from error
        return token

    @property
    def asked(self) -> Task:
        return find_task(self.task)

    @property
    def reference(self) -> str | None:
        """The name in a text that is `${name}`; None for words."""
        found = _REFERENCE.fullmatch(self.text.strip()) if self.text else None
        return found[1].strip() if found else None

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the steps that it waits for."""
        return tuple(name for name in (self.each, self.reference) if name is not None and name != ONTOLOGY)

    @property
    def tasks(self) -> tuple[str, ...]:
        """All that it asks."""
        return (self.task, CATEGORY) if self.check else (self.task,)

    @property
    def shapes(self) -> bool:
        """Whether it finds places, and not text alone."""
        return self.asked.answer_kind is not AnswerKind.TEXT


class Champion(_Part):
    """A project's model, by its number there."""

    model: int = Field(ge=1, le=2**63 - 1)  # that databases count to
    sha256: str = Field(description="Of all that answers.")

    def name(self, project: str) -> str:
        """What asks and labels call it; no adapter that is uploaded can be called so."""
        return f"projects/{project}/model-{self.model}"


class Recipe(_Part):
    """Steps in the order in which they may name each other, and what their labels are called."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    ontology: dict[str, list[str]] = Field({}, description="Project label → phrases; a label without any is its own.")
    others: Literal["keep", "drop", "review"] = Field("drop", description="Answers under no label of the ontology.")
    disagreement: Literal["drop", "review"] = Field(
        "review", description="What `flip` or `check` contradicts, and phrases grounded that their text does not say."
    )
    review_below: Share | None = Field(None, description="A label that scores lower is for a person to look at.")
    steps: Annotated[list[Step], Field(min_length=1)]
    champions: dict[str, dict[str, Champion | None]] = Field(
        {}, description="Project → task → who answers it (null: the model alone). A job that begins writes this."
    )

    @field_validator("ontology", mode="before")
    @classmethod
    def _own_phrase(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {label: phrases if phrases not in (None, []) else [label] for label, phrases in given.items()}

    @cached_property
    def names(self) -> Ontology:
        return Ontology(self.ontology)

    def step(self, id: str) -> Step:
        """Raises KeyError."""
        for step in self.steps:
            if step.id == id:
                return step
        raise KeyError(id)

    @property
    def adapters(self) -> list[str]:
        """The names of those that must be loaded."""
        return sorted({step.adapter for step in self.steps if step.adapter})

    @property
    def projects(self) -> list[tuple[str, str]]:
        """The projects that are asked, each with a task."""
        return sorted({(step.project, task) for step in self.steps if step.project for task in step.tasks})

    @property
    def models(self) -> dict[str, str]:
        """The champions: the SHA-256 of each, by the name that `answering` gives it."""
        return {
            champion.name(project): champion.sha256
            for project, tasks in self.champions.items()
            for champion in tasks.values()
            if champion
        }

    def answering(self, step: Step, task: str) -> str | None:
        """The name of who answers what a step asks: an adapter, or a champion; None: the model alone. Raises KeyError
        where the step names a project whose champions are not told yet."""
        if step.project is None:
            return step.adapter
        champion = self.champions[step.project][task]
        return champion.name(step.project) if champion else None

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of all that can change an answer: not of the name, nor of what says the default."""
        return hashlib.sha256(json.dumps(_normal(self), sort_keys=True).encode()).hexdigest()


def difference(old: Recipe, new: Recipe) -> list[str]:
    """How `new` differs, a line each, as in `step things: filter.score was 0.3, is 0.5`; none where the hashes are
    equal."""
    before, after = _normal(old), _normal(new)
    steps_before, steps_after = ({step["id"]: step for step in sides.pop("steps")} for sides in (before, after))
    lines = _changes("", before, after)
    for id in steps_before | steps_after:
        if id not in steps_after:
            lines.append(f"step {id} is gone")
        elif id not in steps_before:
            lines.append(f"step {id} is new")
        else:
            lines += _changes(f"step {id}: ", steps_before[id], steps_after[id])
    common = [id for id in steps_before if id in steps_after]
    if common != (order := [id for id in steps_after if id in steps_before]):
        lines.append(f"the steps' order was {', '.join(common)}; is {', '.join(order)}")
    return lines


def _normal(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)


def _changes(where: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = _flat(before), _flat(after)
    return [
        f"{where}{key} was {_shown(old, key)}, is {_shown(new, key)}"
        for key in old | new
        if old.get(key) != new.get(key)
    ]


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not given"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
