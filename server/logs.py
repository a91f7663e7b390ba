"""Logging: JSON lines or console output, for florist, uvicorn and other libraries, with the ID of the request."""

import logging
import sys

import structlog
from asgi_correlation_id import correlation_id

# They log every byte or repeat the request log.
_QUIET_LOGGERS = (
    "uvicorn.access", "uvicorn.error", "httpx", "httpcore", "PIL", "sse_starlette", "multipart",
)  # fmt: skip


def configure_logging(log_format: str = "auto", level: str = "info") -> None:
    """Sends all logs to stderr. `log_format`: auto, json or console; auto is console on a terminal."""
    is_console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    # Plain tracebacks: those of structlog show local variables, and with them images of clients.
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    structlog.configure(
        processors=[*_PROCESSORS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_PROCESSORS,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("asgi_correlation_id").setLevel(logging.ERROR)  # warns about every malformed request ID


def _add_request_id(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if request_id := correlation_id.get():
        event["request_id"] = request_id
    return event


_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    _add_request_id,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]
