"""A thread that does what is queued, one thing after the other, and goes on after whatever goes wrong."""

import logging
import threading
from collections.abc import Callable

from server.engine.errors import EngineClosedError
from server.store import StoreAway

_LOOK = 5.0  # seconds after which it looks again, though nobody woke it
_WAIT = 5.0  # seconds before another try where the database cannot be used
_JOIN = 15.0  # seconds that a stopping server waits for it
logger = logging.getLogger(__name__)


class QueueWorker:
    """Calls `work` until it says that there is nothing to do; then waits until it is woken. `closing` is set when the
    server stops: `work` then returns soon, and what it had in hand is done after the next start."""

    def __init__(self, name: str, work: Callable[[], bool]) -> None:
        self._work, self._name = work, name
        self._thread = threading.Thread(target=self._run, name=f"florist-{name}", daemon=True)
        self._wake = threading.Event()
        self.closing = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def close(self) -> None:
        self.closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN)

    def _run(self) -> None:
        while not self.closing.is_set():
            self._wake.clear()
            try:
                if not self._work():
                    self._wake.wait(_LOOK)
            except EngineClosedError:
                return
            except StoreAway as away:
                logger.warning("%s; the %s wait for it", away, self._name)
                self.closing.wait(_WAIT)
            except Exception:
                logger.exception("the %s cannot go on; trying again", self._name)
                self.closing.wait(_WAIT)
