"""What a recipe asks of an engine about one picture: the seam between recipes, which ask, and runners, which answer."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from labels.labeled_image import TracedAnnotation
from prompts.tasks import Task
from server.engine.request import Result


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt on the picture, or on a part of it. `crop`: x1, y1, x2, y2 in whole pixels of the picture, None for
    all of it; `mirrored`: left and right exchanged, after the crop. `adapter`: who
    answers, by the name that the recipe has for it. `region` is in pixels of what is shown, and so are
    the annotations that come back."""

    task: Task
    text: str | None = None
    region: tuple[float, float, float, float] | None = None
    adapter: str | None = None
    crop: tuple[int, int, int, int] | None = None
    mirrored: bool = False


Asking = Generator[Sequence[Ask], Sequence[Result], list[TracedAnnotation]]
"""A recipe at work on one picture: yields what it asks at once, takes the answers in that order, returns the labels."""
