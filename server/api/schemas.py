"""What POST /v1/prompt takes and gives."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from prompts.annotations import Annotation
from server.api import examples
from server.api.problems import ProblemDetails
from server.engine.request import Constraint, Result
from server.settings import MAX_PROMPTS

Region = Annotated[
    tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat],
    Field(description="x1, y1, x2, y2 in pixels: the corners at the top left and bottom right."),
]


class AnswerConstraint(BaseModel):
    """What an answer may be. It can change what the model says: a mended form, or a label nearer to yours."""

    model_config = ConfigDict(extra="forbid")

    grammar: bool = Field(True, description="Locations come in the number and order that the task's form needs.")
    labels: list[str] | None = Field(None, max_length=2000, description="Labels may only be these.")

    def read(self) -> Constraint:
        """As the engine takes it."""
        return Constraint(self.grammar, None if self.labels is None else tuple(self.labels))


class Options(BaseModel):
    """How an answer is generated, and which annotations of it are wanted."""

    model_config = ConfigDict(extra="forbid")

    min_score: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Annotations with a lower score are left out."
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="The longest answer, in tokens. None: as the checkpoint says."
    )
    num_beams: int | None = Field(
        None, ge=1, le=1000, description="Beams of the search; 1 is greedy. None: as the checkpoint says."
    )
    constrain: AnswerConstraint | None = Field(
        None, description="What the answer may be. None: whatever the model says."
    )
    adapter: str | None = Field(
        None, max_length=100, description="Who answers: a name of GET /v1/adapters. None: the model alone."
    )
    project: str | None = Field(
        None,
        max_length=100,
        description="Instead of `adapter`: the model that this project of GET /v1/projects has promoted for the task "
        "answers, or the model alone where there is none.",
    )
    priority: Literal["interactive", "job"] | None = Field(
        None, description="Jobs give way to interactive prompts, and are never starved by them. None: interactive."
    )


class Prompt(Options):
    """One question."""

    task: str = Field(max_length=100, description="A task token such as `<OD>`; GET /v1/tasks lists them.")
    text: str | None = Field(None, description="What to look for, for the tasks that take text.")
    region: Region | None = Field(None, description="For the tasks that take a region.")


class PromptRequest(Options):
    """One picture, and one question (`task` …) or several (`prompts`).

    Options beside `prompts` hold for each prompt that does not set its own.
    """

    image: str | None = Field(None, description="The picture: base64, or a data URL.")
    image_url: str | None = Field(
        None, max_length=4096, description="Where the picture is, on servers that allow it. Instead of `image`."
    )
    task: str | None = Field(None, max_length=100, description="A task token such as `<OD>`; GET /v1/tasks lists them.")
    text: str | None = Field(None, description="What to look for, for the tasks that take text.")
    region: Region | None = Field(None, description="For the tasks that take a region.")
    prompts: list[Prompt] | None = Field(
        None, min_length=1, max_length=MAX_PROMPTS, description="Several questions on the one picture."
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if (self.task is None) == (self.prompts is None):
            raise ValueError("send either `task`, for one question, or `prompts`, a list of them")
        if self.prompts is not None and (self.text is not None or self.region is not None):
            raise ValueError("put `text` and `region` into the prompt that they belong to")
        return self

    def questions(self) -> list[Prompt]:
        """Each question with all that holds for it."""
        shared = {name: getattr(self, name) for name in Options.model_fields}
        if self.prompts is None:
            return [Prompt(task=self.task or "", text=self.text, region=self.region, **shared)]
        unset = [{k: v for k, v in shared.items() if getattr(prompt, k) is None} for prompt in self.prompts]
        for prompt, update in zip(self.prompts, unset, strict=True):
            if prompt.adapter or prompt.project:  # one that says who answers
                update.update(adapter=prompt.adapter, project=prompt.project)
        return [prompt.model_copy(update=update) for prompt, update in zip(self.prompts, unset, strict=True)]


class Timing(BaseModel):
    """Milliseconds: waiting for a batch, in vision tower and encoder, in the decoder, and from first to last."""

    queue: float
    encode: float
    decode: float
    total: float


class Unread(BaseModel):
    """A part of the answer that makes no annotation, and why."""

    what: str
    reason: str


class Answer(BaseModel):
    """The answer to one question. Coordinates are pixels of a picture of `width` × `height`, as EXIF turns it."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.ANSWER]})

    model: str
    adapter: str | None = Field(
        None, description="The adapter that answered, or the project's combined model; null: the model alone."
    )
    task: str
    width: int
    height: int
    annotations: list[Annotation]
    text: str = Field(
        description="The model's answer as it said it, location tokens written out; of several that are combined "
        "each one's, a line each."
    )
    finish: str = Field(description="stop: the model ended its answer; length: max_new_tokens ran out.")
    dropped: list[Unread] = Field(description="What of the answer could not be used.")
    timing: Timing


class Answers(BaseModel):
    """One entry a prompt, in their order; a prompt that failed has a problem there."""

    results: list[Answer | ProblemDetails]


def answer(model: str, prompt: Prompt, size: tuple[int, int], result: Result) -> Answer:
    timing = result.timing
    return Answer(
        model=model,
        adapter=prompt.adapter,
        task=prompt.task,
        width=size[0],
        height=size[1],
        annotations=[note for note in result.annotations if wanted(prompt, note)],
        text=result.text,
        finish=result.finish,
        dropped=[Unread(what=d.what, reason=d.reason) for d in result.dropped],
        timing=Timing(
            queue=round(timing.queue_ms, 3),
            encode=round(timing.encode_ms, 3),
            decode=round(timing.decode_ms, 3),
            total=round(timing.total_ms, 3),
        ),
    )


def wanted(prompt: Prompt, note: Annotation) -> bool:
    """Whether an annotation's score is as high as the prompt asks; one without a score always is."""
    return prompt.min_score is None or note.score is None or note.score >= prompt.min_score
