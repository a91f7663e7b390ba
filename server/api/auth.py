"""API keys. The server knows only their hashes, in its settings and in memory."""

import hashlib
import hmac
import secrets
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from server.api.deps import SettingsDep
from server.api.problems import UNAUTHORIZED, ProblemError

_bearer = HTTPBearer(auto_error=False, description="An API key, if the server requires one.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, for clients without Bearer.")


def create_key() -> tuple[str, str]:
    """Returns a new key and its hash."""
    key = f"florist-{secrets.token_urlsafe(32)}"
    return key, hash_key(key)


def hash_key(key: str) -> str:
    """Returns the SHA-256 hash in hex. A key has 256 random bits, so a slow hash would not add security."""
    return hashlib.sha256(key.encode()).hexdigest()


def get_key(request: Request) -> str:
    """Returns the key that a request carries; empty if it carries none."""
    bearer = request.headers.get("authorization", "").partition(" ")[2]
    return bearer.strip() or request.headers.get("x-api-key", "")


async def check_key(
    settings: SettingsDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> None:
    """Raises ProblemError (401) unless the server has no keys or the request carries one of them."""
    if not settings.api_keys:
        return
    key = bearer.credentials if bearer else header
    if not key:
        detail = "send your key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
    else:
        given = hash_key(key)
        # Compares with every hash, so that the time taken does not depend on the key.
        if sum(hmac.compare_digest(given, known) for known in settings.api_keys):
            return
        detail = "the server does not know this key; ask its operator for one"
    raise ProblemError(UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="florist"'})


KeyRequired = Depends(check_key)


async def get_client_id(request: Request, settings: SettingsDep) -> str:
    """Returns an ID of the client: the start of its key's hash, or its address on a server without keys."""
    key = get_key(request)
    if key and settings.api_keys:
        return hash_key(key)[:16]
    return request.client.host if request.client else ""


ClientIdDep = Annotated[str, Depends(get_client_id)]
