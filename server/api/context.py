"""The id of the request that is being answered, wherever in the code one is."""

from contextvars import ContextVar

current: ContextVar[str] = ContextVar("request_id", default="none")


def request_id() -> str:
    return current.get()
