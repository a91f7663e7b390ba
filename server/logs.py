"""Logs as JSON lines or for a terminal: ours, uvicorn's and the libraries' alike, each with the request's id."""

import logging
import sys

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure(log_format: str = "auto", level: str = "info") -> None:
    """Sends all logging to stderr. `log_format`: auto, json or console; auto is console on a terminal."""
    # Plain traces: structlog's own show local variables, and with them strangers' pictures.
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    ends: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ends],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # Each request has its own line from the middleware; these speak of every byte.
    for name in ("uvicorn.access", "uvicorn.error", "httpx", "httpcore", "PIL", "sse_starlette", "multipart"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
