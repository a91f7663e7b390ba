"""Logging: JSON lines or console output, for florist, uvicorn and other libraries, with the ID of the request."""

import logging
import sys
import threading
import time
from collections import Counter

import structlog
from asgi_correlation_id import correlation_id

# They log every byte, repeat the request log, or print tables.
_QUIET_LOGGERS = (
    "uvicorn.access", "uvicorn.error", "httpx", "httpcore", "PIL", "sse_starlette", "multipart",
    "faster_coco_eval",
)  # fmt: skip

logger = logging.getLogger(__name__)
# Fields of an event of structlog that differ between equal events.
_OF_ONE_REQUEST = ("request_id", "timestamp", "path", "client", "ms")
_PERIOD = 60.0  # seconds for which repeated warnings are counted
_MAX_ALIKE = 20  # warnings from the same place with other values
_MAX_COUNTED = 1000  # messages that are counted apart


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
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("asgi_correlation_id").setLevel(logging.ERROR)  # warns about every malformed request ID
    # Its information is of interest only when a migration fails.
    logging.getLogger("alembic").setLevel(logging.DEBUG if root.level <= logging.DEBUG else logging.WARNING)


class RepeatFilter(logging.Filter):
    """Logs repeated warnings and errors once, and how often they were repeated, so that nobody can fill the log.

    Errors with a traceback are equal if they have the same type and come from the same line.
    """

    def __init__(self, period: float = _PERIOD) -> None:
        super().__init__()
        self._period, self._ends = period, 0.0
        self._equal: set[tuple[str, ...]] = set()
        self._alike: Counter[tuple[str, ...]] = Counter()
        self._repeated: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.RLock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether the record is logged."""
        if record.name == logger.name:
            return True
        with self._lock:
            repeated = self._end_period() if time.monotonic() > self._ends else []
            logged = record.levelno < logging.WARNING or self._count(record)
        for (name, event, *_), count in repeated:
            logger.warning("repeated %d times: %s (%s)", count, event, name)
        return logged

    def _count(self, record: logging.LogRecord) -> bool:
        """Returns whether the record is new in this period. Otherwise counts it."""
        if isinstance(event := record.msg, dict):  # from structlog
            template = message = str(event.get("event"))
            traceback = event.get("exc_info")
            values = {name: value for name, value in event.items() if name not in _OF_ONE_REQUEST}
        else:
            template, message, traceback, values = str(record.msg), record.getMessage(), record.exc_info, {}
        place = _get_place(traceback)
        alike: tuple[str, ...] = (record.name, template, place)
        equal: tuple[str, ...] = (record.name, message, place, "" if traceback else str(values))
        if equal not in self._equal and self._alike[alike] < _MAX_ALIKE and len(self._equal) < _MAX_COUNTED:
            self._equal.add(equal)
            self._alike[alike] += 1
            return True
        key: tuple[str, ...] = equal if equal in self._equal else alike
        if len(self._repeated) >= _MAX_COUNTED:
            key = ("", "other messages")
        self._repeated[key] += 1
        return False

    def _end_period(self) -> "list[tuple[tuple[str, ...], int]]":
        """Starts the next period. Returns what was repeated in the last one, and how often."""
        repeated = list(self._repeated.items())
        self._equal.clear()
        self._alike.clear()
        self._repeated.clear()
        self._ends = time.monotonic() + self._period
        return repeated


def _get_place(traceback: object) -> str:
    """Returns the type of an exception and the line that raised it. `traceback`: as loggers take `exc_info`."""
    if not traceback:
        return ""
    error = traceback if isinstance(traceback, BaseException) else None
    if error is None:
        error = traceback[1] if isinstance(traceback, tuple) else sys.exception()
    line = error.__traceback__ if error else None
    while line is not None and line.tb_next is not None:
        line = line.tb_next
    return f"{type(error).__name__} at {line.tb_frame.f_code.co_filename}:{line.tb_lineno}" if line else repr(error)


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
