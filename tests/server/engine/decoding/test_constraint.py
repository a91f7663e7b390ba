"""Which answers a constraint accepts."""

import random
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prompts.annotations import Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.grammar import FILLER_PHRASES
from prompts.tasks import FLORENCE_TASKS, TASKS, AnswerKind, find_task
from prompts.vocabulary import UNUSED_TOKEN, find_special_token
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from server.engine.request import Constraint
from tests.server.engine.decoding.constraints import (
    BOX,
    BOXES_OR_POLYGONS,
    CAPTION,
    CATEGORY,
    GROUNDING,
    LABELS,
    LABELS_CAN_BE_LISTED,
    OD,
    OTHER,
    POLYGON,
    PROPOSAL,
    QUADS,
    RING,
    SIZE,
    UNUSED_IDS,
    WITH_LABELS,
    compile_for,
    encode,
    find_rejected,
    is_accepted,
    kinds,
    load_tokenizer,
    load_vocabulary,
    locs,
    parse,
    steady,
)


def generate_randomly(kind, constraint, rng, steps):
    """Generates random allowed tokens: `steps` of any kind, then the shortest way to the end."""
    own = load_tokenizer(kind)
    letters, locations, others = classify_tokens(kind)
    state, generated = constraint.start, []
    while not generated or generated[-1] != own.eos_id:
        mask = constraint.get_allowed_tokens(state)
        assert mask.dtype == torch.bool
        assert mask.shape == (len(own) + UNUSED_IDS,)
        assert mask.any()
        assert not mask[len(own) :].any()
        if steps > 0:
            # Draws a class first, since nearly all tokens are locations. Rarely ends, to keep the answer going.
            allowed = [mask & c for c in (letters, locations, others) if (mask & c).any()]
            token = own.eos_id
            if allowed and (not mask[own.eos_id] or rng.random() < 0.9):
                token = rng.choice(rng.choice(allowed).nonzero().flatten().tolist())
        else:
            close = own.ids["</poly>"]
            located = mask & locations
            token = rng.choice((located if located.any() else mask).nonzero().flatten().tolist())
            token = own.eos_id if mask[own.eos_id] else close if mask[close] else token
        assert len(generated) < 1000, "the answer cannot end"
        generated.append(token)
        state = constraint.advance(state, token)
        steps -= 1
    # A beam that ended stays in this state.
    assert constraint.get_allowed_tokens(state).nonzero().flatten().tolist() == [own.eos_id]
    assert constraint.advance(state, own.eos_id) == state
    return generated


@cache
def classify_tokens(kind):
    """Returns masks [V] of text tokens, locations, and structure tokens with `<s>`."""
    tokens = [*load_vocabulary(kind), *[UNUSED_TOKEN] * UNUSED_IDS]
    others = torch.tensor([t.structure is not None or t.control == "<s>" for t in tokens])
    return (
        torch.tensor([bool(t.text_bytes) for t in tokens]),
        torch.tensor([t.location is not None for t in tokens]),
        others,
    )


def has_ordered_corners(kind, ids):
    """Returns whether each box starts with its top left corner, so that the parser does not reorder its corners."""
    first = load_tokenizer(kind).first_location_id
    bins = [i - first for i in ids if first <= i < first + 1000]
    boxes = [bins[i : i + 4] for i in range(0, len(bins), 4)]
    return all(len(b) == 4 and b[0] <= b[2] and b[1] <= b[3] for b in boxes)


@kinds
@pytest.mark.parametrize(
    ("task", "labels"),
    [
        *((task, None) for task in (*TASKS.values(), find_task("<VQA>"))),
        *((task, LABELS) for task in LABELS_CAN_BE_LISTED),
    ],
    ids=lambda x: getattr(x, "token", "listed" if x else "free"),
)
def test_every_allowed_answer_is_parsed_without_drops(kind, task, labels):
    rng = random.Random(f"{kind} {task.token} {labels}")
    constraint, seen = compile_for(kind, task, Constraint(labels=labels)), set()
    for _ in range(8):
        ids = generate_randomly(kind, constraint, rng, rng.choice((2, 10, 40)))
        annotations, dropped = parse(kind, task, ids)
        assert dropped == []
        located = [n for n in annotations if not isinstance(n, Text)]
        if labels:
            assert {n.label for n in annotations} <= set(labels)
        elif task in WITH_LABELS:
            assert all(n.label for n in located)
        else:
            assert not any(n.label for n in located)
        if task.answer_kind in (AnswerKind.BOXES, AnswerKind.PHRASES):
            assert has_ordered_corners(kind, ids)
        structure = [i for i in ids if load_vocabulary(kind)[i].structure]
        assert not structure or task.answer_kind in (AnswerKind.POLYGONS, AnswerKind.BOXES_OR_POLYGONS)
        seen |= {type(n) for n in annotations}
    holds = {
        AnswerKind.TEXT: {Text},
        AnswerKind.QUADS: {Quad},
        AnswerKind.POLYGONS: {Polygon},
        AnswerKind.BOXES_OR_POLYGONS: {Box, Polygon},
    }
    assert seen == holds.get(task.answer_kind, {Box})


@kinds
@pytest.mark.parametrize("task", WITH_LABELS, ids=lambda t: t.token)
def test_labels_without_grammar_do_not_constrain_locations(kind, task):
    rng, constraint, faults = (
        random.Random(task.token),
        compile_for(kind, task, Constraint(grammar=False, labels=LABELS)),
        0,
    )
    for _ in range(8):
        ids = generate_randomly(kind, constraint, rng, 40)
        annotations, dropped = parse(kind, task, ids)
        assert {n.label for n in annotations} <= {*LABELS, ""}
        assert not any("the text" in d.what for d in dropped)  # each label has its location
        faults += len(dropped)
    assert faults  # which the grammar would prevent


@kinds
@pytest.mark.parametrize("token", FLORENCE_TASKS)
def test_answers_on_scenes_are_accepted(kind, token):
    rng, task, count = np.random.default_rng(0), TASKS[token], 0
    for scene in draw_scenes():
        sample = samples.make_sample(scene, token, rng)
        if sample is None:
            continue
        count += 1
        text = format_answer(task, sample.answer, (scene.width, scene.height))
        own = load_tokenizer(kind)
        ids = [*encode(kind, text), own.eos_id]
        constraints = [compile_for(kind, task)]
        labels = tuple(dict.fromkeys(n.label for n in sample.answer))
        if task in LABELS_CAN_BE_LISTED and labels:
            constraints.append(compile_for(kind, task, Constraint(labels=labels)))
            constraints.append(compile_for(kind, task, Constraint(grammar=False, labels=labels)))
        for constraint in constraints:
            for starts in (1, 3):  # Florence-2-large generates three
                assert find_rejected(constraint, [own.bos_id] * starts + ids) is None, text
            assert find_rejected(constraint, [own.bos_id] * 4) == 3
    assert count > 3


@cache
def draw_scenes():
    return [
        draw_scene(seed, objects=(seed % 3, 3), words=(0, 2), size=(200, 160), degraded_share=0) for seed in range(8)
    ]


words = st.text(min_size=1, max_size=8).filter(
    lambda t: t.strip() and t.isprintable() and t.strip() not in FILLER_PHRASES and not find_special_token(t)
)
points = st.floats(0, 1000)
rings = st.integers(3, 5).flatmap(lambda n: st.lists(points, min_size=2 * n, max_size=2 * n))


def annotations_of(task, label):
    box = st.builds(Box, label=label, box=st.tuples(*[points] * 4))
    quad = st.builds(Quad, label=label, quad=st.tuples(*[points] * 8))
    polygon = st.builds(Polygon, label=label, polygons=st.lists(rings, min_size=1, max_size=3))
    match task.answer_kind:
        case AnswerKind.TEXT:
            return st.builds(Text, label=label)
        case AnswerKind.QUADS:
            return quad
        case AnswerKind.POLYGONS:
            return polygon
        case AnswerKind.BOXES_OR_POLYGONS:
            return st.one_of(box, polygon)
    return box


@pytest.mark.parametrize(
    "task", [OD, PROPOSAL, GROUNDING, QUADS, POLYGON, BOXES_OR_POLYGONS, CATEGORY], ids=lambda t: t.token
)
@steady
@given(data=st.data(), kind=st.sampled_from(["tiny", "seedling"]))
def test_answers_with_any_labels_are_accepted(kind, task, data):
    without_labels = task in (PROPOSAL, POLYGON)
    labels = data.draw(st.lists(words.map(str.strip), min_size=1, max_size=3))
    label = st.just("") if without_labels else st.sampled_from(labels)
    annotations = data.draw(st.lists(annotations_of(task, label), max_size=1 if task is CATEGORY else 4))
    text = format_answer(task, annotations, SIZE)
    assert is_accepted(kind, task, text)
    if not without_labels:
        assert is_accepted(kind, task, text, Constraint(labels=("zebra", *labels)))


@kinds
@pytest.mark.parametrize(
    ("task", "good", "bad"),
    [
        (
            OD,
            ["", f"cat{BOX}", f"cat{BOX}{OTHER}dog{BOX}", f" cat{BOX} dog{BOX}", f"cat{BOX}cat{BOX}", f"犬{BOX}"],
            ["cat", BOX, f" {BOX}", f"\u2003{BOX}", f"cat{locs(1, 2, 3)}", f"cat{locs(1, 2, 3, 4, 5)}", f"cat{BOX}dog",
             f"cat{locs(3, 2, 1, 4)}", f"cat{locs(1, 4, 3, 2)}", f"cat{locs(1, 2)} {locs(3, 4)}", f"cat{BOX} {BOX}",
             f"cat<poly>{RING}</poly>", f"cat{BOX}<sep>", f"cat<od>{BOX}", f"cat{BOX} ", f"cat<pad>{BOX}"],
        ),
        (PROPOSAL, ["", BOX, BOX + OTHER], [f"cat{BOX}", f"{BOX}cat", locs(1, 2), locs(3, 2, 1, 4), f" {BOX}"]),
        (
            QUADS,
            ["", f"STOP{RING}{locs(0, 0)}", f"a\nb{RING}{locs(0, 0)}a{RING}{locs(9, 9)}"],
            [f"STOP{RING}", f"STOP{BOX}", RING + locs(7, 8), f"a{RING}{locs(7, 8)}{RING}{locs(7, 8)}", "STOP"],
        ),
        (
            POLYGON,
            ["", RING, RING + locs(7, 8), f"{RING}<sep>{RING}", f"<poly>{RING}</poly>",
             f"<poly>{RING}<sep>{RING}{locs(7, 8)}</poly><poly>{RING}</poly>"],
            [RING + locs(7), BOX, f"{RING}<sep>", f"<sep>{RING}", "<poly></poly>", f"<poly>{RING}", f"{RING}</poly>",
             f"<poly>{BOX}</poly>", f"<poly>{RING}</poly>{RING}", f"cat{RING}", f"{RING}<sep>{BOX}", f"{RING}cat",
             f"<poly>{RING}<poly>{RING}</poly>", f"{RING}<poly>{RING}</poly>"],
        ),
        (
            BOXES_OR_POLYGONS,
            ["", f"cat{BOX}", f"cat<poly>{RING}</poly>", f"cat<poly>{RING}</poly>{BOX}", f"cat{BOX}<poly>{RING}</poly>",
             f"cat<poly>{RING}<sep>{RING}</poly><poly>{RING}</poly>dog{BOX}{OTHER}"],
            [BOX, f"<poly>{RING}</poly>", f"cat<poly>{BOX}</poly>", f"cat{RING}", f"cat<poly>{RING}", f"cat{BOX}<sep>",
             f"cat{BOX}</poly>", f"cat<poly>{RING}cat</poly>", f"cat{locs(3, 2, 1, 4)}"],
        ),
        (
            GROUNDING,
            [f"a cat{BOX}", f"them all{BOX}", f"iti{BOX}", f"a group of cats{BOX}", f"each  other{BOX}", f"a  n{BOX}"],
            [f"it{BOX}", f" it{BOX}", f"it \n{BOX}", f"each other{BOX}", f"the{BOX}", BOX, f"a cat{BOX}I{BOX}"],
        ),
        (CAPTION, ["", "a cat", " \n", "犬"], [f"a cat{BOX}", "a<sep>cat", RING, "a<s>a", "a<unk>"]),
    ],
    ids=lambda x: getattr(x, "token", ""),
)  # fmt: skip
def test_answer_formats(kind, task, good, bad):
    assert [t for t in good if not is_accepted(kind, task, t)] == []
    assert [t for t in bad if is_accepted(kind, task, t)] == []
