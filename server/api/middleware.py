"""Around every request: an id, a line in the log, the limit of its body, a last resort for what nobody caught."""

import re
import time
import uuid
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api import context
from server.api.problems import FAILED, TOO_LARGE, Problem

HEADER = "X-Request-ID"
# What may stand in a log line and a header without harm.
_CLEAN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds
logger = structlog.get_logger("florist.http")


class RequestContext:
    """Gives each request an id (the caller's X-Request-ID where it is clean), logs it, and turns a stray exception into
    a problem. `observe` is told method, route, status and seconds."""

    def __init__(self, app: ASGIApp, observe: Callable[[str, str, int, float], None]) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        identity = given if _CLEAN.fullmatch(given) else uuid.uuid4().hex
        token = context.current.set(identity)
        status, began = 0, time.perf_counter()

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = identity
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=identity):
            try:
                await self.app(scope, receive, told)
            except Exception:
                logger.exception("unexpected", path=scope["path"])
                if not status:
                    problem = Problem(FAILED, "the fault is the server's; tell its operator the request_id")
                    await problem.response()(scope, receive, told)
            finally:
                seconds = time.perf_counter() - began
                route = getattr(scope.get("route"), "path", "unknown")
                self.observe(scope["method"], route, status, seconds)
                log = logger.debug if scope["path"] in _QUIET and status < 400 else logger.info
                # The query is left out: people put secrets into queries.
                log(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round(1e3 * seconds, 1),
                    client=(scope.get("client") or ("unknown",))[0],
                )
                context.current.reset(token)


class BodyLimit:
    """Refuses a body over `most` bytes of its request's scope: by its declared length before reading, and while reading
    where none is."""

    def __init__(self, app: ASGIApp, most: Callable[[Scope], int]) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.most(scope)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > most:
            await _refusal(most).response()(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise _refusal(most)
            return message

        await self.app(scope, counted, send)


def _refusal(most: int) -> Problem:
    return Problem(TOO_LARGE, f"at most {most:,} bytes are read; send a smaller file")
