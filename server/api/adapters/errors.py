"""Errors of the adapter store as problems."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from server.api.problems import INSUFFICIENT_STORAGE, INVALID_ADAPTER, NOT_FOUND, ProblemError
from server.engine.adapters.errors import AdapterCapacityError, AdapterError, UnknownAdapterError

logger = logging.getLogger(__name__)


@contextmanager
def translate_adapter_errors() -> Iterator[None]:
    """Raises errors of the adapter store as ProblemError."""
    try:
        yield
    except UnknownAdapterError as error:
        raise ProblemError(NOT_FOUND, str(error)) from None
    except AdapterCapacityError as error:
        raise ProblemError(INSUFFICIENT_STORAGE, str(error)) from None
    except AdapterError as error:
        raise ProblemError(INVALID_ADAPTER, str(error)[:1000]) from None
    except OSError as error:
        logger.error("cannot write to the adapters' folder", exc_info=error)
        detail = f"cannot write to the adapters' folder: {error.strerror or error}; ask the operator to fix it"
        raise ProblemError(INSUFFICIENT_STORAGE, detail) from None
