"""Several classes in one prompt, and tokens that are no task."""

import json
from typing import Any

import httpx
import pytest

from server.api.sample_image import draw_sample_image, encode_sample_image
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.problem_checks import check_field
from tests.server.api.prompt.test_routes import parse_events
from tests.server.helpers import StuckEngine, connect

IMAGE = encode_sample_image()
OPEN = {"task": "<OPEN_VOCABULARY_DETECTION>", "max_new_tokens": 30}
BODY = {"image": IMAGE, **OPEN}


async def post(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/prompt", json={"image": IMAGE, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_classes_are_asked_one_by_one_and_answered_as_one(client: httpx.AsyncClient, engine: Engine) -> None:
    names = ["ball", "book", "cup"]
    before = engine.get_stats()
    joined = await post(client, **OPEN, text=names)
    after = engine.get_stats()
    assert after.submitted - before.submitted == 3
    assert after.images - before.images <= 1
    alone = [await post(client, **OPEN, text=name) for name in names]
    assert [(each["label"], each["box"]) for each in joined["annotations"]] == [
        (name, each["box"]) for name, answer in zip(names, alone, strict=True) for each in answer["annotations"]
    ]
    assert joined["annotations"]  # otherwise this would test nothing
    assert joined["text"] == "\n".join(answer["text"] for answer in alone)
    assert joined["finish"] == "stop"


async def test_commas_lists_and_forms_ask_the_same(client: httpx.AsyncClient) -> None:
    answers = [await post(client, **OPEN, text=text) for text in (["ball", "book"], "ball, book", " ball,book ,")]
    for text in ("ball, book", '["ball", "book"]'):
        fields = {"task": OPEN["task"], "max_new_tokens": "30", "text": text}
        form = await client.post("/v1/prompt", files={"image": ("p.png", draw_sample_image())}, data=fields)
        answers.append(form.json())
    for answer in answers:
        assert {**answer, "timing": None} == {**answers[0], "timing": None}
    streamed = await client.post("/v1/prompt?stream=1", json={**BODY, "text": "ball, book"})
    *events, (last, whole) = parse_events(streamed.text)
    assert (last, {**whole, "timing": None}) == ("result", {**answers[0], "timing": None})
    assert [data for name, data in events if name == "annotation"] == answers[0]["annotations"]


async def test_a_list_entry_may_have_commas(client: httpx.AsyncClient) -> None:
    answer = await post(client, **OPEN, text=["a ball, red"])
    assert {each["label"] for each in answer["annotations"]} <= {"a ball, red"}
    assert "\n" not in answer["text"]


async def test_a_comma_is_text_for_other_tasks(client: httpx.AsyncClient) -> None:
    for task in ("<CAPTION_TO_PHRASE_GROUNDING>", "<REFERRING_EXPRESSION_SEGMENTATION>"):
        assert "\n" not in (await post(client, task=task, text="a ball, a book", max_new_tokens=20))["text"]
        refused = await client.post("/v1/prompt", json={"image": IMAGE, "task": task, "text": ["a ball", "a book"]})
        check_field(refused, 422, "invalid-prompt", "text")


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"text": []}, "invalid-prompt", "text"),
        ({"text": ["ball", " "]}, "invalid-prompt", "text"),
        ({"text": " , "}, "invalid-prompt", "text"),
        ({"text": ["ball", "</s>"]}, "invalid-prompt", "text"),
        ({"text": ["ball", 5]}, "invalid-request", "text"),
        ({"text": {"ball": 1}}, "invalid-request", "text"),
        ({"text": ["c" * 5000, "d" * 5000]}, "invalid-prompt", "text"),
        ({"text": [f"class {number}" for number in range(33)]}, "invalid-request", "text"),
        ({"text": ",".join(map(str, range(33)))}, "invalid-request", "text"),
        ({"task": None, "prompts": [{**OPEN, "text": "a, b, c"}] * 11}, "invalid-request", "prompts"),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any], kind: str, field: str
) -> None:
    body = {name: value for name, value in {**BODY, **change}.items() if value is not None}
    check_field(await client.post("/v1/prompt", json=body), 422, kind, field)


async def test_each_class_counts_in_the_queue(stuck: StuckEngine) -> None:
    stuck.room = 2
    async with connect(create_app(Settings(), stuck)) as client:  # type: ignore[arg-type]
        check_field(await client.post("/v1/prompt", json={**BODY, "text": "a, b, c"}), 503, "overloaded")
        assert not stuck.handles
        assert 'florist_prompts_total{outcome="overloaded"' in (await client.get("/metrics")).text


async def test_a_timeout_cancels_all_classes(stuck: StuckEngine) -> None:
    async with connect(create_app(Settings(request_timeout=0.1), stuck)) as client:  # type: ignore[arg-type]
        check_field(await client.post("/v1/prompt", json={**BODY, "text": "a, b, c"}), 504, "timed-out")
    assert [handle.cancelled for handle in stuck.handles] == [True] * 3


async def test_a_prompt_of_several_classes_is_one_prompt_in_the_metrics(engine: Engine) -> None:
    async with connect(create_app(Settings(), engine)) as client:
        await post(client, **OPEN, text="ball, book, cup")
        answered = 'florist_prompts_total{outcome="answered",task="<OPEN_VOCABULARY_DETECTION>"} 1.0'
        assert answered in (await client.get("/metrics")).text


@pytest.mark.parametrize(
    ("token", "nearest"), [("<DETECT>", "<OD>"), ("<SEGMENT>", "<REFERRING_"), ("<VQA>", "/v1/tasks")]
)
async def test_a_token_that_is_no_task_is_answered_with_a_warning(
    client: httpx.AsyncClient, token: str, nearest: str
) -> None:
    body = {"image": IMAGE, "task": token, "text": "cats", "max_new_tokens": 8}
    for answer in (
        (await client.post("/v1/prompt", json=body)).json(),
        (await client.post("/v1/prompt", json={"image": IMAGE, "prompts": [{"task": token}]})).json()["results"][0],
        parse_events((await client.post("/v1/prompt?stream=1", json=body)).text)[-1][1],
    ):
        (warning,) = answer["warnings"]
        assert token in warning
        assert nearest in warning


async def test_a_task_has_no_warning(client: httpx.AsyncClient) -> None:
    assert (await post(client, task="<OD>", max_new_tokens=4))["warnings"] == []
    text = json.dumps(["ball"])
    assert (await post(client, **OPEN, text=text))["warnings"] == []
