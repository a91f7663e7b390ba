"""A thread that works on a queue, one item after the other, and continues after any error."""

import logging
import threading
from collections.abc import Callable

from labels.decoder_pool import DecoderClosedError
from server.engine.errors import EngineClosedError
from server.store import StoreUnavailableError

_POLL_SECONDS = 5.0  # interval between two checks of the queue if nobody calls `wake`
_RETRY_SECONDS = 5.0  # delay after an error
_JOIN_SECONDS = 15.0  # how long `close` waits for the thread
logger = logging.getLogger(__name__)


class QueueWorker:
    """Calls `work_once` until it returns False, then waits for the next item.

    `closing` is set when the server stops: `work_once` must then return soon. An unfinished item stays in the queue.
    """

    def __init__(self, name: str, work_once: Callable[[], bool]) -> None:
        self._work_once, self._name = work_once, name
        self._thread = threading.Thread(target=self._run, name=f"florist-{name}", daemon=True)
        self._awake = threading.Event()
        self.closing = threading.Event()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Tells the thread that the queue may have a new item."""
        self._awake.set()

    def close(self) -> None:
        """Stops the thread and waits for its end."""
        self.closing.set()
        self._awake.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while not self.closing.is_set():
            self._awake.clear()
            try:
                if not self._work_once():
                    self._awake.wait(_POLL_SECONDS)
            except (EngineClosedError, DecoderClosedError):
                return
            except StoreUnavailableError as error:
                logger.warning("%s; the %s wait for it", error, self._name)
                self.closing.wait(_RETRY_SECONDS)
            except Exception:
                logger.exception("the %s failed; retrying", self._name)
                self.closing.wait(_RETRY_SECONDS)
