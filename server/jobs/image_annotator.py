"""Executes a recipe on images. The engine, or the pinned models of projects, answer its prompts."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from labels.decoder_pool import DecoderClosedError
from labels.images import decode_image
from labels.labeled_image import TracedAnnotation
from prompts.annotations import Annotation
from server.engine.class_lists import list_known_classes, submit_held
from server.engine.errors import RequestCancelledError
from server.engine.request import Request, Result
from server.jobs.budget import Budget
from server.jobs.image_crops import ImageCrops
from server.jobs.model_prompts import ModelPrompt, RecipeExecution, RecipeLabels
from server.jobs.pinned_models import PendingResult, PinnedModel
from server.store import ImageAnnotations

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine

ExecuteRecipe = Callable[[tuple[int, int]], RecipeExecution]
"""Starts a recipe on an image of a size (width, height)."""

_MAX_PIXELS = 150_000_000  # of images that are decoded at the same time
# The composition of a batch depends on timing, and changes an fp32 score by about 1e-7. Scores are rounded before a
# recipe compares them with its thresholds, so that results do not depend on timing, but for ties of two tokens.
_SCORE_DIGITS = 3


class JobStoppedError(Exception):
    """The job was stopped before the current images were done."""


class ImageAnnotator:
    """Executes a recipe on images. Safe to use from many threads, each with its own image."""

    def __init__(
        self,
        engine: "Engine",
        execute: ExecuteRecipe,
        pinned_models: Mapping[str, PinnedModel],
        client: str,
        stop: threading.Event,
    ) -> None:
        """`pinned_models` are the models of projects, by the recipe's names for them. `client` identifies the job in
        the engine's queue. Once `stop` is set, no more prompts are sent."""
        self.engine, self.execute, self.pinned_models, self.client = engine, execute, pinned_models, client
        self.stop = stop
        self._budget = Budget(_MAX_PIXELS)
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._hashes = {adapter.name: adapter.sha256 for adapter in engine.list_adapters()}
        self._hashes |= {name: model.sha256 for name, model in pinned_models.items()}
        self._lock = threading.Lock()
        self._pending: set[PendingResult] = set()

    def cancel(self) -> None:
        """Stops, and cancels all pending prompts."""
        self.stop.set()
        with self._lock:
            pending = list(self._pending)
        for handle in pending:
            handle.cancel()

    def annotate(self, sha256: str, data: bytes) -> ImageAnnotations:
        """Returns the recipe's annotations of an image file. Raises JobStoppedError, ImageError, and the engine's
        errors."""
        with self._budget.reserve_later() as reserve:
            with self._decoding:  # also while it waits for the budget, so that few images are beyond it
                try:
                    image = decode_image(data, max_bytes=len(data))
                except DecoderClosedError as error:
                    raise JobStoppedError from error
                reserve(image.width * image.height)
            crops, execution = ImageCrops(self.engine, image), self.execute(image.size)
            try:
                prompts = next(execution)
                while True:
                    prompts = execution.send(self._answer(crops, prompts))
            except StopIteration as end:
                labels: RecipeLabels = end.value
            finally:
                execution.close()
        return ImageAnnotations(sha256, *image.size, tuple(map(self._add_hashes, labels.traces)), labels.dropped)

    def _answer(self, crops: ImageCrops, prompts: Sequence[ModelPrompt]) -> list[Result]:
        """Returns the answers in order. If one prompt fails, the others are cancelled."""
        handles: list[PendingResult] = []
        try:
            for prompt in prompts:
                handles.append(self._submit(crops, prompt))
            results = [handle.wait() for handle in handles]
        except RequestCancelledError as error:
            raise JobStoppedError from error
        finally:
            for handle in handles:
                handle.cancel()
            with self._lock:
                self._pending.difference_update(handles)
        return [
            replace(result, annotations=round_scores(result.annotations), left_out=round_scores(result.left_out))
            for result in results
        ]

    def _submit(self, crops: ImageCrops, prompt: ModelPrompt) -> PendingResult:
        request = Request(
            crops.prepare(prompt), prompt.task, prompt.text, prompt.region, client=self.client, interactive=False
        )
        submit = partial(self.engine.submit_blocking, stop=self.stop)
        model = self.pinned_models.get(prompt.adapter or "")
        if model:
            handle = model.submit(submit, request, prompt.class_list)
        else:
            known = list_known_classes(self.engine, prompt.adapter) if prompt.class_list else ()
            handle = submit_held(submit, replace(request, adapter=prompt.adapter), prompt.class_list, known)
        with self._lock:
            self._pending.add(handle)
        if self.stop.is_set():
            handle.cancel()
        return handle

    def _add_hashes(self, trace: TracedAnnotation) -> TracedAnnotation:
        """Returns the annotation with the hashes of the model and the adapter. A recipe knows adapters only by name."""
        adapter = trace.adapter and self._hashes.get(trace.adapter, trace.adapter)
        return replace(trace, model=trace.model or self.engine.checkpoint.sha256, adapter=adapter)


def round_scores(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Returns the annotations with scores that depend only on the image and the prompt."""
    least = 10.0**-_SCORE_DIGITS
    return [
        annotation
        if annotation.score is None
        else annotation.model_copy(update={"score": min(max(round(annotation.score, _SCORE_DIGITS), least), 1 - least)})
        for annotation in annotations
    ]
