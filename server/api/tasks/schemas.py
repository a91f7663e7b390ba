"""Schemas of the task table."""

from pydantic import BaseModel, Field

from prompts.tasks import AnswerKind, InputKind


class TaskResponse(BaseModel):
    """A task."""

    task: str = Field(description="The token to send as `task`.")
    title: str
    template: str = Field(description="The prompt that the model reads; {input} stands for the text or region.")
    input_kind: InputKind = Field(description="The input besides the image.")
    answer_kind: AnswerKind = Field(description="The kind of annotations in the answer.")


class TaskListResponse(BaseModel):
    """All tasks."""

    tasks: list[TaskResponse]
