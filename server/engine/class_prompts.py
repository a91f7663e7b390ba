"""One prompt that asks for several classes: a request for each, whose answers become one. Imports no torch."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from prompts.annotations import Annotation
from server.engine.request import Request, Result


class AnswerHandle(Protocol):
    """What callers use of a submitted request: `Handle`, or several behind one."""

    def wait(self, timeout: float | None = None) -> Result: ...

    async def result(self) -> Result: ...

    def stream(self) -> AsyncGenerator[Annotation]: ...

    def cancel(self) -> None: ...

    def done(self) -> bool: ...


class ClassesHandle:
    """Waits for, follows or cancels the requests of several classes, as `Handle` does for one request.

    The annotations are in the order of the classes, and their labels are the classes.
    """

    def __init__(self, classes: Sequence[str], handles: Sequence[AnswerHandle]) -> None:
        """`handles`: of the request about each class."""
        self._classes, self._handles = list(classes), list(handles)

    def wait(self, timeout: float | None = None) -> Result:
        """Returns the result. Raises TimeoutError after `timeout` seconds, and the error of any request."""
        ends = None if timeout is None else time.monotonic() + timeout
        results = [handle.wait(None if ends is None else max(0, ends - time.monotonic())) for handle in self._handles]
        return join_results(self._classes, results)

    async def result(self) -> Result:
        """Returns the result. Raises the error of the first request that failed."""
        return join_results(self._classes, [await handle.result() for handle in self._handles])

    async def stream(self) -> AsyncGenerator[Annotation]:
        """Yields each annotation as soon as it is complete and those of the classes before it are."""
        for name, handle in zip(self._classes, self._handles, strict=True):
            async for annotation in handle.stream():
                yield annotation.model_copy(update={"label": name})

    def cancel(self) -> None:
        """Cancels all requests."""
        for handle in self._handles:
            handle.cancel()

    def done(self) -> bool:
        """Returns whether all requests have ended."""
        return all(handle.done() for handle in self._handles)


def submit_classes(
    submit: Callable[[Request], AnswerHandle], request: Request, classes: Sequence[str]
) -> AnswerHandle | ClassesHandle:
    """Submits a request for each class, by `submit`; the request as it is if there are none. Raises what that does.
    Then none of them runs.

    `classes`: of `prompts.class_texts.split_classes`. The requests share the features of their image.
    """
    if not classes:
        return submit(request)
    handles: list[AnswerHandle] = []
    try:
        for name in classes:
            handles.append(submit(replace(request, text=name)))
    except BaseException:
        for handle in handles:
            handle.cancel()
        raise
    return ClassesHandle(classes, handles)


def join_results(classes: Sequence[str], results: Sequence[Result]) -> Result:
    """Returns one result of the answers about several classes: their annotations, labeled with the classes, and one
    line of text for each. The time is that of the slowest."""
    return Result(
        annotations=[
            annotation.model_copy(update={"label": name})
            for name, result in zip(classes, results, strict=True)
            for annotation in result.annotations
        ],
        text="\n".join(result.text for result in results),
        tokens=[token for result in results for token in result.tokens],
        logprobs=[logprob for result in results for logprob in result.logprobs],
        finish="length" if any(result.finish == "length" for result in results) else "stop",
        dropped=[dropped for result in results for dropped in result.dropped],
        timing=max((result.timing for result in results), key=lambda timing: timing.total_ms),
    )
