"""The page about the API: complete without internet, under a strict policy, in a real Chromium."""

import hashlib
import re
import shutil
from importlib.resources import files

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from server.api.auth import create_key
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.helpers import StuckEngine, connect, serve_app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SLOW = 60_000  # milliseconds that a busy machine may take
ASSETS = files("server.api.documentation") / "assets"
# Of swagger-ui-dist 5.35.0 on npm.
HASHES = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


async def test_the_page_names_only_files_of_the_server(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(names) == 4
    for name in names:
        assert "//" not in name
        assert (await client.get("/" + name)).status_code == 200
    assert (await client.get("/redoc")).status_code == 404


@pytest.mark.parametrize("name", HASHES)
def test_the_files_of_swagger_ui_are_unchanged(name: str) -> None:
    assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == HASHES[name]


async def test_the_page_is_open_on_a_server_with_keys(stuck: StuckEngine) -> None:
    app = create_app(Settings(api_keys=(create_key()[1],)), stuck)  # type: ignore[arg-type]
    async with connect(app) as client:
        assert (await client.get("/v1/tasks")).status_code == 401
        for path in ("/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here (Debian's package: chromium)")
def test_a_prompt_can_be_tried_out_with_a_key(engine: Engine) -> None:
    key, key_hash = create_key()
    messages: list[str] = []
    requests: list[str] = []
    with (
        serve_app(create_app(Settings(api_keys=(key_hash,)), engine)) as url,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=SLOW) as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(SLOW)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{url}/docs")
        assert try_prompt(page) == "401"
        page.click("button.authorize")
        page.locator(".auth-container input").first.fill(key)
        page.locator(".auth-btn-wrapper button.authorize").first.click()
        page.locator(".auth-btn-wrapper button.btn-done").first.click()
        assert try_prompt(page) == "200"
        assert '"apple"' in page.locator(".live-responses-table").first.inner_text()
    assert [message for message in messages if "401" not in message] == []
    assert all(request.startswith((url, "data:", "blob:")) for request in requests), requests


def try_prompt(page: Page) -> str:
    """Sends the example of POST /v1/prompt. Returns the status on the page."""
    route = page.locator(".opblock").filter(has_text="/v1/prompt").first
    if not route.locator(".opblock-body").count():
        route.locator(".opblock-summary-control").click()
        route.locator("button.try-out__btn").click()
    with page.expect_response("**/v1/prompt*") as answered:
        route.locator("button.execute").click()
    status = route.locator(f".live-responses-table .response-col_status:has-text('{answered.value.status}')").first
    status.wait_for()
    return status.inner_text().split()[0]
