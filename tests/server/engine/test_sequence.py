"""When annotations of a running sequence are streamed."""

import asyncio

import pytest

from prompts.annotations import Annotation
from prompts.parsing import AnswerParser
from server.engine.checkpoints.loading import Checkpoint
from server.engine.decoding.constraint import compile_constraint
from server.engine.decoding.token_masks import TokenMasks
from server.engine.handle import Handle
from server.engine.model.feature_cache import FeatureCache
from server.engine.request import Constraint
from server.engine.runner import ModelRunner
from server.engine.sequence import Sequence
from tests.server.engine import reference
from tests.server.engine.tiny import create_image


def create_sequence(checkpoint: Checkpoint, token: str, seed: int = 0, *, beams: int = 1, limit: int = 40) -> Sequence:
    """Returns a sequence constrained to the answer format of its task, so that random weights generate boxes."""
    request = reference.create_request(token, create_image(seed), beams=beams, limit=limit)
    masks = TokenMasks(checkpoint.vocabulary, len(checkpoint.unused_tokens))
    constraint = compile_constraint(request.task, Constraint(), checkpoint.tokenizer, masks)
    return Sequence(request, checkpoint, constraint=constraint)


def count_closed_annotations(checkpoint: Checkpoint, sequence: Sequence) -> int:
    """Returns how many annotations the tokens so far complete, according to the parser alone."""
    parser = AnswerParser(sequence.request.task, sequence.image.size)
    settled = sequence.search.settled
    return sum(len(parser.feed(checkpoint.vocabulary[generated.token], 0.0)) for generated in settled)


async def collect_stream(handle: Handle, annotations: list[Annotation]) -> None:
    async for annotation in handle.stream():
        annotations.append(annotation)


@pytest.mark.parametrize("token", ["<REGION_PROPOSAL>", "<OD>"])
@pytest.mark.parametrize("others", [0, 5], ids=["alone", "with longer answers"])
async def test_box_is_streamed_with_its_fourth_location(tiny: Checkpoint, token: str, others: int) -> None:
    """In the same step, whatever else is in the batch."""
    sequence = create_sequence(tiny, token)
    long = [create_sequence(tiny, "<DENSE_REGION_CAPTION>", 1, beams=1 + i % 3, limit=60) for i in range(others)]
    runner = ModelRunner(tiny, 8, FeatureCache(1 << 20))
    streamed = list[Annotation]()
    collector = asyncio.create_task(collect_stream(sequence.handle, streamed))
    if long:
        runner.add(long)
        runner.step()
    runner.add([sequence])
    first_box_at = 0
    while not sequence.process_output():
        await asyncio.sleep(0)  # runs the notification
        await asyncio.sleep(0)  # runs the collector
        assert len(streamed) == count_closed_annotations(tiny, sequence)
        if streamed and not first_box_at:
            first_box_at = len(sequence.search.settled)
            is_location = [generated.token in tiny.location_ids for generated in sequence.search.settled]
            assert is_location[-4:] == [True] * 4
            assert sum(is_location) == 4
        for other in long:
            other.process_output()
        runner.step()
    sequence.finish()
    await collector
    assert streamed == sequence.annotations
    assert 0 < first_box_at < len(sequence.search.settled)
    assert len(streamed) > 1
    if long:
        assert not all(other.search.done for other in long)
