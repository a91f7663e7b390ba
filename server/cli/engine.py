"""Loads the engine of a command, with an adapter from a folder. Exits with a message if it cannot be loaded."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompts.tasks import describe_unknown_token
from server.cli.console import error_console, fail
from server.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from server.engine.engine import Engine


def load_settings_or_exit(**values: Any) -> Settings:
    """Returns settings. Exits if they are invalid."""
    try:
        return load_settings(**values)
    except SettingsError as error:
        fail(str(error))


def get_adapter_name(adapter: Path | None) -> str | None:
    """Returns the name in the engine of an adapter: the name of its folder."""
    return adapter.resolve().name if adapter else None


def load_engine(model: str | None, device: str | None, adapter: Path | None = None) -> "Engine":
    """Returns an engine with the model, and with the adapter if there is one. Exits if it cannot be loaded."""
    settings = load_settings_or_exit(model=model, device=device)
    with error_console.status(f"loading {settings.model} …"):
        from server.engine.adapters.errors import AdapterError
        from server.engine.checkpoints.errors import CheckpointError
        from server.engine.engine import Engine

        try:
            engine = Engine.load(settings.engine_config)
        except CheckpointError as error:
            fail(str(error))
        if adapter:
            try:
                engine.load_adapter(get_adapter_name(adapter) or "", adapter)
            except AdapterError as error:
                engine.close(drain=False)
                fail(f"the adapter {adapter} cannot be used: {error}")
        return engine


def list_unknown_tasks(engine: "Engine", tokens: Iterable[str]) -> list[str]:
    """Returns a warning for each task that neither florist nor the files of the model and its adapters know."""
    from server.engine.task_tokens import find_unknown_tasks

    unknown = map(describe_unknown_token, find_unknown_tasks(engine, tokens))
    return [warning.replace("GET /v1/tasks lists", "`florist tasks` lists") for warning in unknown]
