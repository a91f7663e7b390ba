"""HTML pages in one file: templates with a shared style sheet, and files that are written completely or not at all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# Characters that HTML or UTF-8 cannot represent; file names on Linux can contain them.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def create_environment(package: str, folder: str) -> Environment:
    """Returns an environment with the templates in `folder` of `package`, and the style sheet `page.css`.

    Values are escaped; characters that HTML cannot represent are replaced.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, folder), PackageLoader("labels", "page")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {"count": "{:,}".format, "duration": _format_duration, "flat": chain.from_iterable}
    return environment


@contextmanager
def replace_when_complete(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` at the end. After an error `path` is unchanged.

    The name is always the same, so that the next call overwrites what a killed process has left.
    """
    part = path.with_name(f".{path.name[:100]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_unshowable(text: str) -> str:
    """Returns the text with a replacement character for each character that HTML cannot represent."""
    return _UNSHOWABLE.sub("\ufffd", text)


def _finalize(value: Any) -> Any:
    return replace_unshowable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{n} {unit}" for n, unit in parts if n][:2]
    return " ".join(shown) or f"{seconds:.1f} s"
