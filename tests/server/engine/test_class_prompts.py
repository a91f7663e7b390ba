"""Several classes in one prompt."""

from dataclasses import replace

import pytest

from prompts.tasks import TASKS
from server.engine.class_prompts import ClassesHandle, submit_classes
from server.engine.engine import Engine
from server.engine.errors import InvalidRequestError, OverloadedError, RequestCancelledError
from server.engine.request import Request
from tests.server.engine.engines import WAIT, create_request
from tests.server.engine.tiny import create_image

CLASSES = ("hat", "book", "red lamp")


def create_class_request(limit: int = 40) -> Request:
    task = TASKS["<OPEN_VOCABULARY_DETECTION>"]
    return Request(create_image(3), task, "hat", num_beams=1, max_new_tokens=limit)


def test_classes_are_asked_one_by_one_and_share_the_features_of_the_image(engine: Engine) -> None:
    request = replace(create_class_request(), image=engine.prepare(create_image(3)))
    joined = submit_classes(engine.submit, request, CLASSES)
    result = joined.wait(WAIT)
    assert engine.get_stats().images == 1
    alone = [engine.submit(replace(request, text=name)).wait(WAIT) for name in CLASSES]
    expected = [(name, each.box) for name, answer in zip(CLASSES, alone, strict=True) for each in answer.annotations]
    assert [(each.label, each.box) for each in result.annotations] == expected
    assert any(each.annotations for each in alone)  # otherwise this would test nothing
    assert result.text == "\n".join(each.text for each in alone)
    assert result.tokens == [token for each in alone for token in each.tokens]
    assert len(result.logprobs) == len(result.tokens)
    assert joined.done()


async def test_a_stream_has_the_annotations_of_the_result(engine: Engine) -> None:
    joined = submit_classes(engine.submit, create_class_request(), CLASSES)
    streamed = [annotation async for annotation in joined.stream()]
    assert streamed == (await joined.result()).annotations != []


def test_without_classes_the_request_is_submitted_as_it_is(engine: Engine) -> None:
    handle = submit_classes(engine.submit, create_request(limit=4), ())
    assert not isinstance(handle, ClassesHandle)
    assert handle.wait(WAIT).tokens


@pytest.mark.parametrize("bad", [2, 0])
def test_if_one_class_is_refused_none_is_asked(engine: Engine, bad: int) -> None:
    classes = [name if index != bad else "</s>" for index, name in enumerate(CLASSES)]
    handles = []

    def submit(request: Request):  # type: ignore[no-untyped-def]
        handles.append(engine.submit(request))
        return handles[-1]

    with pytest.raises(InvalidRequestError):
        submit_classes(submit, create_class_request(90), classes)
    assert all(handle.cancelled for handle in handles)
    assert len(handles) == bad


def test_a_full_queue_refuses_all(engine: Engine) -> None:
    with pytest.raises(OverloadedError):
        submit_classes(engine.submit, create_class_request(90), [f"class {number}" for number in range(30)])


def test_all_are_cancelled_together(engine: Engine) -> None:
    handles = [engine.submit(replace(create_class_request(90), text=name)) for name in CLASSES]
    joined = ClassesHandle(CLASSES, handles)
    assert not joined.done()
    joined.cancel()
    with pytest.raises(RequestCancelledError):
        joined.wait(WAIT)
    for handle in handles:
        with pytest.raises(RequestCancelledError):
            handle.wait(WAIT)
    assert joined.done()
