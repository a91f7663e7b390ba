"""Errors that the engine raises for a request."""


class RequestCancelledError(Exception):
    """The request was cancelled before it finished."""


class DeadlineExceededError(TimeoutError):
    """The timeout of the request expired before the answer was complete."""


class OverloadedError(Exception):
    """The queue is full. Retry after `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are already waiting; retry in {retry_after:.0f} s")
        self.waiting = waiting
        self.retry_after = retry_after


class InvalidRequestError(ValueError):
    """The model cannot process this request. `field` is the name of the invalid field of `Request`."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class EngineClosedError(Exception):
    """The engine is closed or shutting down and accepts no more requests."""


class ModelOverflowError(FloatingPointError):
    """The model's values became NaN or infinite for this request. Others in its batch are not affected."""
