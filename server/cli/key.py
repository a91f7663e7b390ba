"""`florist key`: creates an API key."""

from server.cli.console import error_console


def key() -> None:
    """Creates an API key. The server gets only its hash. The key itself is shown once."""
    from server.api.auth import create_key

    new_key, hashed = create_key()
    print(f"key   {new_key}\nhash  {hashed}")
    error_console.print("Start the server with FLORIST_API_KEYS=<hash>. Send the key as `Authorization: Bearer <key>`.")
