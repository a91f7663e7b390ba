"""Errors of uploads as problems."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from server.api.jobs.errors import translate_job_errors
from server.api.problems import (
    BUSY,
    INSUFFICIENT_STORAGE,
    INVALID_STATE,
    NOT_FOUND,
    TOO_LARGE,
    ProblemError,
    create_retry_problem,
)
from server.jobs.upload_parts import UploadTooLargeError
from server.jobs.uploads import UnknownUploadError, UploadInUseError, UploadLimitError

_RETRY_SECONDS = 10
logger = logging.getLogger(__name__)


@contextmanager
def translate_upload_errors() -> Iterator[None]:
    """Raises errors of uploads, and those of jobs, as ProblemError."""
    try:
        with translate_job_errors():
            yield
    except UnknownUploadError as error:
        raise ProblemError(NOT_FOUND, f"{error}; GET /v1/uploads lists them") from None
    except UploadInUseError as error:
        raise ProblemError(INVALID_STATE, str(error)) from None
    except UploadTooLargeError as error:
        raise ProblemError(TOO_LARGE, str(error), headers={"Connection": "close"}) from None
    except UploadLimitError as error:
        raise create_retry_problem(BUSY, f"{error}; retry when another one has arrived", _RETRY_SECONDS) from None
    except OSError as error:
        logger.error("cannot store an upload", exc_info=error)
        reason = error.strerror or type(error).__name__
        advice = "" if error.errno == errno.EDQUOT else "; delete uploads, or ask the operator to free disk space"
        detail = f"the upload cannot be stored: {reason}{advice}"
        raise ProblemError(INSUFFICIENT_STORAGE, detail, headers={"Connection": "close"}) from None
