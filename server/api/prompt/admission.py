"""Admits prompts: those that the queue has no place for are refused before the server spends time on them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from server.api.metrics.metrics import Metrics
from server.api.problems import OVERLOADED, ProblemError, create_retry_problem
from server.api.prompt.schemas import count_requests
from server.engine.errors import OverloadedError
from server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from server.api.prompt.schemas import Prompt
    from server.engine.engine import Engine


def check_capacity(
    lifecycle: Lifecycle, engine: "Engine", metrics: Metrics, count: int = 1, *, interactive: bool = True
) -> None:
    """Raises ProblemError if the queue has no place for so many prompts besides those whose images are decoded."""
    try:
        engine.check_capacity(lifecycle.preparing + count, interactive=interactive)
    except OverloadedError as error:
        metrics.observe_prompt("unknown", "overloaded")
        raise create_overload_problem(error) from error


@contextmanager
def reserve_places(
    lifecycle: Lifecycle, engine: "Engine", metrics: Metrics, prompts: "Sequence[Prompt]"
) -> Iterator[None]:
    """Keeps places in the queue for the prompts of a request while its image is decoded. Raises ProblemError."""
    interactive = all(prompt.priority != "job" for prompt in prompts)
    count = sum(map(count_requests, prompts))
    check_capacity(lifecycle, engine, metrics, count, interactive=interactive)
    lifecycle.preparing += count
    try:
        yield
    finally:
        lifecycle.preparing -= count


def create_overload_problem(error: OverloadedError) -> ProblemError:
    """Returns the problem of a full queue."""
    detail = f"{error.waiting} prompts are already waiting; retry in {error.retry_after:.0f} s"
    return create_retry_problem(OVERLOADED, detail, error.retry_after)
