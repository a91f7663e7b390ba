"""Errors of projects and their store as problems."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from labels.images import ImageError
from server.api.jobs.errors import translate_job_errors
from server.api.problems import (
    BASE_MISMATCH,
    INSUFFICIENT_STORAGE,
    INVALID_ADAPTER,
    INVALID_ANNOTATIONS,
    INVALID_IMAGE,
    INVALID_REQUEST,
    INVALID_STATE,
    NAME_TAKEN,
    NO_TRAINING_DATA,
    NOT_FOUND,
    PROMOTION_NOT_EARNED,
    TRAINING_NOT_INSTALLED,
    InvalidField,
    ProblemError,
    create_validation_problem,
    summarize,
)
from server.engine.adapters.errors import AdapterCapacityError, AdapterError
from server.projects.errors import (
    BaseMismatchError,
    InitialModelError,
    InvalidAnnotationsError,
    InvalidClassListError,
    InvalidEnsembleError,
    NoTrainingDataError,
    TrainingNotInstalledError,
)
from server.store.projects.errors import (
    NameTakenError,
    NotFoundError,
    NothingPromotedError,
    PromotionNotEarnedError,
)
from server.store.text import hide_folders

_MAX_FIELDS = 20
logger = logging.getLogger(__name__)


@contextmanager
def translate_project_errors() -> Iterator[None]:
    """Raises errors of projects, of jobs and of their store as ProblemError."""
    with translate_job_errors():
        try:
            yield
        except NotFoundError as error:
            raise ProblemError(NOT_FOUND, str(error)) from None
        except NameTakenError as error:
            raise ProblemError(NAME_TAKEN, str(error), "name") from None
        except BaseMismatchError as error:
            raise ProblemError(BASE_MISMATCH, str(error)) from None
        except TrainingNotInstalledError as error:
            raise ProblemError(TRAINING_NOT_INSTALLED, str(error)) from None
        except InvalidClassListError as error:
            raise ProblemError(INVALID_REQUEST, f"classes: {error}", "classes") from None
        except NoTrainingDataError as error:
            raise ProblemError(NO_TRAINING_DATA, str(error)) from None
        except InitialModelError as error:
            raise ProblemError(INVALID_REQUEST, str(error), "initial_model") from None
        except PromotionNotEarnedError as error:
            raise ProblemError(PROMOTION_NOT_EARNED, str(error), "model") from None
        except NothingPromotedError as error:
            raise ProblemError(INVALID_STATE, str(error), "task") from None
        except InvalidEnsembleError as error:
            raise ProblemError(INVALID_REQUEST, str(error), error.field) from None
        except InvalidAnnotationsError as error:
            raise _create_annotations_problem(error) from None
        except ImageError as error:
            raise ProblemError(INVALID_IMAGE, str(error), "image") from None
        except ValidationError as error:
            raise create_validation_problem(error.errors(include_url=False)) from None
        except AdapterCapacityError as error:
            raise ProblemError(INSUFFICIENT_STORAGE, str(error)) from None
        except AdapterError as error:
            raise ProblemError(INVALID_ADAPTER, hide_folders(str(error))[:1000]) from None
        except OSError as error:
            logger.error("cannot write to the projects' folder", exc_info=error)
            reason = error.strerror or hide_folders(str(error))
            detail = f"cannot write to the projects' folder: {reason}; ask the operator to fix it"
            raise ProblemError(INSUFFICIENT_STORAGE, detail) from None


def _create_annotations_problem(error: InvalidAnnotationsError) -> ProblemError:
    fields = [
        InvalidField(
            field="annotations" if problem.index is None else f"annotations.{problem.index}",
            detail=problem.reason[:500],
        )
        for problem in error.problems[:_MAX_FIELDS]
    ]
    detail = summarize([f"{field.field}: {field.detail}" for field in fields], len(error.problems))
    return ProblemError(INVALID_ANNOTATIONS, detail, fields[0].field, fields)
