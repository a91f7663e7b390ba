"""YAML (or JSON) with the line and column of every key and value.

Reads YAML 1.2 with libyaml, PyYAML's parser in C, event by event. Rejects what a recipe does not need and what could
exhaust memory or time: long texts, many values, deep nesting, aliases, tags and duplicate keys.
"""

import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.nodes import ScalarNode

from prompts.text import truncate
from server.jobs.recipes.problems import RecipeError, RecipeProblem
from server.jobs.recipes.validation import KeyPath

# Enough for a recipe with the most steps, and an ontology with the most and longest labels and phrases.
MAX_LENGTH, MAX_VALUES, MAX_DEPTH = 256 * 1024, 20_000, 20  # characters; keys and values; levels
# In YAML 1.2, a `?` inside a word is text, as in `{text: how many?}`. Within brackets, PyYAML reads it as an indicator.
# So the parser sees a private character instead, and values get the `?` back.
_QUESTION_MARK = re.compile(r"(?<=[^\s\[\]{},])\?")
_PRIVATE = "\U0010fffd"
# JSON escapes a character above U+FFFF as two halves, and YAML as one character.
_HALVES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data, and the line and column of each value and each key."""

    data: Any
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)


def parse_yaml(text: str, source: str) -> YamlDocument:
    """Parses a text; `source` is its name in errors. Raises RecipeError."""
    if len(text) > MAX_LENGTH:
        raise RecipeError(source, [RecipeProblem(f"it has {len(text):,} characters; the limit is {MAX_LENGTH:,}")])
    try:
        return _DocumentBuilder(source, _QUESTION_MARK.sub(_PRIVATE, _HALVES.sub(_join_halves, text))).build()
    except yaml.MarkedYAMLError as error:
        raise RecipeError(source, [_describe_error(error, text)]) from error
    except yaml.YAMLError as error:
        message = f"this is not valid YAML: {str(error).splitlines()[0]}"
        raise RecipeError(source, [RecipeProblem(message)]) from error
    except UnicodeEncodeError as error:
        message = "it contains half a character (a lone surrogate); save it as UTF-8"
        raise RecipeError(source, [RecipeProblem(message)]) from error


def _describe_error(error: yaml.MarkedYAMLError, text: str) -> RecipeProblem:
    message = f"this is not valid YAML: {error.problem or error.context}".replace(_PRIVATE, "?")
    if (mark := error.problem_mark or error.context_mark) is None:
        return RecipeProblem(message)
    lines = text.splitlines() or [""]
    if mark.line >= len(lines):  # the text ends too early
        return RecipeProblem(message, len(lines), len(lines[-1]) + 1)
    is_tab = lines[mark.line][mark.column : mark.column + 1] == "\t"
    return RecipeProblem(message + ("; indent with spaces" if is_tab else ""), mark.line + 1, mark.column + 1)


def _join_halves(match: re.Match[str]) -> str:
    high, low = int(match[2], 16), int(match[3], 16)
    return match[1] + chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


class _Yaml12Loader(yaml.CSafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2: `no`, `on` and `12:30` are strings."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012, as in PyYAML


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _DocumentBuilder:
    """Builds plain data from the events of the parser, and records positions."""

    def __init__(self, source: str, text: str) -> None:
        self._source, self._loader = source, _Yaml12Loader(text)
        self._document = YamlDocument(None)
        self._count = 0

    def build(self) -> YamlDocument:
        self._loader.get_event()  # the start of the stream
        if isinstance(self._loader.get_event(), StreamEndEvent):
            raise RecipeError(self._source, [RecipeProblem("it is empty; a recipe has a name and steps", 1, 1)])
        data = self._build(self._loader.get_event(), ())
        self._loader.get_event()  # the end of the document
        if not isinstance(event := self._loader.get_event(), StreamEndEvent):
            self._fail(event, "this is not valid YAML: expected one document, but found another document")
        return YamlDocument(data, self._document.values, self._document.keys)

    def _build(self, event: Event, path: KeyPath) -> Any:
        self._document.values[path] = self._locate(event)
        self._check_limits(event, path)
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := self._loader.get_event(), SequenceEndEvent):
                items.append(self._build(item, (*path, len(items))))
            return items
        if isinstance(event, MappingStartEvent):
            return self._build_mapping(path)
        return self._build_scalar(event)

    def _check_limits(self, event: Event, path: KeyPath) -> None:
        self._count += 1
        if self._count > MAX_VALUES:
            self._fail(event, f"it has more than {MAX_VALUES:,} values; shorten it")
        if len(path) > MAX_DEPTH:
            self._fail(event, f"it is nested more than {MAX_DEPTH} levels deep; a recipe needs five")
        if isinstance(event, AliasEvent):
            # Aliases of aliases grow exponentially, and no recipe is long enough to need one.
            self._fail(event, f"aliases such as *{event.anchor} are not supported; write the value again")

    def _build_mapping(self, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._loader.get_event(), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                self._fail(event, "a key must be a word or phrase, not `? ` or brackets")
            key = event.value.replace(_PRIVATE, "?")
            if key in values:
                self._fail(event, f"the key {truncate(key)!r} appears twice; remove one")
            self._document.keys[(*path, key)] = self._locate(event)
            values[key] = self._build(self._loader.get_event(), (*path, key))
        return values

    def _build_scalar(self, event: Event) -> Any:
        value = event.value.replace(_PRIVATE, "?")
        tag = event.tag if event.tag not in (None, "!") else self._loader.resolve(ScalarNode, value, event.implicit)
        try:
            if tag == "tag:yaml.org,2002:int":
                return int(value, 0) if value.startswith(("0o", "0x")) else int(value)
            if tag == "tag:yaml.org,2002:float" and not value.lower().endswith(("inf", "nan")):
                return float(value)
            return self._loader.construct_object(ScalarNode(tag, value, event.start_mark, event.end_mark))
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):
            message = (
                f"{truncate(value)!r} cannot be read as {truncate(tag)}; remove the tag, or put the value in quotes"
            )
            return self._fail(event, message)

    def _locate(self, event: Event) -> tuple[int, int]:
        return event.start_mark.line + 1, event.start_mark.column + 1

    def _fail(self, event: Event, message: str) -> NoReturn:
        raise RecipeError(self._source, [RecipeProblem(message, *self._locate(event))])
