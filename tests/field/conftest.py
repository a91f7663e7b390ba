"""Situations from the field: `make field` runs them and prints a table.

A test names its situation: `@pytest.mark.situation("R1", "images/<split>/ beside annotations/ as CVAT writes it")`.
"""

from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.table import Table

_PROPERTY = "situation"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--field-table", action="store_true", help="print a table of the situations from the field")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (mark := item.get_closest_marker("situation")) is not None:
            identifier, description = mark.args
            case = f" [{item.callspec.id}]" if hasattr(item, "callspec") else ""
            item.user_properties.append((_PROPERTY, (identifier, f"{description}{case}")))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--field-table", default=False):
        return
    table = Table("", "Situation", "Result")
    for identifier, description, outcome in sorted(_iter_results(terminalreporter)):
        table.add_row(identifier, description, outcome)
    Console(width=140).print(table)


def _iter_results(reporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, str]]:
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in reporter.stats.get(outcome, ()):
            if outcome != "passed" or report.when == "call":
                for name, value in report.user_properties:
                    if name == _PROPERTY:
                        yield (*value, outcome)
