"""Schemas of POST /v1/prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from prompts.annotations import Annotation
from prompts.class_lists import describe_left_out
from prompts.class_texts import split_classes
from prompts.label_lists import MAX_LABEL_BYTES, MAX_LABELS, MAX_LIST_BYTES, check_label_list, measure_label
from prompts.tasks import PromptError, find_task
from server.api.problems import ProblemDetails
from server.api.prompt.examples import RESPONSE_EXAMPLE
from server.engine.request import Constraint
from server.settings import MAX_PROMPTS

if TYPE_CHECKING:
    from server.api.prompt.prompt_submission import AcceptedPrompt
    from server.engine.request import Result

Region = Annotated[
    tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat],
    Field(description="x1, y1, x2, y2 in pixels: the top left and bottom right corners."),
]
_TASK = "A task token such as `<OD>`; GET /v1/tasks lists them."
_TEXT = (
    "The text input, for tasks that take text. `<OPEN_VOCABULARY_DETECTION>` takes several classes, as a list or with "
    "commas: each is asked for by itself, and the answer has the annotations of all, labeled with the classes."
)
_REGION = "The region input, for tasks that take a region."


def _check_text(text: object) -> object:
    if isinstance(text, str) or (isinstance(text, list) and all(isinstance(each, str) for each in text)):
        return text
    raise ValueError("must be text, or a list of texts")


PromptText = Annotated[str | list[str], BeforeValidator(_check_text)]


def _check_labels(labels: list[str]) -> list[str]:
    check_label_list(labels)
    return labels


class ConstraintOptions(BaseModel):
    """Limits what the model may answer. This can change an answer: to a valid form, or to one of your labels."""

    model_config = ConfigDict(extra="forbid")

    grammar: bool = Field(True, description="Locations come in the number and order that the task requires.")
    labels: Annotated[list[str], Field(max_length=MAX_LABELS), AfterValidator(_check_labels)] | None = Field(
        None,
        description=f"The only labels that the answer may contain: up to {MAX_LABEL_BYTES} bytes each in UTF-8, and "
        f"{MAX_LIST_BYTES:,} together, also over all `prompts`.",
    )

    def to_constraint(self) -> Constraint:
        """Returns the constraint as the engine takes it."""
        return Constraint(self.grammar, None if self.labels is None else tuple(self.labels))


class PromptOptions(BaseModel):
    """How to generate an answer, and which of its annotations to return."""

    model_config = ConfigDict(extra="forbid")

    min_score: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Leaves out annotations with a lower score."
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="The longest answer, in tokens. null: the default of the checkpoint."
    )
    num_beams: int | None = Field(
        None, ge=1, le=1000, description="Beams of the search; 1 is greedy. null: the default of the checkpoint."
    )
    constrain: ConstraintOptions | None = Field(
        None, description="Limits the answer. null: only to the class list, see `any_class`."
    )
    any_class: bool | None = Field(
        None,
        description="true: the answer may name any class. null: labels that are classes are held to those of the "
        "project or, if it declares none, of the adapter; a warning counts objects of other classes, which are left "
        "out.",
    )
    adapter: str | None = Field(
        None, max_length=100, description="The adapter that answers: a name of GET /v1/adapters. null: the model alone."
    )
    project: str | None = Field(
        None,
        max_length=100,
        description="Instead of `adapter`: a project of GET /v1/projects. Its champion for the task answers, or the "
        "model alone if there is none.",
    )
    priority: Literal["interactive", "job"] | None = Field(
        None, description="`job` yields to interactive prompts, without starving. null: `interactive`."
    )


class Prompt(PromptOptions):
    """One prompt."""

    task: str = Field(max_length=100, description=_TASK)
    text: PromptText | None = Field(None, description=_TEXT)
    region: Region | None = Field(None, description=_REGION)


class PromptRequest(PromptOptions):
    """One image, and one prompt (`task` …) or several (`prompts`).

    Options beside `prompts` are defaults for the prompts that do not set them.
    """

    image: str | None = Field(None, description="The image: base64, or a data URL.")
    image_url: str | None = Field(
        None, max_length=4096, description="The URL of the image, instead of `image`. The server must allow it."
    )
    task: str | None = Field(None, max_length=100, description=_TASK)
    text: PromptText | None = Field(None, description=_TEXT)
    region: Region | None = Field(None, description=_REGION)
    prompts: list[Prompt] | None = Field(
        None, min_length=1, max_length=MAX_PROMPTS, description="Several prompts about the image."
    )

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        if (self.task is None) == (self.prompts is None):
            raise ValueError("send either `task`, for one prompt, or `prompts`, a list of them")
        if self.prompts is not None and (self.text is not None or self.region is not None):
            raise ValueError("`text` and `region` belong in the entries of `prompts`")
        lists = {tuple(each.constrain.labels or ()) for each in self.prompts or () if each.constrain}
        if (size := sum(measure_label(label) for labels in lists for label in labels)) > MAX_LIST_BYTES:
            raise ValueError(
                f"the labels of all prompts together have {size:,} bytes; the limit is {MAX_LIST_BYTES:,}, so send "
                "them in several requests"
            )
        return self

    def list_prompts(self) -> list[Prompt]:
        """Returns each prompt with all its options."""
        shared = {name: getattr(self, name) for name in PromptOptions.model_fields}
        if self.prompts is None:
            return [Prompt(task=self.task or "", text=self.text, region=self.region, **shared)]
        complete = []
        for prompt in self.prompts:
            defaults = {name: value for name, value in shared.items() if getattr(prompt, name) is None}
            if prompt.adapter or prompt.project:  # `adapter` and `project` exclude each other
                defaults.update(adapter=prompt.adapter, project=prompt.project)
            complete.append(prompt.model_copy(update=defaults))
        return complete


class PromptTiming(BaseModel):
    """Milliseconds in the queue, in the vision encoder and text encoder, in the decoder, and in total."""

    queue: float
    encode: float
    decode: float
    total: float


class HeldClassList(BaseModel):
    """The class list of an answer."""

    origin: str = Field(description="Where it comes from: `request`, a project, or adapters.")
    classes: int = Field(description="The number of its classes.")


class DroppedPart(BaseModel):
    """A malformed part of the answer that produced no annotation, and why."""

    what: str
    reason: str


class PromptResponse(BaseModel):
    """The answer to one prompt. Coordinates are pixels of the image, `width` × `height`, with EXIF orientation
    applied."""

    model_config = ConfigDict(json_schema_extra={"examples": [RESPONSE_EXAMPLE]})

    model: str
    adapter: str | None = Field(
        None, description="The adapter or the ensemble of a project that answered. null: the model alone."
    )
    task: str
    width: int
    height: int
    annotations: list[Annotation]
    text: str = Field(
        description="The whole answer of the model, with location tokens. Of an ensemble or several classes, one line "
        "for each."
    )
    finish: str = Field(description="stop: the model ended its answer; length: the answer reached max_new_tokens.")
    dropped: list[DroppedPart] = Field(description="Malformed parts of the answer.")
    class_list: HeldClassList | None = Field(
        None, description="The classes that its labels can have. null: the answer could name anything."
    )
    warnings: list[str] = Field(
        [], description="What may not be as expected, such as an unknown task, or objects that were left out."
    )
    timing: PromptTiming


class PromptBatchResponse(BaseModel):
    """One entry for each prompt, in order. A prompt that failed has problem details."""

    results: list[PromptResponse | ProblemDetails]


def create_prompt_response(
    model: str, prompt: Prompt, accepted: "AcceptedPrompt", size: tuple[int, int], result: "Result"
) -> PromptResponse:
    """Returns the response to a prompt. `size`: width and height of the image."""
    timing, class_list = result.timing, accepted.class_list
    left_out = describe_left_out(each.label for each in result.left_out if has_min_score(prompt, each))
    return PromptResponse(
        model=model,
        adapter=accepted.adapter,
        task=prompt.task,
        width=size[0],
        height=size[1],
        annotations=[annotation for annotation in result.annotations if has_min_score(prompt, annotation)],
        text=result.text,
        finish=result.finish,
        dropped=[DroppedPart(what=part.what, reason=part.reason) for part in result.dropped],
        class_list=HeldClassList(origin=class_list.origin, classes=len(class_list.names)) if class_list else None,
        warnings=[*accepted.warnings, *([left_out] if left_out else [])],
        timing=PromptTiming(
            queue=round(timing.queue_ms, 3),
            encode=round(timing.encode_ms, 3),
            decode=round(timing.decode_ms, 3),
            total=round(timing.total_ms, 3),
        ),
    )


def count_requests(prompt: Prompt) -> int:
    """Returns the number of requests to the engine: one, or one for each class of the text."""
    try:
        return max(1, len(split_classes(find_task(prompt.task), prompt.text)))
    except PromptError:
        return 1


def count_characters(text: str | Sequence[str] | None) -> int:
    """Returns the length of a text, or of all texts of a list."""
    return sum(map(len, [text] if isinstance(text, str) else text or ()))


def has_min_score(prompt: Prompt, annotation: Annotation) -> bool:
    """Returns whether an annotation reaches the prompt's `min_score`. One without a score always does."""
    return prompt.min_score is None or annotation.score is None or annotation.score >= prompt.min_score
