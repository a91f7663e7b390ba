"""The interface between recipes, which yield prompts, and the runner, which sends them to a model."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from labels.dropped_labels import DroppedLabel
from labels.labeled_image import TracedAnnotation
from prompts.class_lists import ClassList
from prompts.tasks import Task
from server.engine.request import Result


@dataclass(frozen=True, slots=True)
class ModelPrompt:
    """One prompt about an image, or about a part of it.

    `crop` is x1, y1, x2, y2 in whole pixels of the image, or None for the whole image. `mirrored` is whether the crop
    is then flipped horizontally. `region`, and the annotations of the answer, are in pixels of the resulting view.
    `adapter` is the recipe's name for the adapter or project model that answers; None for the base model. `class_list`
    are the classes that the answer may name; None for any.
    """

    task: Task
    text: str | None = None
    region: tuple[float, float, float, float] | None = None
    adapter: str | None = None
    crop: tuple[int, int, int, int] | None = None
    mirrored: bool = False
    class_list: ClassList | None = None


@dataclass(frozen=True, slots=True)
class RecipeLabels:
    """What a recipe makes of one image: its annotations, and the labels that it did not keep."""

    traces: list[TracedAnnotation]
    dropped: tuple[DroppedLabel, ...] = ()


RecipeExecution = Generator[Sequence[ModelPrompt], Sequence[Result], RecipeLabels]
"""A recipe that runs on one image: yields prompts that can be answered at once, receives the answers in the same order,
and returns the labels."""
