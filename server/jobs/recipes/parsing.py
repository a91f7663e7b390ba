"""Reads recipes from YAML and JSON, and reports each problem with its line."""

import difflib
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from prompts.text import truncate
from server.jobs.recipes.problems import RecipeError, RecipeProblem
from server.jobs.recipes.recipe import MAX_STEPS, AnnotationFilter, PinnedChampion, Recipe, RecipeStep, Tiling
from server.jobs.recipes.review_thresholds import ReviewThresholds
from server.jobs.recipes.validation import KeyPath, find_problems, find_reference_problems
from server.jobs.recipes.yaml_document import YamlDocument, parse_yaml

_BUILTIN = resources.files(__package__) / "builtin"
_MAX_PROBLEMS = 20  # reported at a time
_MODELS: dict[str, type[BaseModel]] = {
    "steps": RecipeStep, "tile": Tiling, "filter": AnnotationFilter, "champions": PinnedChampion,
    "review_below": ReviewThresholds,
}  # fmt: skip
_HINTS = {"id": "later steps refer to it", "task": "for example <OD>", "size": "the side of a tile in pixels"}


def list_builtin_recipes() -> list[str]:
    """Returns the names of the built-in recipes."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _BUILTIN.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Returns a built-in recipe by its name, or the recipe of a YAML or JSON file. Raises RecipeError."""
    source = str(name_or_path)
    if source in list_builtin_recipes():
        return parse_recipe((_BUILTIN / f"{source}.yaml").read_text(encoding="utf-8"), source)
    try:
        text = Path(name_or_path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(source, [RecipeProblem("it is not UTF-8 text; save it as UTF-8")]) from error
    except FileNotFoundError as error:
        similar = difflib.get_close_matches(source, list_builtin_recipes(), n=1)
        names = ", ".join(list_builtin_recipes())
        hint = f"did you mean {similar[0]}?" if similar else f"the built-in recipes are {names}"
        message = f"there is no such file, and no built-in recipe with this name; {hint}"
        raise RecipeError(source, [RecipeProblem(message)]) from error
    except (OSError, ValueError) as error:
        message = f"it cannot be read: {getattr(error, 'strerror', 0) or error}"
        raise RecipeError(source, [RecipeProblem(message)]) from error
    return parse_recipe(text, source)


def parse_recipe(text: str, source: str = "recipe") -> Recipe:
    """Parses a recipe in YAML or JSON. `source` is its name in errors. Raises RecipeError."""
    return _validate(parse_yaml(text, source), source)


def validate_recipe(data: Any, source: str = "recipe") -> Recipe:
    """Returns the recipe in plain data, such as the JSON of a request. Raises RecipeError, without lines."""
    return _validate(YamlDocument(data), source)


def _validate(document: YamlDocument, source: str) -> Recipe:
    def locate(path: KeyPath, message: str, is_key: bool = False) -> RecipeProblem:
        if is_key and path in document.keys:
            return RecipeProblem(message, *document.keys[path])
        while path and path not in document.values:
            path = path[:-1]
        return RecipeProblem(message, *document.values.get(path, ()))

    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems = [locate(*_translate(entry)) for entry in errors[:_MAX_PROBLEMS]]
        references = list(islice(find_reference_problems(_sketch(document.data)), _MAX_PROBLEMS))
        problems += [locate(*each) for each in references[: _MAX_PROBLEMS - len(problems)]]
        raise RecipeError(source, _sort(problems, len(errors) + len(references))) from error
    found = list(islice(find_problems(recipe), _MAX_PROBLEMS + 1))
    problems = [
        locate(path, message, path[0] == "ontology" and len(path) == 2) for path, message in found[:_MAX_PROBLEMS]
    ]
    if problems:
        raise RecipeError(source, _sort(problems, len(found)))
    return recipe


def _sketch(data: Any) -> Recipe:
    """Returns what can be checked of the steps and their references in a recipe that has other problems."""
    data = data if isinstance(data, dict) else {}
    raw = data.get("steps")
    steps = []
    for step in raw[:MAX_STEPS] if isinstance(raw, list) else ():
        step = step if isinstance(step, dict) else {}
        texts = {key: value for key in ("id", "text", "for_each") if isinstance(value := step.get(key), str) and value}
        fields: dict[str, Any] = {"id": "", "task": "", **texts}
        steps.append(RecipeStep.model_construct(**fields))
    return Recipe.model_construct(name="", steps=steps, ontology=data.get("ontology"))


def _sort(problems: list[RecipeProblem], found: int) -> list[RecipeProblem]:
    """Returns the problems in the order of the text, and says if more were found."""
    ordered = sorted(problems, key=lambda each: (each.line or 0, each.column or 0))
    more = RecipeProblem(f"there are more problems; these are the first {_MAX_PROBLEMS}")
    return [*ordered, more] if found > len(problems) else ordered


def _translate(error: Any) -> tuple[KeyPath, str, bool]:
    """Returns the path of a pydantic error, a message that says what to do, and whether it is about the key."""
    path: KeyPath = error["loc"]
    name = ".".join(str(part) for part in path if not isinstance(part, int)) or "a recipe"
    name = name.removeprefix("steps.")
    match error["type"]:
        case "missing":
            hint = _HINTS.get(str(path[-1]))
            return path[:-1], f"`{path[-1]}` is missing" + (f": {hint}" if hint else ""), False
        case "extra_forbidden":
            return path, f"there is no key {truncate(str(path[-1]))!r} here; {_suggest_key(path)}", True
        case "dict_type":
            return path, f"{name} must have a list of phrases for each label, as in `cat: [cat, kitten]`", False
        case "list_type":
            return path, f"{name} must be a list, not {truncate(repr(error['input']))}", False
        case "model_type" | "model_attributes_type":
            return path, f"{name} must have keys: {', '.join(_find_model(path).model_fields)}", False
        case "string_pattern_mismatch":
            value = truncate(repr(error["input"]))
            return path, f"{name} must be letters, digits, - and _, and start with a letter; not {value}", False
        case "string_type":
            return path, f"{name} must be text, not {truncate(repr(error['input']))}; put it in quotes", False
        case "too_long" if isinstance(error["input"], list | dict):
            return (
                path,
                f"{name} has {len(error['input']):,} entries; the limit is {error['ctx']['max_length']:,}",
                False,
            )
        case "string_too_long":
            size, limit = len(error["input"]), error["ctx"]["max_length"]
            return path, f"{name} has {size:,} characters; the limit is {limit:,}", False
        case "value_error":
            return path, error["msg"].removeprefix("Value error, "), False
    message = error["msg"].removeprefix("Input ").removeprefix("should be a valid ").removeprefix("should ")
    return path, f"{name} must be {message.removeprefix('be ')}, not {truncate(repr(error['input']))}", False


def _find_model(path: KeyPath) -> type[BaseModel]:
    """Returns the pydantic model of a path, or of the closest part of the recipe that contains it."""
    return next((_MODELS[str(part)] for part in reversed(path) if part in _MODELS), Recipe)


def _suggest_key(path: KeyPath) -> str:
    fields = list(_find_model(path[:-1]).model_fields)
    similar = difflib.get_close_matches(truncate(str(path[-1])), fields, n=1, cutoff=0.5)
    return f"did you mean `{similar[0]}`?" if similar else f"the keys are {', '.join(fields)}"
