"""The options of `florist serve`, made from the settings, so that the two cannot drift apart."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from server.settings import Settings, option, variable


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives `command(**settings)` one option a field of Settings; None where neither option nor variable is given."""

    def wrapper(**given: Any) -> Any:
        return command(**given)

    wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
    kinds = {name: _kind(name, field) for name, field in Settings.model_fields.items()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in kinds.items()]
    )
    wrapper.__annotations__ = dict(kinds)
    return wrapper


def _kind(name: str, field: FieldInfo) -> Any:
    flag = field.annotation is bool
    # Values stay text until Settings checks them: one place, one wording for what is wrong with them.
    decls = (f"{option(name)}/--no-{option(name)[2:]}",) if flag else (option(name),)
    info = typer.Option(
        *decls,
        envvar=variable(name),
        help=field.description,
        show_default=_shown(field.default),
        metavar=None if flag else _metavar(field),
    )
    return Annotated[bool | None if flag else str | None, info]


def _shown(default: Any) -> str | bool:
    if default in ((), None):
        return False
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else str(default)


def _metavar(field: FieldInfo) -> str:
    if choices := [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]:
        return "|".join(choices)
    return {int: "INTEGER", float: "SECONDS"}.get(field.annotation, "TEXT")  # type: ignore[arg-type]
