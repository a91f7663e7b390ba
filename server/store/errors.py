"""Errors of the database."""


class StoreError(Exception):
    """The database cannot be used; the message says what to do. Stored data is not affected."""


class StoreUnavailableError(StoreError):
    """The database does not answer now. The same call can be repeated: no call does its work twice."""
