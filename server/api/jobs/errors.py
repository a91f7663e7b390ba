"""Errors of jobs and their store as problems."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from server.api.problems import (
    BASE_MISMATCH,
    BUSY,
    DATABASE_UNAVAILABLE,
    INSUFFICIENT_STORAGE,
    INVALID_RECIPE,
    INVALID_SOURCE,
    INVALID_STATE,
    NOT_FOUND,
    OUTPUT_TAKEN,
    SOURCE_NOT_ALLOWED,
    InvalidField,
    ProblemError,
    create_retry_problem,
    summarize,
)
from server.jobs.errors import SourceNotAllowedError
from server.jobs.export_folders import ExportLimitError
from server.jobs.recipes.problems import RecipeError, RecipeProblem
from server.jobs.sources import SourceError
from server.projects.errors import BaseMismatchError
from server.settings import get_variable_name
from server.store.errors import StoreError, StoreUnavailableError
from server.store.jobs.records import InvalidStateError, JobMismatchError, UnknownJobError
from server.store.projects.errors import NotFoundError

_MAX_FIELDS = 20
_MAX_LENGTH = 2000  # characters of a detail
_MAX_LINE = 500  # characters of a difference
_EXPORT_RETRY_SECONDS = 30
logger = logging.getLogger(__name__)


@contextmanager
def translate_job_errors() -> Iterator[None]:
    """Raises errors of jobs and their store as ProblemError."""
    try:
        yield
    except UnknownJobError as error:
        raise ProblemError(NOT_FOUND, f"{error}; GET /v1/jobs lists them") from None
    except InvalidStateError as error:
        raise ProblemError(INVALID_STATE, str(error)) from None
    except JobMismatchError as error:
        differences = [line[:_MAX_LINE] for line in error.differences[:_MAX_FIELDS]]
        fields = [InvalidField(field=line.partition(":")[0][:80], detail=line) for line in differences]
        advice = f". To label what is new in its source: POST /v1/jobs/{error.job.id}/extend"
        detail = str(error)[:_MAX_LENGTH] + (advice if error.job.spec.source == error.spec.source else "")
        raise ProblemError(OUTPUT_TAKEN, detail, "output", fields) from None
    except SourceNotAllowedError as error:
        detail = f"{error} is not in a folder or URL that the setting {get_variable_name('jobs_sources')} allows"
        raise ProblemError(SOURCE_NOT_ALLOWED, f"{detail}; the operator can add it", "source") from None
    except SourceError as error:
        raise ProblemError(INVALID_SOURCE, str(error)[:_MAX_LENGTH], "source") from None
    except RecipeError as error:
        raise _create_recipe_problem(error) from None
    except NotFoundError as error:  # a project of a recipe
        raise ProblemError(INVALID_RECIPE, str(error), "recipe") from None
    except BaseMismatchError as error:
        raise ProblemError(BASE_MISMATCH, str(error), "recipe") from None
    except ExportLimitError as error:
        detail = f"{error}; download it when another one has ended"
        raise create_retry_problem(BUSY, detail, _EXPORT_RETRY_SECONDS) from None
    except StoreUnavailableError as error:
        logger.warning("%s", error)
        raise create_retry_problem(DATABASE_UNAVAILABLE, "no data is lost; retry soon", 5) from None
    except StoreError as error:
        logger.error("the database cannot be used: %s", error)
        detail = "the database cannot be used; the server's log contains the reason"
        raise ProblemError(INSUFFICIENT_STORAGE, detail) from None


def _create_recipe_problem(error: RecipeError) -> ProblemError:
    fields = [InvalidField(field="recipe", detail=_format(problem)) for problem in error.problems[:_MAX_FIELDS]]
    detail = summarize([field.detail for field in fields], len(error.problems))
    return ProblemError(INVALID_RECIPE, detail[:_MAX_LENGTH], "recipe", fields)


def _format(problem: RecipeProblem) -> str:
    if problem.line is None:
        return problem.message
    column = "" if problem.column is None else f":{problem.column}"
    return f"line {problem.line}{column}: {problem.message}"
