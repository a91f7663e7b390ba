"""A recipe asked about pictures: its questions go to the engine, or to the projects' models that it names."""

import io
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from PIL import Image

from labels.images import FORMATS, decode_image
from labels.labeled_image import TracedAnnotation
from server.engine.engine import Engine
from server.engine.errors import RequestCancelledError
from server.engine.request import Request, Result
from server.jobs.image_crops import Room, Views, steady
from server.jobs.model_prompts import Ask, Asking
from server.jobs.pinned_models import Seat, Waiting
from server.store import Answer

Annotate = Callable[[tuple[int, int]], Asking]
"""A recipe: the size of a picture, width × height → its questions."""

_PIXELS = 150_000_000  # of pictures decoded at a time


class Stopped(Exception):  # noqa: N818
    """The work ends; what is in hand is not done."""


class Asker:
    """Safe to use from many threads, each with a picture. `seats`: the projects' models by the names that the recipe
    has for them; `client`: for whom the engine is asked. Once `stop` is set, nothing more is asked."""

    def __init__(
        self, engine: Engine, annotate: Annotate, seats: Mapping[str, Seat], client: str, stop: threading.Event
    ) -> None:
        self.engine, self.annotate, self.seats, self.client, self.stop = engine, annotate, seats, client, stop
        self.room = Room(_PIXELS)
        self.adapters = {adapter.name: adapter.sha256 for adapter in engine.adapters()}
        self.adapters |= {name: seat.sha256 for name, seat in seats.items()}
        self.lock = threading.Lock()
        self.handles: set[Waiting] = set()

    def drop(self) -> None:
        """Ends all that is under way."""
        self.stop.set()
        with self.lock:
            handles = list(self.handles)
        for handle in handles:
            handle.cancel()

    def ask(self, sha256: str, data: bytes) -> Answer:
        """What the recipe says of a picture. Raises Stopped, ImageError, and what the engine does."""
        with self.room.hold(_pixels(data)):
            image = decode_image(data, max_bytes=len(data))
            views, asking = Views(self.engine, image), self.annotate(image.size)
            try:
                asks = next(asking)
                while True:
                    asks = asking.send(self._results(views, asks))
            except StopIteration as end:
                labels: list[TracedAnnotation] = end.value
            finally:
                asking.close()
        return Answer(sha256, *image.size, tuple(map(self._signed, labels)))

    def _results(self, views: Views, asks: Sequence[Ask]) -> list[Result]:
        """The answers, in order. If one fails, so do they all."""
        handles: list[Waiting] = []
        try:
            for ask in asks:
                handles.append(self._submit(views, ask))
            results = [handle.wait() for handle in handles]
        except RequestCancelledError as error:
            raise Stopped from error
        finally:
            for handle in handles:
                handle.cancel()
            with self.lock:
                self.handles.difference_update(handles)
        return [replace(result, annotations=steady(result.annotations)) for result in results]

    def _submit(self, views: Views, ask: Ask) -> Waiting:
        request = Request(views.show(ask), ask.task, ask.text, ask.region, client=self.client, interactive=False)
        seat = self.seats.get(ask.adapter or "")
        submit = partial(self.engine.submit_when_room, stop=self.stop)
        handle = seat.ask(submit, request) if seat else submit(replace(request, adapter=ask.adapter))
        with self.lock:
            self.handles.add(handle)
        if self.stop.is_set():
            handle.cancel()
        return handle

    def _signed(self, label: TracedAnnotation) -> TracedAnnotation:
        """The label with the hashes of what answered; a recipe knows adapters by name only."""
        adapter = label.adapter and self.adapters.get(label.adapter, label.adapter)
        return replace(label, model=label.model or self.engine.checkpoint.sha256, adapter=adapter)


def _pixels(data: bytes) -> int:
    """How many a picture's header promises; what is broken is left to `decode`."""
    with suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        return opened.width * opened.height
    return 0
