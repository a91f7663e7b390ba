"""The differences between two recipes, for people."""

import json
from typing import Any

from server.jobs.recipes.recipe import Recipe


def describe_differences(old: Recipe, new: Recipe) -> list[str]:
    """Returns the differences, one a line, such as `step objects: filter.min_score was 0.3, is 0.5`. The list is empty
    if the hashes are equal."""
    before, after = old.normalize(), new.normalize()
    steps_before, steps_after = ({step["id"]: step for step in sides.pop("steps")} for sides in (before, after))
    lines = _compare("", before, after)
    for id in steps_before | steps_after:
        if id not in steps_after:
            lines.append(f"step {id} was removed")
        elif id not in steps_before:
            lines.append(f"step {id} was added")
        else:
            lines += _compare(f"step {id}: ", steps_before[id], steps_after[id])
    common = [id for id in steps_before if id in steps_after]
    if common != (order := [id for id in steps_after if id in steps_before]):
        lines.append(f"the order of the steps was {', '.join(common)}; is {', '.join(order)}")
    return lines


def _compare(prefix: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = _flatten(before), _flatten(after)
    return [
        f"{prefix}{key} was {_format(old, key)}, is {_format(new, key)}"
        for key in old | new
        if old.get(key) != new.get(key)
    ]


def _format(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not set"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
