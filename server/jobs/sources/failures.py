"""Errors of file systems and web servers in plain words."""

import errno
from typing import NoReturn

import httpx

from labels.extras import describe_install
from server.jobs.sources.source import SourceError, SourceImageError, SourceImageFault
from server.store.text import redact_address


def raise_source_error(address: str, error: Exception) -> NoReturn:
    """Raises a SourceError that says why an address cannot be read."""
    reason, fault = explain_error(error)
    if fault is SourceImageFault.MISSING:
        reason = "there is no such file, folder or bucket"
    raise SourceError(f"{redact_address(address)} cannot be read: {reason}") from error


def to_image_error(error: Exception) -> SourceImageError:
    """Converts any file system's error to the error of one image."""
    return SourceImageError(*explain_error(error))


def explain_error(error: Exception) -> tuple[str, SourceImageFault]:
    """Returns a message for users and the kind of fault, for any file system's error."""
    if isinstance(error, SourceImageError):
        return str(error), error.fault
    name, cause = type(error).__name__, error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        return explain_error(cause)  # fsspec reports a server that does not answer as a missing file
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "there is no such file", SourceImageFault.MISSING
    if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return f"there is no such file: {error.strerror}", SourceImageFault.MISSING
    if "Credentials" in name:
        return (
            "no credentials; for s3:// set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            SourceImageFault.DENIED,
        )
    if isinstance(error, IsADirectoryError):
        return "it is a folder", SourceImageFault.BROKEN
    if isinstance(error, PermissionError):
        return f"access is denied: {error.strerror or error}", SourceImageFault.DENIED
    if isinstance(error, ImportError):
        advice = f"; {describe_install('jobs-remote')}" if "s3fs" in str(error) else ""
        return f"a package is missing: {error}{advice}", SourceImageFault.UNREACHABLE
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "it did not answer in time", SourceImageFault.UNREACHABLE
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
    return reason or name, SourceImageFault.UNREACHABLE
