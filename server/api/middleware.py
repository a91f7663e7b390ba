"""Middleware: request IDs, the request log, CORS, and the limit of the body's size."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable

import structlog
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.adapters.upload import get_upload_limit
from server.api.error_handlers import INTERNAL_DETAIL
from server.api.jobs.schemas import get_job_request_limit
from server.api.metrics.metrics import Metrics
from server.api.problems import BUSY, INTERNAL_ERROR, TOO_LARGE, ProblemError, create_retry_problem
from server.api.uploads.body import get_image_upload_limit
from server.settings import Settings

REQUEST_ID_HEADER = "X-Request-ID"
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # safe in a log line and in a header
_MAX_BODIES = 16  # of the largest size
_RETRY_SECONDS = 5
_MAX_LOGGED_PATH = 200  # characters; the longest paths of the API are shorter
_SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_POLLED_PATHS = ("/healthz", "/readyz", "/metrics")
logger = structlog.get_logger("florist.http")


def add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Adds all middleware. The last one added is the outermost: every response has a request ID and is logged."""

    def get_limit(scope: Scope) -> int:
        upload_limit = get_upload_limit(scope, settings) or get_image_upload_limit(scope, settings)
        return upload_limit or get_job_request_limit(scope) or settings.max_body_bytes

    app.add_middleware(BodyLimitMiddleware, get_limit=get_limit)
    app.add_middleware(HeadMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-API-Key", REQUEST_ID_HEADER),
            expose_headers=(REQUEST_ID_HEADER, "Retry-After", "X-Export-Report"),
        )
    app.add_middleware(RequestLogMiddleware, observe=metrics.observe_request)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(
        CorrelationIdMiddleware,
        header_name=REQUEST_ID_HEADER,
        validator=lambda request_id: _SAFE_ID.fullmatch(request_id) is not None,
    )


class RequestLogMiddleware:
    """Logs each request and answers an unexpected exception as a problem.

    `observe` is called with method, route, status and seconds.
    """

    def __init__(self, app: ASGIApp, observe: Callable[[str, str, int, float], None]) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 0, time.perf_counter()

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_record)
        except Exception:
            logger.exception("unexpected error", path=scope["path"][:_MAX_LOGGED_PATH])
            if not status:
                problem = ProblemError(INTERNAL_ERROR, INTERNAL_DETAIL)
                await problem.to_response()(scope, receive, send_and_record)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self.observe(scope["method"], route, status, seconds)
        log = logger.debug if scope["path"] in _POLLED_PATHS and status < 400 else logger.info
        # Without the query string: it may contain secrets.
        log(
            "request",
            method=scope["method"],
            path=scope["path"][:_MAX_LOGGED_PATH],
            status=status,
            ms=round(1e3 * seconds, 1),
            client=(scope.get("client") or ("unknown",))[0],
        )


class SecurityHeadersMiddleware:
    """Adds headers that keep browsers from guessing types, framing pages, and running anything in them.

    A page that needs more sets its own Content-Security-Policy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", [])
                names = {name for name, _ in headers}
                message["headers"] = [*headers, *(header for header in _SECURITY_HEADERS if header[0] not in names)]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class HeadMiddleware:
    """Answers HEAD as GET, without the body, for monitors that poll with it. FastAPI adds no HEAD to its routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        ended = asyncio.Event()

        async def receive_until_headers() -> Message:
            await ended.wait()  # ends streams
            return {"type": "http.disconnect"}

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif not ended.is_set():
                ended.set()
                await send({"type": "http.response.body", "body": b""})

        inner = {**scope, "method": "GET"}
        try:
            await self.app(inner, receive_until_headers, send_headers)
        finally:
            scope["route"] = inner.get("route")  # for the request log


class BodyLimitMiddleware:
    """Refuses a body with more bytes than `get_limit` returns for the request's scope.

    A declared length is checked before the body is read. A body without one is refused while it is read. The bodies of
    all requests that are answered at a time may have _MAX_BODIES times as many bytes; more are answered with 503.
    """

    def __init__(self, app: ASGIApp, get_limit: Callable[[Scope], int]) -> None:
        self.app, self.get_limit = app, get_limit
        self._held: Counter[int] = Counter()  # bytes by limit: uploads are on disk, other bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.get_limit(scope)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            await _create_size_problem(limit).to_response()(scope, receive, send)
            return
        received = 0

        async def receive_and_count() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._held[limit] += size
            if received > limit:
                raise _create_size_problem(limit)
            if self._held[limit] > _MAX_BODIES * limit:
                detail = "the bodies of other requests fill the memory for them; retry soon"
                raise create_retry_problem(BUSY, detail, _RETRY_SECONDS)
            return message

        try:
            await self.app(scope, receive_and_count, send)
        finally:
            self._held[limit] -= received


def _create_size_problem(limit: int) -> ProblemError:
    return ProblemError(TOO_LARGE, f"the limit is {limit:,} bytes; send a smaller file")
