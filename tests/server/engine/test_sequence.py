"""What a request on its way lets out, and when."""

import asyncio

import pytest

from prompts.annotations import Annotation
from prompts.grammar import AnswerParser
from server.engine.checkpoint import Checkpoint
from server.engine.decoding.constraint import Constrain, automaton
from server.engine.features import FeatureCache
from server.engine.handle import Handle
from server.engine.runner import Runner
from server.engine.sequence import Sequence, plan
from tests.server.engine import reference
from tests.server.engine.tiny import picture


def sequence(checkpoint: Checkpoint, token: str, seed: int = 0, *, beams: int = 1, limit: int = 40) -> Sequence:
    """Constrained to the form of its task's answers, so that random weights draw boxes."""
    request = reference.request(token, picture(seed), beams=beams, limit=limit)
    size = len(checkpoint.unused)
    guide = automaton(request.task, Constrain(), checkpoint.tokenizer, checkpoint.vocabulary, size)
    return Sequence(plan(request, checkpoint), checkpoint, Handle(lambda _: None), automaton=guide)


def closed(checkpoint: Checkpoint, asked: Sequence) -> int:
    """How many annotations the tokens so far have closed, by the reader alone."""
    parser = AnswerParser(asked.plan.request.task, asked.plan.picture.size)
    return sum(len(parser.feed(checkpoint.vocabulary[said.token], 0.0)) for said in asked.search.settled)


async def follow(handle: Handle, into: list[Annotation]) -> None:
    async for annotation in handle.stream():
        into.append(annotation)


@pytest.mark.parametrize("token", ["<REGION_PROPOSAL>", "<OD>"])
@pytest.mark.parametrize("others", [0, 5], ids=["alone", "beside long answers"])
async def test_a_box_leaves_with_its_fourth_location(tiny: Checkpoint, token: str, others: int) -> None:
    """At the very step, whoever else is in the batch and however long they take."""
    asked = sequence(tiny, token)
    beside = [sequence(tiny, "<DENSE_REGION_CAPTION>", 1, beams=1 + i % 3, limit=60) for i in range(others)]
    runner = Runner(tiny, 8, FeatureCache(1 << 20))
    streamed = list[Annotation]()
    follower = asyncio.create_task(follow(asked.handle, streamed))
    if beside:
        runner.enter(beside)
        runner.step()
    runner.enter([asked])
    early = 0
    while not asked.read():
        await asyncio.sleep(0)  # the wake-up
        await asyncio.sleep(0)  # the follower
        assert len(streamed) == closed(tiny, asked)
        if streamed and not early:
            early = len(asked.search.settled)
            locations = [said.token in tiny.locations for said in asked.search.settled]
            assert locations[-4:] == [True] * 4
            assert sum(locations) == 4
        for other in beside:
            other.read()
        runner.step()
    asked.finish()
    await follower
    assert streamed == asked.annotations
    assert 0 < early < len(asked.search.settled)
    assert len(streamed) > 1
    if beside:
        assert not all(other.search.done for other in beside)
