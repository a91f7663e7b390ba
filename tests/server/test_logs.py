"""The log: what is repeated is counted."""

import logging

import pytest
import structlog

from server.logs import RepeatFilter


@pytest.fixture
def records() -> list[str]:
    return []


def create_logger(records: list[str], period: float, name: str) -> logging.Logger:
    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.msg["event"] if isinstance(record.msg, dict) else record.getMessage())

    handler = Collector()
    handler.addFilter(RepeatFilter(period))
    for each in (logging.getLogger(name), logging.getLogger("server.logs")):
        each.handlers[:], each.propagate = [handler], False
        each.setLevel(logging.DEBUG)
    return logging.getLogger(name)


def test_repeated_warnings_are_logged_once_and_counted(records: list[str]) -> None:
    logger = create_logger(records, 1000, "tests.repeated")
    for _ in range(1000):
        logger.warning("the disk is %s", "full")
        logger.info("a request")
    assert records.count("the disk is full") == 1
    assert records.count("a request") == 1000


def test_the_number_of_repetitions_is_logged_after_the_period(records: list[str]) -> None:
    logger = create_logger(records, 0, "tests.counted")
    logger.warning("full")
    assert records == ["full"]
    create = RepeatFilter(1000)
    record = logging.LogRecord("a", logging.WARNING, "", 1, "full", (), None)
    assert [create.filter(record) for _ in range(5)] == [True, False, False, False, False]
    create._ends = 0  # the period is over
    assert create.filter(record)
    assert records == ["full", "repeated 4 times: full (a)"]


def test_the_same_warning_with_other_values_is_limited_too(records: list[str]) -> None:
    logger = create_logger(records, 1000, "tests.alike")
    for number in range(1000):
        logger.warning("image %d is broken", number)
    assert records[0] == "image 0 is broken"
    assert 10 < len(records) < 50
    logger.warning("another warning")
    assert records[-1] == "another warning"


def test_errors_are_told_apart_by_where_they_come_from(records: list[str]) -> None:
    logger = create_logger(records, 1000, "tests.errors")
    structlog.configure(
        [structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    try:
        events = structlog.get_logger(logger.name)
        for number in range(100):
            try:
                if number % 2:
                    raise ValueError(number)
                raise ValueError(number)
            except ValueError:
                events.exception("unexpected error", path=f"/{number}")
    finally:
        structlog.configure([structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    assert records == ["unexpected error"] * 2
