"""The thread that works on queued runs and backtests."""

import pytest

from server.projects import queue_worker
from server.projects.queue_worker import QueueWorker
from tests.server.helpers import wait_until


def test_it_works_until_the_queue_is_empty_and_again_when_it_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_worker, "_POLL_SECONDS", 60.0)
    queue, done = [1, 2, 3], list[int]()

    def work_once() -> bool:
        if not queue:
            return False
        done.append(queue.pop(0))
        return True

    worker = QueueWorker("test", work_once)
    worker.start()
    wait_until(lambda: done == [1, 2, 3])
    queue.append(4)
    worker.wake()
    wait_until(lambda: done == [1, 2, 3, 4])
    worker.close()
    assert worker.closing.is_set()


def test_it_continues_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_worker, "_RETRY_SECONDS", 0.0)
    calls: list[int] = []

    def work_once() -> bool:
        calls.append(len(calls))
        if len(calls) == 1:
            raise RuntimeError("the first item fails")
        return False

    worker = QueueWorker("test", work_once)
    worker.start()
    wait_until(lambda: len(calls) > 1)
    worker.close()
