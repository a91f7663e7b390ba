"""Errors of decoding images as problems."""

from collections.abc import Iterator
from contextlib import contextmanager

from labels.decoder_pool import DecoderClosedError
from labels.images import ImageError
from server.api.problems import BUSY, INVALID_IMAGE, SHUTTING_DOWN, TIMED_OUT, ProblemError, create_retry_problem
from server.image_decoding import DecodersBusyError


@contextmanager
def translate_decoding_errors(field: str) -> Iterator[None]:
    """Raises errors of `ImageDecoding` as ProblemError. `field`: of the image in the request."""
    try:
        yield
    except ImageError as error:
        raise ProblemError(INVALID_IMAGE, str(error), field) from error
    except DecodersBusyError as error:
        raise create_retry_problem(BUSY, str(error), error.retry_after) from error
    except DecoderClosedError as error:
        raise create_retry_problem(SHUTTING_DOWN, "the server stopped before the image was decoded", 5) from error
    except TimeoutError as error:
        detail = "the image waited too long for those before it to be decoded; retry later"
        raise ProblemError(TIMED_OUT, detail) from error
