"""States and masks of constraints."""

from itertools import pairwise

import pytest

from server.engine.request import Constraint
from tests.server.engine.decoding.constraints import (
    BOX,
    BOXES_OR_POLYGONS,
    LABELS,
    OD,
    OTHER,
    RING,
    compile_for,
    encode,
    follow,
    kinds,
    load_tokenizer,
    locs,
)


@kinds
def test_masks_are_cached(kind):
    own = load_tokenizer(kind)
    for task, options in ((OD, Constraint()), (OD, Constraint(labels=LABELS))):
        # Both walks reach each state separately.
        constraint = compile_for(kind, task, options)
        walks = [constraint.start, constraint.start]
        ids = [own.bos_id, *encode(kind, f"cat{BOX}{OTHER}dog{locs(1, 2, 3, 4)}")]
        for token in ids:
            masks = [constraint.get_allowed_tokens(s) for s in walks]
            assert masks[0] is masks[1]
            walks = [constraint.advance(s, token) for s in walks]
        assert walks[0] == walks[1]
        assert hash(walks[0]) == hash(walks[1])
    # Different states that allow the same tokens: inside a label, and with the same lower bound.
    free = compile_for(kind, OD)
    one, two = (follow(free, encode(kind, t)) for t in ("cat", f"cat{BOX}dogs"))
    assert free.get_allowed_tokens(one) is free.get_allowed_tokens(two)
    one, two = (follow(free, encode(kind, f"cat{locs(*b)}")) for b in ((7, 1), (3, 7, 9)))
    assert free.get_allowed_tokens(one) is free.get_allowed_tokens(two)


def test_mask_cache_is_bounded():
    constraint = compile_for("tiny", OD)
    for least in range(1000):
        assert (
            int(constraint.get_allowed_tokens(follow(constraint, encode("tiny", f"cat{locs(least, 0)}"))).sum())
            == 1000 - least
        )
    info = constraint._masks.get_mask.cache_info()
    assert info.maxsize is not None
    assert info.currsize <= info.maxsize < 1000


def test_states_of_different_kinds_differ():
    """States are not equal just because their fields are."""
    texts = [
        "",
        "cat",
        f"cat{locs(6)}",
        f"cat{BOX}",
        "cat<poly>",
        f"cat<poly>{locs(6)}",
        f"cat<poly>{RING}",
    ]
    constraint = compile_for("tiny", BOXES_OR_POLYGONS)
    states = [follow(constraint, encode("tiny", t)) for t in texts]
    assert len(set(states)) == len(states)


@kinds
@pytest.mark.parametrize("text", ["cat", f"cat{locs(1)}", "<poly>", ""])
def test_forced_end_token_ends_the_answer_in_any_state(kind, text):
    own, constraint = load_tokenizer(kind), compile_for(kind, BOXES_OR_POLYGONS)
    state = constraint.advance(follow(constraint, encode(kind, text)), own.eos_id)
    assert constraint.get_allowed_tokens(state).nonzero().flatten().tolist() == [own.eos_id]


def test_no_token_raises():
    constraint = compile_for("tiny", BOXES_OR_POLYGONS, Constraint(labels=("cat",)))
    states = [
        constraint.start,
        *(follow(constraint, encode("tiny", t)) for t in ("ca", "cat", f"cat{locs(1)}", "cat<poly>")),
    ]
    for state in states:
        for token in [-1, *range(len(constraint.get_allowed_tokens(state)) + 2)]:
            assert constraint.get_allowed_tokens(constraint.advance(state, token)).any()


def test_lower_bounds_of_x2_and_y2():
    """The lower bound of x2 is x1, and that of y2 is y1."""
    constraint = compile_for("tiny", OD)
    first = load_tokenizer("tiny").first_location_id
    for bins, least in (((700, 20), 700), ((700, 20, 800), 20), ((700,), 0), ((), 0)):
        mask = constraint.get_allowed_tokens(follow(constraint, encode("tiny", f"cat{locs(*bins)}")))
        locations = [i - first for i in mask.nonzero().flatten().tolist() if i >= first]
        assert locations[0] == least
        assert all(b - a == 1 for a, b in pairwise(locations))
        assert locations[-1] == 999
