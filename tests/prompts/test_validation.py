"""Errors of pydantic in plain words."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from prompts.annotations import Annotation, Text
from prompts.validation import describe_error


class Sample(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    count: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0, lt=1)
    flag: bool = True
    text: str = Field("x", min_length=1, max_length=5)
    kind: Literal["a", "b"] = "a"
    items: list[Annotated[int, Field(ge=0)]] = Field([1], min_length=1, max_length=2)
    table: dict[str, int] = {}
    shape: Annotation = Text(label="x")
    name: str = Field("x", pattern="^[a-z]+$")

    @field_validator("table")
    @classmethod
    def _check(cls, table: dict[str, int]) -> dict[str, int]:
        if len(table) > 1:
            raise ValueError("too large a table; use a smaller one")
        return table


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "must be at least 1, not 0"),
        ({"count": 10}, "must be at most 9, not 10"),
        ({"count": 1.5}, "must be a whole number, not 1.5"),
        ({"count": "many"}, "must be a whole number, not 'many'"),
        ({"count": [1] * 9}, "must be a whole number, not a list"),
        ({"count": {"a": 1}}, "must be a whole number, not an object"),
        ({"count": None}, "must be a whole number, not None"),
        ({"count": "9" * 5000}, "has too many digits"),
        ({"count": float("inf")}, "must be a finite number, not inf"),
        ({"share": 0}, "must be more than 0, not 0"),
        ({"share": 1.0}, "must be less than 1, not 1"),
        ({"share": float("nan")}, "must be a finite number, not nan"),
        ({"share": "half"}, "must be a number, not 'half'"),
        ({"flag": "perhaps"}, "must be true or false, not 'perhaps'"),
        ({"text": 3}, "must be text, not 3"),
        ({"text": ""}, "must not be empty"),
        ({"text": "abcdef"}, "has 6 characters; the limit is 5"),
        ({"kind": "c"}, "must be 'a' or 'b', not 'c'"),
        ({"items": 3}, "must be a list, not 3"),
        ({"items": []}, "has 0 entries; it needs at least 1"),
        ({"items": [1, 2, 3]}, "has 3 entries; the limit is 2"),
        ({"table": 3}, "must be an object with keys, not 3"),
        ({"shape": {"kind": "circle"}}, "kind must be box, quad, polygon or text, not 'circle'"),
        ({"shape": {"label": "cat"}}, "kind is missing"),
        ({"shape": 3}, "must be an object with keys, not 3"),
        ({"name": "A b"}, "must match the pattern ^[a-z]+$, not 'A b'"),
        ({"table": {"a": 1, "b": 2}}, "too large a table; use a smaller one"),
        ({"count": "x" * 100}, "must be a whole number, not '" + "x" * 58 + "…"),
    ],
)
def test_an_error_says_what_the_value_must_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate(values)
    assert [describe_error(error) for error in caught.value.errors()] == [message]
