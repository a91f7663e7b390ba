"""A prompt and its true answer: what a model is trained on and evaluated with."""

from dataclasses import dataclass

from prompts.annotations import Annotation
from prompts.tasks import Task

CAPTION_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")


@dataclass(frozen=True, slots=True)
class Sample:
    """`text` and `region` are the task's inputs. `region` and `answer` are in pixels of the image."""

    task: Task
    answer: tuple[Annotation, ...]
    text: str | None = None
    region: tuple[float, float, float, float] | None = None
