"""Errors of jobs. Imports no torch."""


class SourceNotAllowedError(Exception):
    """The operator does not allow jobs to read from this source."""
