"""Prompts that the engine does not answer."""

import asyncio
from collections.abc import AsyncIterator

from server.api.sample_image import encode_sample_image
from server.app import create_app
from server.settings import Settings
from tests.server.api.problem_checks import check_field
from tests.server.helpers import StuckEngine, connect

IMAGE = encode_sample_image()
BODY = {"image": IMAGE, "task": "<OD>"}


async def test_a_full_queue_is_answered_with_503(stuck: StuckEngine) -> None:
    stuck.room = 2
    async with connect(create_app(Settings(), stuck)) as client:  # type: ignore[arg-type]
        refused = await client.post("/v1/prompt", json={"image": IMAGE, "prompts": [{"task": "<OD>"}] * 3})
        check_field(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "8"
        assert not stuck.handles, "none of them is submitted"
        assert 'florist_prompts_total{outcome="overloaded"' in (await client.get("/metrics")).text


async def test_a_full_queue_is_told_before_the_body_is_read_and_the_image_decoded(stuck: StuckEngine) -> None:
    stuck.room = 1
    app = create_app(Settings(), stuck)  # type: ignore[arg-type]
    decoded = []
    app.state.lifecycle.decoding.decode = decoded.append

    async def fail_to_send() -> AsyncIterator[bytes]:
        raise AssertionError("the body is not read")
        yield b""

    async with connect(app) as client:
        app.state.lifecycle.preparing = 1  # another image is being decoded, and its prompt takes the last place
        refused = await client.post("/v1/prompt", content=fail_to_send(), headers={"Content-Type": "application/json"})
        check_field(refused, 503, "overloaded")
        app.state.lifecycle.preparing = 0
        job = await client.post("/v1/prompt", json={"image": IMAGE, "prompts": [{"task": "<OD>"}] * 2})
        check_field(job, 503, "overloaded")
    assert not decoded
    assert app.state.lifecycle.preparing == 0


async def test_a_slow_answer_times_out(stuck: StuckEngine) -> None:
    async with connect(create_app(Settings(request_timeout=0.1), stuck)) as client:  # type: ignore[arg-type]
        check_field(await client.post("/v1/prompt", json=BODY), 504, "timed-out")
        streamed = await client.post("/v1/prompt?stream=1", json=BODY)
        assert "event: error" in streamed.text
        assert "timed-out" in streamed.text
        assert "event: result" not in streamed.text
    assert all(handle.cancelled for handle in stuck.handles)


async def test_a_failure_of_the_model_reveals_nothing(stuck: StuckEngine) -> None:
    async with connect(create_app(Settings(), stuck)) as client:  # type: ignore[arg-type]
        pending = asyncio.create_task(client.post("/v1/prompt", json=BODY))
        while not stuck.handles:
            await asyncio.sleep(0.01)
        stuck.handles[0].set_exception(RuntimeError("secret of the server"))
        assert "secret" not in check_field(await pending, 500, "internal-error").detail
