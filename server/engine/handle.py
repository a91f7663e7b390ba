"""The caller's side of a submitted request."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from prompts.annotations import Annotation
from server.engine.request import Result

T = TypeVar("T")


class Handle:
    """A submitted request: wait for its result, stream it, or cancel it. Safe to use from any thread or event loop.

    `wait`, `result`, `stream` and `stream_tokens` raise the error of a request that failed. The engine calls `publish`,
    `set_result` and `set_exception`.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        """`on_cancel` is called by `cancel` until the request has ended."""
        self._on_cancel: Callable[[], None] | None = on_cancel
        self._future: Future[Result] = Future()
        self._future.set_running_or_notify_cancel()  # from now on only `set_result` and `set_exception` complete it
        self._annotations: list[Annotation] = []
        self._tokens: list[int] = []
        self._lock = threading.Lock()
        self._ended = False
        self._listeners: list[Callable[[], None]] = []
        self.cancelled = False

    def wait(self, timeout: float | None = None) -> Result:
        """Blocks until the result is complete. Raises TimeoutError after `timeout` seconds."""
        return self._future.result(timeout)

    async def result(self) -> Result:
        """Waits for the result. Cancelling the waiting task does not cancel the request; `cancel` does."""
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def stream(self) -> AsyncGenerator[Annotation]:
        """Yields each annotation as soon as it is complete, always starting from the first one."""
        return self._follow(self._annotations)

    def stream_tokens(self) -> AsyncGenerator[int]:
        """Yields each token id as soon as it is final: at its step for greedy search, at the end for beam search."""
        return self._follow(self._tokens)

    async def _follow(self, items: Sequence[T]) -> AsyncGenerator[T]:
        """Yields the items of a growing list until the request has ended."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop may be closed before its generators
                loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._listeners.append(notify)
        try:
            sent = 0
            while True:
                changed.clear()
                done = self._future.done()  # checked first: all items published before the end are then in the list
                while sent < len(items):
                    yield items[sent]
                    sent += 1
                if done:
                    self._future.result()
                    return
                await changed.wait()
        finally:
            with self._lock:
                self._listeners.remove(notify)

    def cancel(self) -> None:
        """Cancels the request: it fails with RequestCancelledError and frees its KV cache slot within one decoder step.
        Has no effect on a request that has ended."""
        self.cancelled = True
        if (on_cancel := self._on_cancel) is not None:
            on_cancel()

    def done(self) -> bool:
        """Returns whether the request has ended, with a result or an error."""
        return self._future.done()

    def publish(self, annotations: Sequence[Annotation], tokens: Sequence[int] = ()) -> None:
        """Streams what is new. `annotations`, `tokens`: all of them since the start of the answer."""
        new_annotations, new_tokens = annotations[len(self._annotations) :], tokens[len(self._tokens) :]
        self._annotations += new_annotations
        self._tokens += new_tokens
        if new_annotations or new_tokens:
            self._notify_listeners()

    def set_result(self, result: Result) -> bool:
        """Ends the request. Returns False when it had ended before: a request may be cancelled while it finishes."""
        if first := self._end():
            self._future.set_result(result)
            self._notify_listeners()
        return first

    def set_exception(self, error: BaseException) -> bool:
        """Same as `set_result`, with an error."""
        if first := self._end():
            self._future.set_exception(error)
            self._notify_listeners()
        return first

    def _end(self) -> bool:
        with self._lock:
            first, self._ended = not self._ended, True
            self._on_cancel = None  # it refers back to this handle: a reference cycle that would keep the image alive
            return first

    def _notify_listeners(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for notify in listeners:
            notify()
