"""The options of `florist serve`, created from the settings."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from server.settings import Settings, get_option_name, get_variable_name


def add_settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates `command(**settings)`: adds an option for each field of Settings.

    The value is None if neither the option nor its environment variable is given.
    """

    def wrapper(**values: Any) -> Any:
        return command(**values)

    wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
    annotations = {name: _create_annotation(name, field) for name, field in Settings.model_fields.items()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, keyword, default=None, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    wrapper.__annotations__ = dict(annotations)
    return wrapper


def _create_annotation(name: str, field: FieldInfo) -> Any:
    is_flag = field.annotation is bool
    option = get_option_name(name)
    # Values stay text until Settings validates them, so that all messages are the same as for environment variables.
    info = typer.Option(
        f"{option}/--no-{option[2:]}" if is_flag else option,
        envvar=get_variable_name(name),
        help=field.description,
        show_default=_format_default(field.default),
        metavar=None if is_flag else _format_metavar(field),
    )
    return Annotated[bool | None if is_flag else str | None, info]


def _format_default(default: Any) -> str | bool:
    if default in ((), None):
        return False
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else str(default)


def _format_metavar(field: FieldInfo) -> str:
    if choices := [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]:
        return "|".join(choices)
    return {int: "INTEGER", float: "SECONDS"}.get(field.annotation, "TEXT")  # type: ignore[arg-type]
