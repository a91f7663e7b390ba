"""The errors of the stores of projects. Each message says what to do."""

from server.store.errors import StoreError


class NotFoundError(StoreError):
    """There is no such project, correction, run, model or backtest."""


class NameTakenError(StoreError):
    """Another project has this name."""


class PromotionNotEarnedError(StoreError):
    """The model has not won a backtest against the current champion."""


class NothingPromotedError(StoreError):
    """There is no promotion to roll back."""
