"""`florist serve`: runs the server."""

from typing import Any

from server.cli.console import fail
from server.cli.settings_options import add_settings_options
from server.settings import SettingsError, load_settings


@add_settings_options
def serve(**values: Any) -> None:
    """Serves a model over HTTP. Each option is also an environment variable."""
    try:
        settings = load_settings(**values)
    except SettingsError as error:
        fail(str(error))
    from server.process import ListenError, end_process, run_server

    try:
        code = run_server(settings)
    except ListenError as error:
        fail(str(error))
    end_process(code)
