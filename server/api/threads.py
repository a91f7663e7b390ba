"""Blocking calls of routes: in threads, a limited number at a time, with errors as problems.

Calls that read the database, those that write to it, and those that do other work have limiters of their own. When one
kind waits, for example for a locked database, the others go on.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import anyio

from server.api.problems import BUSY, DATABASE_UNAVAILABLE, create_retry_problem
from server.lifecycle import Lifecycle

T = TypeVar("T")
_RETRY_SECONDS = 5


class ThreadCalls:
    """Runs calls in threads. `translate` raises the errors of a call as ProblemError."""

    def __init__(self, lifecycle: Lifecycle, translate: Callable[[], AbstractContextManager[None]]) -> None:
        self._lifecycle, self._translate = lifecycle, translate

    async def read(self, call: Callable[[], T]) -> T:
        """Returns what a call that reads the database returns. Raises ProblemError, also if too many wait for it."""
        return await self._use_database(call, self._lifecycle.read_limiter)

    async def write(self, call: Callable[[], T]) -> T:
        """As `read`, for a call that writes to the database."""
        return await self._use_database(call, self._lifecycle.write_limiter)

    async def run(self, call: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
        """Returns what another call returns. Raises ProblemError, also if `limiter` has no place for it in time."""
        seconds = self._lifecycle.settings.request_timeout
        with self._translate():
            try:
                return await _run_limited(call, limiter, seconds)
            except _NoPlaceError:
                detail = f"other requests have done the same kind of work for {seconds:g} s; retry later"
                raise create_retry_problem(BUSY, detail, _RETRY_SECONDS) from None

    async def _use_database(self, call: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
        seconds = self._lifecycle.settings.database_timeout
        with self._translate():
            try:
                return await _run_limited(call, limiter, seconds)
            except _NoPlaceError:
                detail = f"{limiter.total_tokens:g} requests have waited for the database for {seconds:g} s; retry soon"
                raise create_retry_problem(DATABASE_UNAVAILABLE, detail, _RETRY_SECONDS) from None


class _NoPlaceError(Exception):
    """A limiter had no place in time."""


async def _run_limited(call: Callable[[], T], limiter: anyio.CapacityLimiter, seconds: float) -> T:
    """Raises _NoPlaceError if the limiter has no place within so many seconds. The call itself is not limited: it may
    change something."""
    borrower = object()
    try:
        with anyio.fail_after(seconds):
            await limiter.acquire_on_behalf_of(borrower)
    except TimeoutError:
        raise _NoPlaceError from None
    try:
        return await anyio.to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))
    finally:
        limiter.release_on_behalf_of(borrower)
