"""One prompt and its true answer: what a model is taught, and what it is examined by."""

from dataclasses import dataclass

from prompts.annotations import Annotation
from prompts.tasks import Task


@dataclass(frozen=True, slots=True)
class Question:
    """`text` and `region` as the task takes them; `region` and the answer in the picture's own pixels."""

    task: Task
    answer: tuple[Annotation, ...]
    text: str | None = None
    region: tuple[float, float, float, float] | None = None
