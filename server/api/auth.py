"""API keys: compared by their hashes, so that neither the settings nor the memory holds one."""

import hashlib
import hmac
import secrets
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from server.api.problems import UNAUTHORIZED, Problem

_bearer = HTTPBearer(auto_error=False, description="An API key, where the server asks for one.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, for clients without Bearer.")


def new_key() -> tuple[str, str]:
    """A new key and its hash."""
    key = f"florist-{secrets.token_urlsafe(32)}"
    return key, digest(key)


def digest(key: str) -> str:
    """SHA-256, in hex. A key is 256 random bits, so a slow hash would guard nothing more."""
    return hashlib.sha256(key.encode()).hexdigest()


async def authorise(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> None:
    """Raises Problem 401 unless the server is open or the request carries one of its keys."""
    known = request.app.state.settings.api_keys
    if not known:
        return
    key = bearer.credentials if bearer else header
    if not key:
        detail = "send your key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
    else:
        given = digest(key)
        # No early end: the time taken says nothing about which key was near.
        if sum(hmac.compare_digest(given, hashed) for hashed in known):
            return
        detail = "this key is not one of the server's; ask its operator for one"
    raise Problem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="florist"'})


def client_of(request: Request) -> str:
    """Who asks, for fairness between clients: the key's hash, on an open server the address."""
    bearer = request.headers.get("authorization", "").partition(" ")[2]
    key = bearer.strip() or request.headers.get("x-api-key", "")
    if key and request.app.state.settings.api_keys:
        return digest(key)[:16]
    return request.client.host if request.client else ""


Authorised = Depends(authorise)
