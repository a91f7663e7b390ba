"""The error for a recipe that cannot be used, with its problems."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecipeProblem:
    """One problem of a recipe. `line` and `column` count from 1; they are None if the recipe is not from a file."""

    message: str
    line: int | None = None
    column: int | None = None


class RecipeError(ValueError):
    """A recipe cannot be used. The message has a line `source:line:column: what to do` for each problem."""

    def __init__(self, source: str, problems: list[RecipeProblem]) -> None:
        self.source, self.problems = source, problems
        super().__init__(
            "\n".join(
                ":".join((source, *(str(n) for n in (each.line, each.column) if n is not None))) + f": {each.message}"
                for each in problems
            )
        )
