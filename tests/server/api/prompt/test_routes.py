"""POST /v1/prompt over ASGI, and the tables of tasks, models and metrics."""

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
from prompts.tasks import TASKS, InputKind
from server.api.prompt.examples import create_prompt_examples
from server.api.prompt.schemas import Prompt, PromptResponse, has_min_score
from server.api.sample_image import draw_sample_image, encode_sample_image
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings

IMAGE = encode_sample_image()
SHORT = {"max_new_tokens": 12}
ANNOTATIONS = TypeAdapter(list[Annotation])


def parse_events(body: str) -> list[tuple[str, Any]]:
    """Returns the names and data of server-sent events."""
    read = []
    for block in body.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            read.append((fields["event"], json.loads(fields["data"])))
    return read


@pytest.mark.parametrize("task", TASKS)
async def test_every_task_answers(client: httpx.AsyncClient, task: str) -> None:
    extra: dict[InputKind, dict[str, Any]] = {
        InputKind.TEXT: {"text": "a red ball"},
        InputKind.REGION: {"region": [5, 5.5, 40, 48]},
    }
    body = {"image": IMAGE, "task": task, **SHORT, **extra.get(TASKS[task].input_kind, {})}
    response = await client.post("/v1/prompt", json=body)
    assert response.status_code == 200, response.text
    answer = PromptResponse.model_validate(response.json())
    assert (answer.task, answer.width, answer.height) == (task, 64, 48)
    assert all(0 < annotation.score < 1 for annotation in answer.annotations if annotation.score is not None)
    assert answer.timing.total == pytest.approx(
        answer.timing.queue + answer.timing.encode + answer.timing.decode, abs=0.01
    )


@pytest.mark.parametrize("name", create_prompt_examples())
async def test_the_documented_examples_are_valid(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post("/v1/prompt", json=create_prompt_examples()[name]["value"])
    assert response.status_code == 200, response.text


async def test_a_form_and_json_get_the_same_answer(client: httpx.AsyncClient) -> None:
    plain = await client.post("/v1/prompt", json={"image": IMAGE, "task": "<OD>", **SHORT, "num_beams": 2})
    fields = {"task": "<OD>", "max_new_tokens": "12", "num_beams": "2", "text": ""}
    form = await client.post("/v1/prompt", files={"image": ("p.png", draw_sample_image())}, data=fields)
    text = await client.post("/v1/prompt", files={"image": (None, IMAGE)}, data=fields)
    timeless = [{**response.json(), "timing": None} for response in (plain, form, text)]
    assert timeless[0] == timeless[1] == timeless[2]


async def test_a_constrained_answer_contains_only_the_given_labels(client: httpx.AsyncClient) -> None:
    constrain = {"labels": ["teapot", "kettle"]}
    body = {"image": IMAGE, "task": "<OD>", "max_new_tokens": 60, "constrain": constrain}
    plain = await client.post("/v1/prompt", json=body)
    fields = {"task": "<OD>", "max_new_tokens": "60", "constrain": json.dumps(constrain)}
    form = await client.post("/v1/prompt", files={"image": ("p.png", draw_sample_image())}, data=fields)
    for response in (plain, form):
        assert response.status_code == 200, response.text
        answer = PromptResponse.model_validate(response.json())
        assert {annotation.label for annotation in answer.annotations} <= {"teapot", "kettle"}
        assert not answer.dropped
    refused = await client.post("/v1/prompt", json={**body, "constrain": {"labels": []}})
    assert (refused.status_code, refused.json()["field"]) == (422, "constrain")


@pytest.mark.parametrize("region", ["8,22,27,41", "[8, 22, 27, 41]", " 8, 22.0 ,27,41 "])
async def test_a_form_can_contain_a_region(client: httpx.AsyncClient, region: str) -> None:
    fields = {"task": "<REGION_TO_CATEGORY>", "region": region, **SHORT}
    response = await client.post("/v1/prompt", files={"image": draw_sample_image()}, data=fields)
    assert response.status_code == 200, response.text


async def test_answers_are_in_order_and_one_invalid_prompt_does_not_affect_others(client: httpx.AsyncClient) -> None:
    prompts = [
        {"task": "<CAPTION>"},
        {"task": "<OOD>"},
        {"task": "<REGION_TO_CATEGORY>", "region": [10, 10, 5, 5]},
        {"task": "<OD>", "max_new_tokens": 999_999},
        {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "word " * 1000},
        {"task": "<OD>", "num_beams": 1},
    ]
    response = await client.post("/v1/prompt", json={"image": IMAGE, "prompts": prompts, **SHORT})
    assert response.status_code == 200
    results = response.json()["results"]
    assert [r.get("field") for r in results] == [None, "task", "region", "max_new_tokens", "text", None]
    assert [r.get("status") for r in results] == [None, 422, 422, 422, 422, None]
    assert [results[0]["task"], results[5]["task"]] == ["<CAPTION>", "<OD>"]
    assert all(r["detail"] and r["request_id"] == response.headers["x-request-id"] for r in results[1:5])


async def test_a_form_can_contain_several_prompts(client: httpx.AsyncClient) -> None:
    data = {"prompts": json.dumps([{"task": "<OD>"}, {"task": "<CAPTION>"}]), "max_new_tokens": "12"}
    response = await client.post("/v1/prompt", files={"image": draw_sample_image()}, data=data)
    assert [r["task"] for r in response.json()["results"]] == ["<OD>", "<CAPTION>"]


async def test_a_stream_ends_with_the_same_answer_as_a_plain_request(client: httpx.AsyncClient) -> None:
    body = {"image": IMAGE, "task": "<REGION_TO_DESCRIPTION>", "region": [5, 5, 40, 40]}
    plain = (await client.post("/v1/prompt", json=body)).json()
    streamed = await client.post("/v1/prompt?stream=true", json=body)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *events, (last, whole) = parse_events(streamed.text)
    assert last == "result"
    assert {**whole, "timing": None} == {**plain, "timing": None}
    assert [data for name, data in events if name == "annotation"] == plain["annotations"]


async def test_a_stream_of_several_prompts_contains_their_index_and_errors(client: httpx.AsyncClient) -> None:
    prompts = [{"task": "<CAPTION>"}, {"task": "<OOD>"}]
    streamed = await client.post("/v1/prompt?stream=1", json={"image": IMAGE, "prompts": prompts})
    read = parse_events(streamed.text)
    assert [(name, data["index"], data["field"]) for name, data in read if name == "error"] == [("error", 1, "task")]
    assert {data["index"] for name, data in read if name == "annotation"} <= {0}
    assert read[-1][0] == "result"
    assert [r.get("status") for r in read[-1][1]["results"]] == [None, 422]


async def test_a_single_invalid_prompt_does_not_start_a_stream(client: httpx.AsyncClient) -> None:
    refused = await client.post("/v1/prompt?stream=true", json={"image": IMAGE, "task": "<OOD>"})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"


def test_min_score_leaves_out_annotations_with_lower_scores() -> None:
    sure, unsure, unscored = (Box(box=(0, 0, 1, 1), score=score) for score in (0.9, 0.2, None))
    assert [
        has_min_score(Prompt(task="<OD>", min_score=0.5), annotation) for annotation in (sure, unsure, unscored)
    ] == [
        True,
        False,
        True,
    ]
    assert has_min_score(Prompt(task="<OD>"), unsure)


async def test_min_score_of_a_prompt_overrides_the_default_of_the_request(client: httpx.AsyncClient) -> None:
    prompts = [{"task": "<REGION_TO_CATEGORY>", "region": [5, 5, 40, 40], "min_score": 0}, {"task": "<CAPTION>"}]
    response = await client.post("/v1/prompt", json={"image": IMAGE, "prompts": prompts, "min_score": 1})
    first, second = response.json()["results"]
    assert second["annotations"] == []
    assert bool(first["annotations"]) == bool(first["text"].strip())


async def test_tasks_of_fine_tuned_models_are_accepted(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/prompt", json={"image": IMAGE, "task": "<VQA>", "text": "how many?", **SHORT})
    assert response.status_code == 200


async def test_exif_orientation_rotates_the_image(client: httpx.AsyncClient) -> None:
    image, saved = Image.open(io.BytesIO(draw_sample_image())).convert("RGB"), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(saved, "JPEG", exif=exif)
    response = await client.post("/v1/prompt", files={"image": saved.getvalue()}, data={"task": "<OD>", **SHORT})
    assert (response.json()["width"], response.json()["height"]) == (48, 64)


async def test_base64_may_have_line_breaks_and_be_a_data_url(client: httpx.AsyncClient) -> None:
    folded = base64.encodebytes(draw_sample_image()).decode()
    for image in (folded, folded.replace("\n", "\r\n"), f"data:image/png;base64,{IMAGE}", f"DATA:;base64,{IMAGE}"):
        response = await client.post("/v1/prompt", json={"image": image, "task": "<OD>", **SHORT})
        assert response.status_code == 200, response.text


async def test_tasks_models_and_metrics_are_listed(client: httpx.AsyncClient, engine: Engine) -> None:
    tasks = (await client.get("/v1/tasks")).json()["tasks"]
    assert [row["task"] for row in tasks] == list(TASKS)
    (model,) = (await client.get("/v1/models")).json()["models"]
    assert (model["name"], model["ready"]) == (engine.checkpoint.name, True)
    await client.post("/v1/prompt", json={"image": IMAGE, "task": "<OD>", **SHORT})
    await client.post("/v1/prompt", json={"image": IMAGE, "task": "<OOD>"})
    text = (await client.get("/metrics")).text
    assert 'florist_prompts_total{outcome="answered",task="<OD>"} 1.0' in text
    assert 'florist_prompts_total{outcome="invalid",task="other"} 1.0' in text
    assert 'florist_http_request_seconds_count{method="POST",route="/v1/prompt",status="200"} 1.0' in text
    for name in ("queue_depth", "running", "batch_size_sum", "generated_tokens_total", "phase_seconds_bucket"):
        assert f"florist_{name}" in text


def test_health_while_the_model_loads() -> None:
    app = create_app(Settings(model="/nonexistent"))
    client = TestClient(app)  # without `with`: the lifespan does not start
    assert client.get("/healthz").json() == {"status": "alive"}
    refused = client.get("/readyz")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:florist:problem:loading")
    assert int(refused.headers["retry-after"]) > 0
    assert client.post("/v1/prompt", json={}).status_code == 503
    assert client.get("/v1/models").json()["models"][0] == {
        **dict.fromkeys(
            ["device", "dtype", "sha256", "num_beams", "max_new_tokens", "max_prompt_tokens", "calibrated"]
        ),
        "name": "nonexistent",
        "ready": False,
    }
    assert "florist_model_loaded 0.0" in client.get("/metrics").text


@pytest.mark.parametrize(
    ("request_id", "is_used"), [("abc-1.2", True), ("a b", False), ("x" * 200, False), ("é", False)]
)
async def test_a_valid_request_id_of_the_client_is_used(
    client: httpx.AsyncClient, request_id: str, is_used: bool
) -> None:
    response = await client.get("/v1/nothing", headers={"X-Request-ID": request_id.encode()})
    assert (response.headers["x-request-id"] == request_id) == is_used
    assert response.json()["request_id"] == response.headers["x-request-id"]
