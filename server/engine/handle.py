"""What a caller holds of a request under way."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from prompts.annotations import Annotation
from server.engine.decoding.search import Said
from server.engine.errors import RequestCancelledError
from server.engine.request import Result

T = TypeVar("T")


class Handle:
    """One submitted request: wait for its result, follow it, or cancel it. Safe to use from any thread or event loop.

    Whatever went wrong with the request is raised by `wait`, `result` and `stream` alike.
    """

    def __init__(self, on_cancel: Callable[["Handle"], None]) -> None:
        self._on_cancel = on_cancel
        self._future: Future[Result] = Future()
        self._future.set_running_or_notify_cancel()  # from here on only `_finish` and `_fail` complete it
        self._closed: list[Annotation] = []
        self._tokens: list[int] = []
        self._lock = threading.Lock()
        self._over = False
        self._wakers: list[Callable[[], None]] = []
        self.cancelled = False
        self._work: Any = None  # the engine's own record of the request, until it ends

    def wait(self, timeout: float | None = None) -> Result:
        """The result, for callers without an event loop. Raises TimeoutError after `timeout` seconds."""
        return self._future.result(timeout)

    async def result(self) -> Result:
        """The result. A caller that stops waiting does not cancel the request: `cancel` does."""
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def stream(self) -> AsyncGenerator[Annotation]:
        """Each annotation the moment it closes, from the first one on however late this is called."""
        return self._follow(self._closed)

    def tokens(self) -> AsyncGenerator[int]:
        """Each token id the moment it is settled: greedily at its step, with beams at the end."""
        return self._follow(self._tokens)

    async def _follow(self, growing: Sequence[T]) -> AsyncGenerator[T]:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may have closed without ending its generators
                loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._wakers.append(wake)
        try:
            sent = 0
            while True:
                changed.clear()
                done = self._future.done()  # asked first: what closed before the end is then in the list
                while sent < len(growing):
                    yield growing[sent]
                    sent += 1
                if done:
                    self._future.result()
                    return
                await changed.wait()
        finally:
            with self._lock:
                self._wakers.remove(wake)

    def cancel(self) -> None:
        """Gives the request up: it raises Cancelled and frees its place within a decode step. Too late is no error."""
        self.cancelled = True
        self._on_cancel(self)

    def done(self) -> bool:
        """Whether the result, or what went wrong, is there."""
        return self._future.done()

    # What follows is the engine's.

    def _stream(self, annotations: Sequence[Annotation], settled: Sequence[Said] = ()) -> None:
        """Takes all annotations and settled tokens so far; passes on those that are new."""
        closed, said = annotations[len(self._closed) :], settled[len(self._tokens) :]
        self._closed += closed
        self._tokens += [s.token for s in said]
        if closed or said:
            self._wake()

    def _finish(self, result: Result) -> bool:
        """True for the first ending alone: a request may be cancelled in the moment it finishes or fails."""
        if first := self._end():
            self._future.set_result(result)
            self._wake()
        return first

    def _fail(self, error: BaseException) -> bool:
        if first := self._end():
            self._future.set_exception(error)
            self._wake()
        return first

    def _cancel(self) -> bool:
        return self._fail(RequestCancelledError("the request was cancelled before it finished"))

    def _end(self) -> bool:
        with self._lock:
            first, self._over = not self._over, True
            self._work = None  # it knows this handle: a circle, whose picture would lie about until it is collected
            return first

    def _wake(self) -> None:
        with self._lock:
            wakers = list(self._wakers)
        for wake in wakers:
            wake()
