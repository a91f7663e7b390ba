"""POST /v1/prompt over ASGI, and what stands beside it."""

import base64
import io
import json
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import TypeAdapter

from prompts.annotations import Annotation, Box
from prompts.tasks import TASKS, Takes
from server.api import examples
from server.api.schemas import Answer, Prompt, wanted
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings

PICTURE = base64.b64encode(examples.picture()).decode()
SHORT = {"max_new_tokens": 12}
ANNOTATIONS = TypeAdapter(list[Annotation])


def events(body: str) -> list[tuple[str, Any]]:
    """A stream of server-sent events → their names and data."""
    read = []
    for block in body.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            read.append((fields["event"], json.loads(fields["data"])))
    return read


@pytest.mark.parametrize("task", TASKS)
async def test_every_task_answers(client: httpx.AsyncClient, task: str) -> None:
    extra: dict[Takes, dict[str, Any]] = {
        Takes.TEXT: {"text": "a red ball"},
        Takes.REGION: {"region": [5, 5.5, 40, 48]},
    }
    ask = {"image": PICTURE, "task": task, **SHORT, **extra.get(TASKS[task].takes, {})}
    answered = await client.post("/v1/prompt", json=ask)
    assert answered.status_code == 200, answered.text
    answer = Answer.model_validate(answered.json())
    assert (answer.task, answer.width, answer.height) == (task, 64, 48)
    assert all(0 < note.score < 1 for note in answer.annotations if note.score is not None)
    assert answer.timing.total == pytest.approx(
        answer.timing.queue + answer.timing.encode + answer.timing.decode, abs=0.01
    )


@pytest.mark.parametrize("name", examples.body())
async def test_the_documented_examples_work(client: httpx.AsyncClient, name: str) -> None:
    answered = await client.post("/v1/prompt", json=examples.body()[name]["value"])
    assert answered.status_code == 200, answered.text


async def test_a_form_answers_as_json_does(client: httpx.AsyncClient) -> None:
    plain = await client.post("/v1/prompt", json={"image": PICTURE, "task": "<OD>", **SHORT, "num_beams": 2})
    fields = {"task": "<OD>", "max_new_tokens": "12", "num_beams": "2", "text": ""}
    form = await client.post("/v1/prompt", files={"image": ("p.png", examples.picture())}, data=fields)
    text = await client.post("/v1/prompt", files={"image": (None, PICTURE)}, data=fields)
    timeless = [{**answered.json(), "timing": None} for answered in (plain, form, text)]
    assert timeless[0] == timeless[1] == timeless[2]


async def test_a_constrained_answer_keeps_to_the_labels(client: httpx.AsyncClient) -> None:
    constrain = {"labels": ["teapot", "kettle"]}
    asked = {"image": PICTURE, "task": "<OD>", "max_new_tokens": 60, "constrain": constrain}
    plain = await client.post("/v1/prompt", json=asked)
    fields = {"task": "<OD>", "max_new_tokens": "60", "constrain": json.dumps(constrain)}
    form = await client.post("/v1/prompt", files={"image": ("p.png", examples.picture())}, data=fields)
    for answered in (plain, form):
        assert answered.status_code == 200, answered.text
        answer = Answer.model_validate(answered.json())
        assert {note.label for note in answer.annotations} <= {"teapot", "kettle"}
        assert not answer.dropped
    refused = await client.post("/v1/prompt", json={**asked, "constrain": {"labels": []}})
    assert (refused.status_code, refused.json()["field"]) == (422, "constrain")


@pytest.mark.parametrize("region", ["8,22,27,41", "[8, 22, 27, 41]", " 8, 22.0 ,27,41 "])
async def test_a_region_in_a_form(client: httpx.AsyncClient, region: str) -> None:
    fields = {"task": "<REGION_TO_CATEGORY>", "region": region, **SHORT}
    answered = await client.post("/v1/prompt", files={"image": examples.picture()}, data=fields)
    assert answered.status_code == 200, answered.text


async def test_several_prompts_answer_in_order_and_one_fails_alone(client: httpx.AsyncClient) -> None:
    prompts = [
        {"task": "<CAPTION>"},
        {"task": "<OOD>"},
        {"task": "<REGION_TO_CATEGORY>", "region": [10, 10, 5, 5]},
        {"task": "<OD>", "max_new_tokens": 999_999},
        {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "word " * 1000},
        {"task": "<OD>", "num_beams": 1},
    ]
    answered = await client.post("/v1/prompt", json={"image": PICTURE, "prompts": prompts, **SHORT})
    assert answered.status_code == 200
    results = answered.json()["results"]
    assert [r.get("field") for r in results] == [None, "task", "region", "max_new_tokens", "text", None]
    assert [r.get("status") for r in results] == [None, 422, 422, 422, 422, None]
    assert [results[0]["task"], results[5]["task"]] == ["<CAPTION>", "<OD>"]
    assert all(r["detail"] and r["request_id"] == answered.headers["x-request-id"] for r in results[1:5])


async def test_prompts_in_a_form(client: httpx.AsyncClient) -> None:
    data = {"prompts": json.dumps([{"task": "<OD>"}, {"task": "<CAPTION>"}]), "max_new_tokens": "12"}
    answered = await client.post("/v1/prompt", files={"image": examples.picture()}, data=data)
    assert [r["task"] for r in answered.json()["results"]] == ["<OD>", "<CAPTION>"]


async def test_a_stream_ends_with_what_the_plain_answer_is(client: httpx.AsyncClient) -> None:
    ask = {"image": PICTURE, "task": "<REGION_TO_DESCRIPTION>", "region": [5, 5, 40, 40]}
    plain = (await client.post("/v1/prompt", json=ask)).json()
    streamed = await client.post("/v1/prompt?stream=true", json=ask)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *notes, (last, whole) = events(streamed.text)
    assert last == "result"
    assert {**whole, "timing": None} == {**plain, "timing": None}
    assert [data for name, data in notes if name == "annotation"] == plain["annotations"]


async def test_a_stream_of_several_tells_which_and_what_failed(client: httpx.AsyncClient) -> None:
    prompts = [{"task": "<CAPTION>"}, {"task": "<OOD>"}]
    streamed = await client.post("/v1/prompt?stream=1", json={"image": PICTURE, "prompts": prompts})
    read = events(streamed.text)
    assert [(name, data["index"], data["field"]) for name, data in read if name == "error"] == [("error", 1, "task")]
    assert {data["index"] for name, data in read if name == "annotation"} <= {0}
    assert read[-1][0] == "result"
    assert [r.get("status") for r in read[-1][1]["results"]] == [None, 422]


async def test_a_prompt_alone_that_cannot_be_asked_does_not_begin_a_stream(client: httpx.AsyncClient) -> None:
    refused = await client.post("/v1/prompt?stream=true", json={"image": PICTURE, "task": "<OOD>"})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"


def test_min_score_leaves_out_what_is_below() -> None:
    sure, unsure, unscored = (Box(box=(0, 0, 1, 1), score=score) for score in (0.9, 0.2, None))
    assert [wanted(Prompt(task="<OD>", min_score=0.5), note) for note in (sure, unsure, unscored)] == [
        True,
        False,
        True,
    ]
    assert wanted(Prompt(task="<OD>"), unsure)


async def test_min_score_of_a_prompt_wins_over_the_request_s(client: httpx.AsyncClient) -> None:
    prompts = [{"task": "<REGION_TO_CATEGORY>", "region": [5, 5, 40, 40], "min_score": 0}, {"task": "<CAPTION>"}]
    answered = await client.post("/v1/prompt", json={"image": PICTURE, "prompts": prompts, "min_score": 1})
    first, second = answered.json()["results"]
    assert second["annotations"] == []
    assert bool(first["annotations"]) == bool(first["text"].strip())


async def test_a_task_of_a_fine_tuned_model_passes_through(client: httpx.AsyncClient) -> None:
    answered = await client.post("/v1/prompt", json={"image": PICTURE, "task": "<VQA>", "text": "how many?", **SHORT})
    assert answered.status_code == 200


async def test_exif_orientation_turns_the_picture(client: httpx.AsyncClient) -> None:
    image, saved = Image.open(io.BytesIO(examples.picture())).convert("RGB"), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(saved, "JPEG", exif=exif)
    answered = await client.post("/v1/prompt", files={"image": saved.getvalue()}, data={"task": "<OD>", **SHORT})
    assert (answered.json()["width"], answered.json()["height"]) == (48, 64)


async def test_base64_with_line_breaks_and_data_urls(client: httpx.AsyncClient) -> None:
    folded = base64.encodebytes(examples.picture()).decode()
    for image in (folded, folded.replace("\n", "\r\n"), f"data:image/png;base64,{PICTURE}", f"DATA:;base64,{PICTURE}"):
        answered = await client.post("/v1/prompt", json={"image": image, "task": "<OD>", **SHORT})
        assert answered.status_code == 200, answered.text


async def test_tables_and_metrics(client: httpx.AsyncClient, engine: Engine) -> None:
    tasks = (await client.get("/v1/tasks")).json()["tasks"]
    assert [row["task"] for row in tasks] == list(TASKS)
    (model,) = (await client.get("/v1/models")).json()["models"]
    assert (model["name"], model["ready"]) == (engine.checkpoint.name, True)
    await client.post("/v1/prompt", json={"image": PICTURE, "task": "<OD>", **SHORT})
    await client.post("/v1/prompt", json={"image": PICTURE, "task": "<OOD>"})
    text = (await client.get("/metrics")).text
    assert 'florist_prompts_total{outcome="answered",task="<OD>"} 1.0' in text
    assert 'florist_prompts_total{outcome="invalid",task="other"} 1.0' in text
    assert 'florist_http_request_seconds_count{method="POST",route="/v1/prompt",status="200"} 1.0' in text
    for name in ("queue_depth", "running", "batch_size_sum", "generated_tokens_total", "phase_seconds_bucket"):
        assert f"florist_{name}" in text


def test_health_before_the_model_is_there() -> None:
    app = create_app(Settings(model="/nonexistent"))
    client = TestClient(app)  # not entered: nothing begins to load
    assert client.get("/healthz").json() == {"status": "alive"}
    refused = client.get("/readyz")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:florist:problem:loading")
    assert int(refused.headers["retry-after"]) > 0
    assert client.post("/v1/prompt", json={}).status_code == 503
    assert client.get("/v1/models").json()["models"][0] == {
        **dict.fromkeys(
            ["device", "dtype", "sha256", "num_beams", "max_new_tokens", "max_prompt_tokens", "calibrated"]
        ),
        "name": "/nonexistent",
        "ready": False,
    }
    assert "florist_model_loaded 0.0" in client.get("/metrics").text


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2", True), ("a b", False), ("x" * 200, False), ("é", False)])
async def test_the_request_id_is_the_caller_s_where_it_is_clean(
    client: httpx.AsyncClient, given: str, kept: bool
) -> None:
    answered = await client.get("/v1/nothing", headers={"X-Request-ID": given.encode()})
    assert (answered.headers["x-request-id"] == given) == kept
    assert answered.json()["request_id"] == answered.headers["x-request-id"]
