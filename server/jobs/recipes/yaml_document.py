"""YAML (or JSON) with the line and column of every key and value.

Reads YAML 1.2 with PyYAML's safe parser. Rejects what a recipe does not need and what could exhaust memory: aliases,
tags, duplicate keys, deep nesting.
"""

import itertools
import re
from dataclasses import dataclass, field
from typing import Any, cast

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from server.jobs.recipes.problems import RecipeError, RecipeProblem
from server.jobs.recipes.validation import KeyPath

_MAX_LENGTH, _MAX_DEPTH = 1 << 20, 100  # characters; nested brackets
# In YAML 1.2, a `?` inside a word is text, as in `{text: how many?}`. Within brackets, PyYAML reads it as an indicator.
# So the parser sees a private character instead, and values get the `?` back.
_QUESTION_MARK = re.compile(r"(?<=[^\s\[\]{},])\?")
_PRIVATE = "\U0010fffd"
_TOO_DEEP = "it is nested too deeply; a recipe needs five levels"


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data, and the line and column of each value and each key."""

    data: Any
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)


def parse_yaml(text: str, source: str) -> YamlDocument:
    """Parses a text; `source` is its name in errors. Raises RecipeError."""
    if len(text) > _MAX_LENGTH:
        raise RecipeError(source, [RecipeProblem(f"it has {len(text)} characters; the limit is {_MAX_LENGTH}")])
    if _compute_depth(text) > _MAX_DEPTH:
        raise RecipeError(source, [RecipeProblem(_TOO_DEEP)])
    try:
        loader = _Yaml12Loader(_QUESTION_MARK.sub(_PRIVATE, text))
        node = loader.get_single_node()
        if node is None:
            raise RecipeError(source, [RecipeProblem("it is empty; a recipe has a name and steps", 1, 1)])
        return _DocumentBuilder(source, loader).build(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (None, None)
        hint = "; indent with spaces" if "\\t" in str(error.problem) else ""
        message = f"this is not valid YAML: {error.problem or error.context}{hint}".replace(_PRIVATE, "?")
        raise RecipeError(source, [RecipeProblem(message, *position)]) from error
    except yaml.YAMLError as error:
        message = f"this is not valid YAML: {str(error).splitlines()[0]}"
        raise RecipeError(source, [RecipeProblem(message)]) from error
    except RecursionError as error:
        raise RecipeError(source, [RecipeProblem(_TOO_DEEP)]) from error


def _compute_depth(text: str) -> int:
    """Returns the maximum number of open brackets. The parser takes seconds for a few thousand."""
    steps = ({"[": 1, "{": 1, "]": -1, "}": -1}.get(letter, 0) for letter in text)
    return max(itertools.accumulate(steps, initial=0))


class _Yaml12Loader(yaml.SafeLoader):
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
    """Builds plain data from YAML nodes, and records positions."""

    def __init__(self, source: str, loader: _Yaml12Loader) -> None:
        self._source, self._loader = source, loader
        self._document = YamlDocument(None)
        self._seen: set[int] = set()

    def build(self, node: Node) -> YamlDocument:
        data = self._build(node, ())
        return YamlDocument(data, self._document.values, self._document.keys)

    def _build(self, node: Node, path: KeyPath) -> Any:
        self._document.values[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if id(node) in self._seen:
            # Aliases of aliases grow exponentially, and no recipe is long enough to need one.
            self._fail(node, "an alias (*name) repeats this; aliases are not supported, so write the value again")
        self._seen.add(id(node))
        if isinstance(node, SequenceNode):
            return [self._build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._build_mapping(node, path)
        return self._build_scalar(cast(ScalarNode, node))

    def _build_mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._fail(key, "a key must be a word or phrase, not `? ` or brackets")
            key.value = key.value.replace(_PRIVATE, "?")
            if key.value in values:
                self._fail(key, f"the key {key.value!r} appears twice; remove one")
            self._document.keys[(*path, key.value)] = (key.start_mark.line + 1, key.start_mark.column + 1)
            values[key.value] = self._build(value, (*path, key.value))
        return values

    def _build_scalar(self, node: ScalarNode) -> Any:
        node.value = node.value.replace(_PRIVATE, "?")
        try:
            if node.tag == "tag:yaml.org,2002:int":
                return int(node.value, 0) if node.value.startswith(("0o", "0x")) else int(node.value)
            if node.tag == "tag:yaml.org,2002:float" and not node.value.lower().endswith(("inf", "nan")):
                return float(node.value)
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):
            return self._fail(
                node, f"{node.value!r} cannot be read as {node.tag}; remove the tag, or put the value in quotes"
            )

    def _fail(self, node: Node, message: str) -> None:
        mark = node.start_mark
        raise RecipeError(self._source, [RecipeProblem(message, mark.line + 1, mark.column + 1)])
