"""The table of tasks, for those who ask."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from prompts.tasks import TASKS, Gives, Takes
from server.api.auth import Authorised
from server.api.problems import UNAUTHORIZED, documented

router = APIRouter(tags=["tasks"], dependencies=[Authorised], responses=documented(UNAUTHORIZED))


class TaskRow(BaseModel):
    """A task: what it takes beside the picture, and which annotations it gives."""

    task: str = Field(description="The token to send as `task`.")
    title: str
    wording: str = Field(description="What the model is asked; {input} is the text or region.")
    takes: Takes
    gives: Gives


class TaskTable(BaseModel):
    tasks: list[TaskRow]


@router.get("/v1/tasks")
async def tasks() -> TaskTable:
    """All tasks of Florence-2. Tokens of fine-tuned models, such as `<VQA>`, can be asked too: text in, text out."""
    rows = [
        TaskRow(task=t.token, title=t.title, wording=t.wording, takes=t.takes, gives=t.gives) for t in TASKS.values()
    ]
    return TaskTable(tasks=rows)
