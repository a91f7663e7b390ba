"""What jobs and their store raise, as problems."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from server.api import problems
from server.api.problems import Fault, Problem, busy
from server.jobs.queue import SourceNotAllowedError
from server.jobs.recipes.parsing import RecipeError
from server.jobs.sources import SourceError
from server.projects.errors import BaseMismatchError
from server.settings import variable
from server.store import InvalidStateError, JobMismatchError, StoreError, StoreUnavailableError, UnknownJobError
from server.store.projects.errors import NotFoundError

STORED = (problems.DATABASE_AWAY, problems.NO_ROOM)  # what `told` may raise of any call
logger = logging.getLogger(__name__)


@contextmanager
def told() -> Iterator[None]:
    """Turns errors into problems."""
    try:
        yield
    except UnknownJobError as error:
        raise Problem(problems.NOT_FOUND, f"{error}; GET /v1/jobs lists them") from None
    except InvalidStateError as error:
        raise Problem(problems.WRONG_STATE, str(error)) from None
    except JobMismatchError as error:
        faults = [Fault(field=line.partition(":")[0][:80], detail=line) for line in error.differences[:20]]
        raise Problem(problems.JOB_CHANGED, str(error)[:2000], "output", faults) from None
    except SourceNotAllowedError as error:
        detail = f"{error} is in none of the places that the server's setting {variable('jobs_sources')} names"
        raise Problem(problems.SOURCE_REFUSED, f"{detail}; its operator can add it", "source") from None
    except SourceError as error:
        raise Problem(problems.INVALID_SOURCE, str(error)[:2000], "source") from None
    except RecipeError as error:
        raise _faulty(error) from None
    except NotFoundError as error:  # what a recipe asks of projects
        raise Problem(problems.INVALID_RECIPE, str(error), "recipe") from None
    except BaseMismatchError as error:
        raise Problem(problems.OTHER_BASE, str(error), "recipe") from None
    except StoreUnavailableError as error:
        logger.warning("%s", error)
        raise busy(problems.DATABASE_AWAY, "nothing is lost; ask again soon", 5) from None
    except StoreError as error:
        logger.error("jobs cannot be kept: %s", error)
        raise Problem(
            problems.NO_ROOM, "the database of jobs cannot be used; its operator finds why in the log"
        ) from None


def _faulty(error: RecipeError) -> Problem:
    lines = [
        ":".join(("line", *(str(n) for n in (each.line, each.column) if n is not None))).replace(":", " ", 1) + ": "
        if each.line is not None
        else ""
        for each in error.problems
    ]
    faults = [
        Fault(field="recipe", detail=line + each.message)
        for line, each in zip(lines[:20], error.problems, strict=False)
    ]
    more = f"; and {len(error.problems) - 3} more" if len(error.problems) > 3 else ""
    return Problem(problems.INVALID_RECIPE, "; ".join(f.detail for f in faults[:3])[:2000] + more, "recipe", faults)
