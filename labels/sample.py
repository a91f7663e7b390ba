"""A prompt and its true answer, for training and evaluation."""

from dataclasses import dataclass

from prompts.annotations import Annotation
from prompts.tasks import Task

CAPTION_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and its true answer.

    `text` and `region` are the inputs of the task. `region` (x1, y1, x2, y2) and `answer` are in pixels of the image.
    """

    task: Task
    answer: tuple[Annotation, ...]
    text: str | None = None
    region: tuple[float, float, float, float] | None = None
