"""Calls in threads: a limited number at a time, with a bounded wait for a place."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from server.api.problems import ProblemError
from server.api.threads import ThreadCalls
from server.lifecycle import Lifecycle
from server.settings import Settings


@contextmanager
def pass_errors() -> Iterator[None]:
    yield


async def test_calls_that_block_leave_other_kinds_alone() -> None:
    lifecycle, go = Lifecycle(Settings(database_timeout=0.2, request_timeout=0.3)), threading.Event()
    calls = ThreadCalls(lifecycle, pass_errors)
    problems: list[ProblemError] = []

    async def write() -> None:
        try:
            await calls.write(lambda: go.wait(60))
        except ProblemError as problem:
            problems.append(problem)

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(write)
        with anyio.fail_after(30):
            while len(problems) < 22:  # eight hold the places
                assert await calls.read(lambda: 5) == 5
        assert {problem.kind.name for problem in problems} == {"database-unavailable"}
        assert all(problem.headers == {"Retry-After": "5"} for problem in problems)
        go.set()
    assert len(problems) == 22
    assert await calls.write(lambda: 6) == 6


async def test_work_that_waits_for_other_work_gives_up() -> None:
    lifecycle, go = Lifecycle(Settings(request_timeout=0.2)), threading.Event()
    calls = ThreadCalls(lifecycle, pass_errors)
    async with anyio.create_task_group() as group:
        group.start_soon(calls.run, lambda: go.wait(60), lifecycle.export_limiter)
        with pytest.raises(ProblemError) as refused:
            await run_until_refused(calls, lifecycle)
        assert refused.value.kind.name == "busy"
        go.set()


async def test_an_error_of_a_call_frees_its_place() -> None:
    lifecycle = Lifecycle(Settings(database_timeout=5))
    calls = ThreadCalls(lifecycle, pass_errors)
    for _ in range(20):
        with pytest.raises(TimeoutError):  # of the call itself
            await calls.write(fail)
    assert lifecycle.write_limiter.borrowed_tokens == 0


async def run_until_refused(calls: ThreadCalls, lifecycle: Lifecycle) -> None:
    while True:  # until the other call has its place
        await calls.run(lambda: None, lifecycle.export_limiter)


def fail() -> None:
    raise TimeoutError
