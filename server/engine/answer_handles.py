"""What callers use of submitted requests, and what makes one answer of several. Imports no torch."""

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from prompts.annotations import Annotation
from server.engine.request import Request, Result


class AnswerHandle(Protocol):
    """What callers use of a submitted request: `Handle`, or several behind one."""

    def wait(self, timeout: float | None = None) -> Result: ...

    async def result(self) -> Result: ...

    def stream(self) -> AsyncGenerator[Annotation]: ...

    def cancel(self) -> None: ...

    def done(self) -> bool: ...


AnyHandle = TypeVar("AnyHandle", bound=AnswerHandle)


def submit_all(submit: Callable[[Request], AnyHandle], requests: Iterable[Request]) -> list[AnyHandle]:
    """Submits each request by `submit`. Raises what that does. Then none of them runs."""
    handles: list[AnyHandle] = []
    try:
        for request in requests:
            handles.append(submit(request))
    except BaseException:
        for handle in handles:
            handle.cancel()
        raise
    return handles


def wait_for_all(handles: Iterable[AnswerHandle], timeout: float | None) -> list[Result]:
    """Returns the results in order. Raises TimeoutError after `timeout` seconds, and the error of any request."""
    ends = None if timeout is None else time.monotonic() + timeout
    return [handle.wait(None if ends is None else max(0, ends - time.monotonic())) for handle in handles]


def join_results(results: Sequence[Result], annotations: Sequence[Annotation]) -> Result:
    """Returns one result with these annotations: the texts and tokens of all results, the time of the slowest."""
    return Result(
        annotations=list(annotations),
        text="\n".join(result.text for result in results),
        tokens=[token for result in results for token in result.tokens],
        logprobs=[logprob for result in results for logprob in result.logprobs],
        finish="length" if any(result.finish == "length" for result in results) else "stop",
        dropped=[dropped for result in results for dropped in result.dropped],
        timing=max((result.timing for result in results), key=lambda timing: timing.total_ms),
    )
