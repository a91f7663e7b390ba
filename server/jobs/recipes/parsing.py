"""YAML or JSON → a recipe, or all that is wrong with it, each with its line."""

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from server.jobs.recipes.checks import Path as Place
from server.jobs.recipes.checks import problems
from server.jobs.recipes.recipe import Champion, Filter, Recipe, Step, Tile

_LONGEST, _DEEPEST = 1 << 20, 100  # letters; brackets
_READY = resources.files(__package__) / "ready"
_MODELS: dict[str, type[BaseModel]] = {"steps": Step, "tile": Tile, "filter": Filter, "champions": Champion}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong. `line` and `column` count from 1; None where nobody wrote lines."""

    message: str
    line: int | None = None
    column: int | None = None


class RecipeError(ValueError):
    """A recipe that cannot be used: a line `source:line:column: what to do` for each of its `problems`."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source, self.problems = source, problems
        super().__init__(
            "\n".join(
                ":".join((source, *(str(n) for n in (each.line, each.column) if n is not None))) + f": {each.message}"
                for each in problems
            )
        )


def ready() -> list[str]:
    """The names of the recipes that come with florist."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _READY.iterdir() if entry.name.endswith(".yaml"))


def load(where: str | Path) -> Recipe:
    """A ready recipe by its name, or one of a YAML or JSON file. Raises RecipeError."""
    if str(where) in ready():
        return read((_READY / f"{where}.yaml").read_text(encoding="utf-8"), str(where))
    try:
        text = Path(where).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(str(where), [Problem("it is no text in UTF-8; save it so")]) from error
    except FileNotFoundError as error:
        near = difflib.get_close_matches(str(where), ready(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"ready recipes are {', '.join(ready())}"
        raise RecipeError(str(where), [Problem(f"there is no such file, and no ready recipe; {hint}")]) from error
    except (OSError, ValueError) as error:
        raise RecipeError(
            str(where), [Problem(f"it cannot be read: {getattr(error, 'strerror', 0) or error}")]
        ) from error
    return read(text, str(where))


def read(text: str, source: str = "recipe") -> Recipe:
    """A recipe of YAML or JSON; `source` is what errors call it. Raises RecipeError."""
    if len(text) > _LONGEST:
        raise RecipeError(source, [Problem(f"it has {len(text)} letters; a recipe has {_LONGEST} at most")])
    if _depth(text) > _DEEPEST:
        raise RecipeError(source, [Problem("it is nested too deep; a recipe needs five levels")])
    marks: dict[Place, tuple[int, int]] = {}
    keys: dict[Place, tuple[int, int]] = {}
    try:
        node = YAML(typ="safe", pure=True).compose(text)
        if node is None:
            raise RecipeError(source, [Problem("it is empty; a recipe has a name and steps", 1, 1)])
        data = _Plain(source, marks, keys).of(node, ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = (mark.line + 1, mark.column + 1) if mark else (None, None)
        tab = "; indent with spaces" if "\\t" in str(error.problem) else ""
        raise RecipeError(source, [Problem(f"this is no YAML: {error.problem or error.context}{tab}", *at)]) from error
    except YAMLError as error:
        raise RecipeError(source, [Problem(f"this is no YAML: {str(error).splitlines()[0]}")]) from error
    except RecursionError as error:
        raise RecipeError(source, [Problem("it is nested too deep; a recipe needs five levels")]) from error
    return _checked(data, source, marks, keys)


def _depth(text: str) -> int:
    """How many brackets are open at once at most; the parser takes seconds over some thousand."""
    steps = ({"[": 1, "{": 1, "]": -1, "}": -1}.get(letter, 0) for letter in text)
    return max(itertools.accumulate(steps, initial=0))


def parse(data: Any, source: str = "recipe") -> Recipe:
    """A recipe of plain data, as JSON in a request has it. Raises RecipeError, without lines."""
    return _checked(data, source, {}, {})


class _Plain:
    """Nodes → plain data, noting where each value and each key stands."""

    def __init__(self, source: str, marks: dict[Place, tuple[int, int]], keys: dict[Place, tuple[int, int]]) -> None:
        self._source, self._marks, self._keys = source, marks, keys
        self._scalars = YAML(typ="safe", pure=True).constructor
        self._seen: set[int] = set()

    def of(self, node: Node, place: Place) -> Any:
        self._marks[place] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if id(node) in self._seen:
            # Aliases of aliases grow without bound; nothing in a recipe is long enough to need one.
            self._fail(node, "this is used again by an alias (*name), which is not taken here; write it out")
        self._seen.add(id(node))
        if isinstance(node, SequenceNode):
            return [self.of(item, (*place, index)) for index, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._mapping(node, place)
        try:
            return self._scalars.construct_object(node)
        except (YAMLError, ValueError):
            return self._fail(
                node, f"{node.value!r} cannot be read as {node.tag}; take the tag out, or put it in quotes"
            )

    def _mapping(self, node: MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._fail(key, "a key is one word or phrase; `? ` and brackets make no key here")
            if key.value in values:
                self._fail(key, f"the key {key.value!r} is there twice; take one out")
            self._keys[(*place, key.value)] = (key.start_mark.line + 1, key.start_mark.column + 1)
            values[key.value] = self.of(value, (*place, key.value))
        return values

    def _fail(self, node: Node, message: str) -> None:
        raise RecipeError(self._source, [Problem(message, node.start_mark.line + 1, node.start_mark.column + 1)])


def _checked(
    data: Any, source: str, marks: Mapping[Place, tuple[int, int]], keys: Mapping[Place, tuple[int, int]]
) -> Recipe:
    def problem(place: Place, message: str, key: bool = False) -> Problem:
        if key and place in keys:
            return Problem(message, *keys[place])
        while place and place not in marks:
            place = place[:-1]
        return Problem(message, *marks.get(place, ()))

    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        found = [problem(*_worded(entry)) for entry in error.errors(include_url=False, include_context=False)]
        raise RecipeError(source, _sorted(found)) from error
    if wrong := [
        problem(place, message, place[0] == "ontology" and len(place) == 2) for place, message in problems(recipe)
    ]:
        raise RecipeError(source, _sorted(wrong))
    return recipe


def _sorted(found: list[Problem]) -> list[Problem]:
    return sorted(found, key=lambda each: (each.line or 0, each.column or 0))


def _worded(error: Any) -> tuple[Place, str, bool]:
    """What pydantic found: where, in words that say what to do, and whether the key is at fault."""
    place: Place = error["loc"]
    name = ".".join(str(part) for part in place if not isinstance(part, int)) or "a recipe"
    name = name.removeprefix("steps.")
    match error["type"]:
        case "missing":
            return place[:-1], f"`{place[-1]}` is missing; {_purpose(place)}", False
        case "extra_forbidden":
            return place, f"there is no key {place[-1]!r} here; {_near(place)}", True
        case "dict_type":
            return place, f"{name} should be labels, each with its phrases, as in `cat: [cat, kitten]`", False
        case "list_type":
            return place, f"{name} should be a list, not {_short(error['input'])}", False
        case "model_type" | "model_attributes_type":
            return place, f"{name} should have keys: {', '.join(_model(place).model_fields)}", False
        case "string_pattern_mismatch":
            return place, f"{name} is letters, digits, - and _, a letter first; not {error['input']!r}", False
        case "string_type":
            return place, f"{name} should be text, not {_short(error['input'])}; put it in quotes", False
        case "value_error":
            return place, error["msg"].removeprefix("Value error, "), False
    message = error["msg"].removeprefix("Input ").removeprefix("should be a valid ").removeprefix("should ")
    return place, f"{name} should be {message.removeprefix('be ')}, not {_short(error['input'])}", False


def _model(place: Place) -> type[BaseModel]:
    """The model that a place is in or of."""
    return next((_MODELS[str(part)] for part in reversed(place) if part in _MODELS), Recipe)


def _near(place: Place) -> str:
    fields = list(_model(place[:-1]).model_fields)
    near = difflib.get_close_matches(str(place[-1]), fields, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"there are {', '.join(fields)}"


def _purpose(place: Place) -> str:
    told = {"id": "say how later steps name it", "task": "say what to ask, such as <OD>", "size": "say how many pixels"}
    return told.get(str(place[-1]), "write it")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
