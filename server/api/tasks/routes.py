"""Routes of the task table."""

from fastapi import APIRouter

from prompts.tasks import TASKS
from server.api.auth import KeyRequired
from server.api.problems import UNAUTHORIZED, document_problems
from server.api.tasks.schemas import TaskListResponse, TaskResponse

router = APIRouter(tags=["tasks"], dependencies=[KeyRequired], responses=document_problems(UNAUTHORIZED))


@router.get("/v1/tasks", summary="List the tasks")
async def list_tasks() -> TaskListResponse:
    """Returns all tasks of Florence-2. A fine-tuned model can have more, such as `<VQA>`: prompts accept these too,
    with text in and text out."""
    return TaskListResponse(
        tasks=[
            TaskResponse(
                task=task.token,
                title=task.title,
                template=task.template,
                input_kind=task.input_kind,
                answer_kind=task.answer_kind,
            )
            for task in TASKS.values()
        ]
    )
