"""One picture under way: what is shown to the engine of it, and how its recipe's questions are answered."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import Image, ImageOps

from prompts.annotations import Annotation
from server.engine.engine import Engine
from server.engine.model.preprocessing import Picture
from server.jobs.model_prompts import Ask

_KEPT = 16  # views of one picture; of a checkpoint of 768 × 768 each takes 1.7 MB
# The batch in which a prompt is answered moves a score of fp32 by some 1e-7, and which batch that is hangs on the
# moment. Scores are rounded before a recipe sees them, so that neither they nor its thresholds show the moment.
_DIGITS = 3


class Views:
    """The parts of a picture that are asked about, each made ready for the engine once."""

    def __init__(self, engine: Engine, image: Image.Image) -> None:
        self._engine, self._image = engine, image
        self._kept: OrderedDict[tuple[tuple[int, int, int, int] | None, bool], Picture] = OrderedDict()

    def show(self, ask: Ask) -> Picture:
        """What an ask is about."""
        key = ask.crop, ask.mirrored
        if key not in self._kept:
            shown = self._image if ask.crop is None else self._image.crop(ask.crop)
            self._kept[key] = self._engine.prepare(ImageOps.mirror(shown) if ask.mirrored else shown)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


class Room:
    """Memory for decoded pictures, in pixels, shared by threads."""

    def __init__(self, pixels: int) -> None:
        self._free, self._all = pixels, pixels
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Waits until there is room; a picture larger than the whole room has it to itself."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def steady(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Annotations whose scores hang on nothing but the picture and the prompt."""
    least = 10.0**-_DIGITS
    return [
        note
        if note.score is None
        else note.model_copy(update={"score": min(max(round(note.score, _DIGITS), least), 1 - least)})
        for note in annotations
    ]
