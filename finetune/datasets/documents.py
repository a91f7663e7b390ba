"""JSON and lines of JSON, as strangers write them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.datasets.example import DatasetError


def load(path: Path) -> Any:
    """A JSON file. Raises DatasetError where it cannot be read, with the line."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}:{error.lineno} is no JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise DatasetError(f"{path} is JSON nested too deep to be a dataset") from error
    except ValueError as error:  # a number of more than 4300 digits
        raise DatasetError(f"{path} is JSON that cannot be read: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error


def lines(path: Path) -> Iterator[tuple[int, Any, str]]:
    """Number from 1, value and what is wrong (else empty) of each line of JSON lines that is not blank. Raises
    DatasetError where the file cannot be read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line.decode("utf-8-sig")), ""
                except json.JSONDecodeError as error:
                    yield number, None, f"it is no JSON: {error.msg} at column {error.colno}"
                except UnicodeDecodeError as error:
                    yield number, None, f"it is not text in UTF-8: {error.reason} at byte {error.start}"
                except (RecursionError, ValueError) as error:
                    yield number, None, f"it is JSON that cannot be read: {str(error)[:100]}"
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
