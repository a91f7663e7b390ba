"""Answers that keep only the objects of a class list. Imports no torch."""

from collections.abc import AsyncGenerator
from dataclasses import replace

from prompts.annotations import Annotation
from prompts.class_lists import ClassList
from server.engine.answer_handles import AnswerHandle
from server.engine.request import Result


class KeptClassesHandle:
    """Waits for, follows or cancels a request as `Handle` does, and leaves out the objects of other classes.

    What is kept has the names of the list: "A dog" becomes "dog".
    """

    def __init__(self, handle: AnswerHandle, class_list: ClassList) -> None:
        self._handle, self._class_list = handle, class_list

    def wait(self, timeout: float | None = None) -> Result:
        """Returns the result. Raises TimeoutError after `timeout` seconds, and the error of the request."""
        return self._keep_classes(self._handle.wait(timeout))

    async def result(self) -> Result:
        """Returns the result. Raises the error of the request."""
        return self._keep_classes(await self._handle.result())

    async def stream(self) -> AsyncGenerator[Annotation]:
        """Yields each annotation of the classes as soon as it is complete."""
        async for annotation in self._handle.stream():
            if (kept := self._keep(annotation)) is not None:
                yield kept

    def cancel(self) -> None:
        """Cancels the request."""
        self._handle.cancel()

    def done(self) -> bool:
        """Returns whether the request has ended."""
        return self._handle.done()

    def _keep_classes(self, result: Result) -> Result:
        pairs = [(annotation, self._keep(annotation)) for annotation in result.annotations]
        kept = [own for _, own in pairs if own is not None]
        return replace(result, annotations=kept, left_out=[annotation for annotation, own in pairs if own is None])

    def _keep(self, annotation: Annotation) -> Annotation | None:
        """Returns the annotation with the name of its class; None if it has none of the list."""
        name = self._class_list.find_name(annotation.label)
        if name is None or name == annotation.label:
            return None if name is None else annotation
        return annotation.model_copy(update={"label": name})
