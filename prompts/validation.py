"""What is wrong with a value, in plain words. pydantic's own messages speak of inputs and parsing."""

from collections.abc import Mapping, Sequence
from typing import Any

from prompts.text import truncate

_TYPES = {
    "bool": "true or false",
    "dict": "an object with keys",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "string": "text",
    "tuple": "a list",
}
_BOUNDS = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
_BOUNDS["less_than_equal"] = "at most"


def describe_error(error: Mapping[str, Any]) -> str:
    """Returns what is wrong, such as "must be at most 1000, not 5000", for one of `ValidationError.errors()`."""
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    if (bound := _BOUNDS.get(kind)) is not None:
        return f"must be {bound} {_show(next(iter(context.values())))}, not {_show(value)}"
    match kind:
        case "value_error":
            return str(error["msg"]).removeprefix("Value error, ")
        case "missing":
            return "is missing"
        case "finite_number":
            return f"must be a finite number, not {_show(value)}"
        case "int_parsing_size":
            return "has too many digits"
        case "literal_error" | "enum":
            return f"must be {context['expected']}, not {_show(value)}"
        case "string_too_long":
            return f"has {len(str(value)):,} characters; the limit is {context['max_length']:,}"
        case "string_too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "string_pattern_mismatch":
            return f"must match the pattern {context['pattern']}, not {_show(value)}"
        case "union_tag_invalid":
            tags = context["expected_tags"].replace("'", "").split(", ")
            return f"{_unquote(context)} must be {_join(tags)}, not {_show(context['tag'])}"
        case "union_tag_not_found":
            if isinstance(value, Mapping):
                return f"{_unquote(context)} is missing"
            return f"must be an object with a {_unquote(context)}, not {_show(value)}"
        case "model_type" | "model_attributes_type" | "dict_attributes_type":
            return f"must be an object with keys, not {_show(value)}"
        case "too_long":
            return f"has {context['actual_length'] or 'more'} entries; the limit is {context['max_length']:,}"
        case "too_short":
            return f"has {context['actual_length']} entries; it needs at least {context['min_length']}"
    if (expected := _TYPES.get(kind.partition("_")[0])) and kind.partition("_")[2] in ("type", "parsing", "from_float"):
        return f"must be {expected}, not {_show(value)}"
    return str(error["msg"])


def _unquote(context: Mapping[str, Any]) -> str:
    """Returns the name of the key that selects the kind of an object."""
    return str(context["discriminator"]).strip("'")


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _show(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if not isinstance(value, str | int | float | None):
        return "an object" if isinstance(value, Mapping) else "a list"
    try:
        return truncate(repr(value), 60)
    except ValueError:  # an integer of thousands of digits
        return "a number with too many digits"
