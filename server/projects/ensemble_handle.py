"""The handle of a prompt that several models answer."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING

from prompts.annotations import Annotation
from server.engine.answer_handles import wait_for_all

if TYPE_CHECKING:
    from server.engine.handle import Handle
    from server.engine.request import Result


class EnsembleHandle:
    """Waits for, follows or cancels a prompt that several models answer, as `Handle` does for one model.

    `combine` makes one result of all. It is called once, outside the engine's threads and the event loop.
    """

    def __init__(self, handles: "Sequence[Handle]", combine: "Callable[[Sequence[Result]], Result]") -> None:
        self._handles, self._combine = list(handles), combine
        self._lock = threading.Lock()
        self._result: Result | None = None

    def wait(self, timeout: float | None = None) -> "Result":
        """Returns the result, for callers without an event loop.

        Raises TimeoutError after `timeout` seconds, and the error of any member.
        """
        return self._combine_once(wait_for_all(self._handles, timeout))

    async def result(self) -> "Result":
        """Returns the result. Raises the first error of any member."""
        results = await asyncio.gather(*(handle.result() for handle in self._handles))
        return await asyncio.to_thread(self._combine_once, results)

    async def stream(self) -> AsyncGenerator[Annotation]:
        """Yields the annotations, all at the end: every member can change the combined annotations."""
        for annotation in (await self.result()).annotations:
            yield annotation

    def cancel(self) -> None:
        """Cancels the requests of all members."""
        for handle in self._handles:
            handle.cancel()

    def done(self) -> bool:
        """Returns whether all members have ended."""
        return all(handle.done() for handle in self._handles)

    def _combine_once(self, results: "Sequence[Result]") -> "Result":
        with self._lock:
            if self._result is None:
                self._result = self._combine(results)
            return self._result
