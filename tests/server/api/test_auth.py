"""API keys."""

from server.api.auth import create_key
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.problem_checks import check_field
from tests.server.helpers import connect


async def test_routes_require_a_key(engine: Engine) -> None:
    (key, hashed), (other, other_hashed) = create_key(), create_key()
    settings = Settings(api_keys=(hashed, other_hashed))
    async with connect(create_app(settings, engine)) as client:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        for path in ("/v1/tasks", "/v1/models", "/metrics"):
            refused = await client.get(path)
            check_field(refused, 401, "unauthorized")
            assert refused.headers["www-authenticate"].startswith("Bearer")
        wrong = ["Bearer", f"Bearer {key}x", f"Basic {key}", key, f"Bearer {hashed}", "Bearer é", "\xff"]
        for value in wrong:
            refused = await client.get("/v1/tasks", headers={"Authorization": value.encode("latin-1")})
            check_field(refused, 401, "unauthorized")
        check_field(await client.post("/v1/prompt", content=b"{"), 401, "unauthorized")
        for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer {other}"}, {"X-API-Key": key}):
            assert (await client.get("/v1/tasks", headers=headers)).status_code == 200
    assert key not in repr(settings)
