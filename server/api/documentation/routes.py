"""The page about the API at /docs: Swagger UI, from files of this package. It works without internet."""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

_ASSETS = Path(__file__).parent / "assets"
# Only files of this server, and no inline scripts: a key that is typed into the page stays there.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_documentation(app: FastAPI) -> None:
    """Adds the page and its files to the app."""
    app.add_route("/docs", _view_page, include_in_schema=False)
    app.mount("/docs", StaticFiles(directory=_ASSETS))


async def _view_page(_: Request) -> FileResponse:
    return FileResponse(_ASSETS / "page.html", headers={"Content-Security-Policy": _PAGE_POLICY})
