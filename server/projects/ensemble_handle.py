"""One prompt that several answer: their handles held as one."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from prompts.annotations import Annotation
from server.engine.handle import Handle
from server.engine.request import Result


class EnsembleHandle:
    """What a caller holds of a prompt that several answer, as of one that a single `Handle` stands for. `combine` makes
    one result of all; it is called once, beside the engine's threads and the event loop."""

    def __init__(self, handles: Sequence[Handle], combine: Callable[[Sequence[Result]], Result]) -> None:
        self._handles, self._combine = list(handles), combine
        self._lock = threading.Lock()
        self._result: Result | None = None

    def wait(self, timeout: float | None = None) -> Result:
        """The result, for callers without an event loop. Raises TimeoutError after `timeout` seconds, and what went
        wrong with any of them."""
        ends = None if timeout is None else time.monotonic() + timeout
        return self._combined(
            [h.wait(None if ends is None else max(0, ends - time.monotonic())) for h in self._handles]
        )

    async def result(self) -> Result:
        """The result. Raises what went wrong first with any of them."""
        results = await asyncio.gather(*(handle.result() for handle in self._handles))
        return await asyncio.to_thread(self._combined, results)

    async def stream(self) -> AsyncGenerator[Annotation]:
        """The annotations, all at the end: what the first one says may be outvoted by the last."""
        for annotation in (await self.result()).annotations:
            yield annotation

    def cancel(self) -> None:
        """Gives all of them up."""
        for handle in self._handles:
            handle.cancel()

    def done(self) -> bool:
        """Whether all have ended."""
        return all(handle.done() for handle in self._handles)

    def _combined(self, results: Sequence[Result]) -> Result:
        with self._lock:
            if self._result is None:
                self._result = self._combine(results)
            return self._result
