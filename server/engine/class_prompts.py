"""One prompt that asks for several classes: a request for each, whose answers become one. Imports no torch."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from prompts.annotations import Annotation
from server.engine.answer_handles import AnswerHandle, join_results, submit_all, wait_for_all
from server.engine.request import Request, Result


class ClassesHandle:
    """Waits for, follows or cancels the requests of several classes, as `Handle` does for one request.

    The annotations are in the order of the classes, and their labels are the classes.
    """

    def __init__(self, classes: Sequence[str], handles: Sequence[AnswerHandle]) -> None:
        """`handles`: of the request about each class."""
        self._classes, self._handles = list(classes), list(handles)

    def wait(self, timeout: float | None = None) -> Result:
        """Returns the result. Raises TimeoutError after `timeout` seconds, and the error of any request."""
        return self._join(wait_for_all(self._handles, timeout))

    async def result(self) -> Result:
        """Returns the result. Raises the error of the first request that failed."""
        return self._join([await handle.result() for handle in self._handles])

    async def stream(self) -> AsyncGenerator[Annotation]:
        """Yields each annotation as soon as it is complete and those of the classes before it are."""
        for name, handle in zip(self._classes, self._handles, strict=True):
            async for annotation in handle.stream():
                yield _label(annotation, name)

    def cancel(self) -> None:
        """Cancels all requests."""
        for handle in self._handles:
            handle.cancel()

    def done(self) -> bool:
        """Returns whether all requests have ended."""
        return all(handle.done() for handle in self._handles)

    def _join(self, results: Sequence[Result]) -> Result:
        pairs = zip(self._classes, results, strict=True)
        return join_results(results, [_label(each, name) for name, result in pairs for each in result.annotations])


def submit_classes(
    submit: Callable[[Request], AnswerHandle], request: Request, classes: Sequence[str]
) -> AnswerHandle | ClassesHandle:
    """Submits a request for each class, by `submit`; the request as it is if there are none. Raises what that does.
    Then none of them runs.

    `classes`: of `prompts.class_texts.split_classes`. The requests share the features of their image.
    """
    if not classes:
        return submit(request)
    return ClassesHandle(classes, submit_all(submit, (replace(request, text=name) for name in classes)))


def _label(annotation: Annotation, name: str) -> Annotation:
    return annotation.model_copy(update={"label": name})
