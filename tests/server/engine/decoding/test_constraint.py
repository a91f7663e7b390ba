import random
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prompts.annotations import Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.grammar import FILLER_PHRASES
from prompts.parsing import AnswerParser
from prompts.tasks import TASKS, AnswerKind, find_task
from prompts.vocabulary import UNUSED_TOKEN, find_special_token
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from server.engine.checkpoints.sources import SEEDLING_FOLDER
from server.engine.checkpoints.tokenizer import Tokenizer
from server.engine.decoding.constraint import compile_constraint
from server.engine.request import Constraint
from tests.server.engine.tiny import create_tokenizer

SIZE = (1000, 1000)
SPARE = 5  # ids past the tokenizer's, as in padded checkpoints
LABELS = ("cat", "cat fish", "the tin", "at", "犬", "Übergröße", "don't", "line\nbreak", "x < y", "dog")
SEEDLING = SEEDLING_FOLDER
LABELLED = [
    t
    for t in TASKS.values()
    if t.answer_kind not in (AnswerKind.TEXT, AnswerKind.POLYGONS) and t.token != "<REGION_PROPOSAL>"
]
NAMED = [*LABELLED, TASKS["<REGION_TO_CATEGORY>"], TASKS["<REGION_TO_OCR>"], find_task("<VQA>")]
OD, PROPOSAL, CATEGORY = TASKS["<OD>"], TASKS["<REGION_PROPOSAL>"], TASKS["<REGION_TO_CATEGORY>"]
POLYGON, QUADS, ANY = (
    TASKS["<REGION_TO_SEGMENTATION>"],
    TASKS["<OCR_WITH_REGION>"],
    TASKS["<OPEN_VOCABULARY_DETECTION>"],
)
GROUNDING, CAPTION = TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], TASKS["<CAPTION>"]

# The same examples every run, and no time limit an example: the machine may be busy.
steady = settings(derandomize=True, deadline=None, max_examples=30)


@cache
def tokenizer(kind):
    return Tokenizer(create_tokenizer()) if kind == "tiny" else Tokenizer.from_folder(SEEDLING)


@cache
def vocabulary(kind):
    return tokenizer(kind).build_vocabulary()


@cache
def made(kind, task, constrain=Constraint()):
    own = tokenizer(kind)
    return compile_constraint(task, constrain, own, vocabulary(kind), len(own) + SPARE)


def ids_of(kind, text):
    return tokenizer(kind).backend.encode(text, add_special_tokens=False).ids


def locs(*bins):
    return "".join(f"<loc_{k}>" for k in bins)


def refused(machine, ids, state=None):
    """The first of `ids` that may not come, by its index; None when all may."""
    state = machine.start if state is None else state
    for i, token in enumerate(ids):
        if not machine.get_allowed_tokens(state)[token]:
            return i
        state = machine.advance(state, token)
    return None


def accepts(kind, task, text, constrain=Constraint()):
    """Whether `text` is a whole answer. All but its `</s>` being fine is not the same as a fault in the middle."""
    own = tokenizer(kind)
    return refused(made(kind, task, constrain), [own.bos_id, *ids_of(kind, text), own.eos_id]) is None


kinds = pytest.mark.parametrize("kind", ["tiny", "seedling"])


# What is let through is well-formed


def walk(kind, machine, rng, steps):
    """Allowed tokens by chance, first a while of any, then straight to the end."""
    own = tokenizer(kind)
    letters, places, others = classes(kind)
    state, said = machine.start, []
    while not said or said[-1] != own.eos_id:
        mask = machine.get_allowed_tokens(state)
        assert mask.dtype == torch.bool
        assert mask.shape == (len(own) + SPARE,)
        assert mask.any()
        assert not mask[len(own) :].any()
        if steps > 0:
            # By class first: chosen from all alike, nearly all would be locations. Ends are rare: they cut the walk.
            may = [mask & c for c in (letters, places, others) if (mask & c).any()]
            token = own.eos_id
            if may and (not mask[own.eos_id] or rng.random() < 0.9):
                token = rng.choice(rng.choice(may).nonzero().flatten().tolist())
        else:
            close = own.ids["</poly>"]
            located = mask & places
            token = rng.choice((located if located.any() else mask).nonzero().flatten().tolist())
            token = own.eos_id if mask[own.eos_id] else close if mask[close] else token
        assert len(said) < 1000, "no way out"
        said.append(token)
        state = machine.advance(state, token)
        steps -= 1
    assert machine.get_allowed_tokens(state).nonzero().flatten().tolist() == [
        own.eos_id
    ]  # and so it stays, for a beam that ended
    assert machine.advance(state, own.eos_id) == state
    return said


@cache
def classes(kind):
    """[V] each: letters, locations, and structure with `<s>`."""
    tokens = [*vocabulary(kind), *[UNUSED_TOKEN] * SPARE]
    others = torch.tensor([t.structure is not None or t.control == "<s>" for t in tokens])
    return (
        torch.tensor([bool(t.text_bytes) for t in tokens]),
        torch.tensor([t.location is not None for t in tokens]),
        others,
    )


def read(kind, task, ids):
    parser = AnswerParser(task, SIZE)
    annotations = [a for token in ids for a in parser.feed(vocabulary(kind)[token])]
    return annotations + parser.finish(), parser.dropped


def in_order(kind, ids):
    """Whether each box was said top left first, not turned upright by the reader."""
    first = tokenizer(kind).first_location_id
    bins = [i - first for i in ids if first <= i < first + 1000]
    boxes = [bins[i : i + 4] for i in range(0, len(bins), 4)]
    return all(len(b) == 4 and b[0] <= b[2] and b[1] <= b[3] for b in boxes)


@kinds
@pytest.mark.parametrize(
    ("task", "labels"),
    [*((task, None) for task in (*TASKS.values(), find_task("<VQA>"))), *((task, LABELS) for task in NAMED)],
    ids=lambda x: getattr(x, "token", "listed" if x else "free"),
)
def test_any_walk_is_read_with_nothing_dropped(kind, task, labels):
    rng = random.Random(f"{kind} {task.token} {labels}")
    machine, seen = made(kind, task, Constraint(labels=labels)), set()
    for _ in range(8):
        ids = walk(kind, machine, rng, rng.choice((2, 10, 40)))
        notes, dropped = read(kind, task, ids)
        assert dropped == []
        located = [n for n in notes if not isinstance(n, Text)]
        if labels:
            assert {n.label for n in notes} <= set(labels)
        elif task in LABELLED:
            assert all(n.label for n in located)
        else:
            assert not any(n.label for n in located)
        if task.answer_kind in (AnswerKind.BOXES, AnswerKind.PHRASES):
            assert in_order(kind, ids)
        structure = [i for i in ids if vocabulary(kind)[i].structure]
        assert not structure or task.answer_kind in (AnswerKind.POLYGONS, AnswerKind.BOXES_OR_POLYGONS)
        seen |= {type(n) for n in notes}
    holds = {
        AnswerKind.TEXT: {Text},
        AnswerKind.QUADS: {Quad},
        AnswerKind.POLYGONS: {Polygon},
        AnswerKind.BOXES_OR_POLYGONS: {Box, Polygon},
    }
    assert seen == holds.get(task.answer_kind, {Box})


@kinds
@pytest.mark.parametrize("task", LABELLED, ids=lambda t: t.token)
def test_labels_alone_leave_locations_free(kind, task):
    rng, machine, faults = random.Random(task.token), made(kind, task, Constraint(grammar=False, labels=LABELS)), 0
    for _ in range(8):
        ids = walk(kind, machine, rng, 40)
        notes, dropped = read(kind, task, ids)
        assert {n.label for n in notes} <= {*LABELS, ""}
        assert not any("the text" in d.what for d in dropped)  # a label is never left without its location
        faults += len(dropped)
    assert faults  # which the grammar would have kept out


# What is taught is let through


@kinds
@pytest.mark.parametrize("token", TASKS)
def test_answers_on_scenes_are_accepted(kind, token):
    rng, task, asked = np.random.default_rng(0), TASKS[token], 0
    for scene in scenes():
        question = samples.make_sample(scene, token, rng)
        if question is None:
            continue
        asked += 1
        text = format_answer(task, question.answer, (scene.width, scene.height))
        own = tokenizer(kind)
        ids = [*ids_of(kind, text), own.eos_id]
        machines = [made(kind, task)]
        labels = tuple(dict.fromkeys(n.label for n in question.answer))
        if task in NAMED and labels:
            machines.append(made(kind, task, Constraint(labels=labels)))
            machines.append(made(kind, task, Constraint(grammar=False, labels=labels)))
        for machine in machines:
            for starts in (1, 3):  # large says three
                assert refused(machine, [own.bos_id] * starts + ids) is None, text
            assert refused(machine, [own.bos_id] * 4) == 3
    assert asked > 3


@cache
def scenes():
    return [
        draw_scene(seed, objects=(seed % 3, 3), words=(0, 2), size=(200, 160), degraded_share=0) for seed in range(8)
    ]


words = st.text(min_size=1, max_size=8).filter(
    lambda t: t.strip() and t.isprintable() and t.strip() not in FILLER_PHRASES and not find_special_token(t)
)
points = st.floats(0, 1000)
rings = st.integers(3, 5).flatmap(lambda n: st.lists(points, min_size=2 * n, max_size=2 * n))


def shapes(task, label):
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


@pytest.mark.parametrize("task", [OD, PROPOSAL, GROUNDING, QUADS, POLYGON, ANY, CATEGORY], ids=lambda t: t.token)
@steady
@given(data=st.data(), kind=st.sampled_from(["tiny", "seedling"]))
def test_answers_with_any_labels_are_accepted(kind, task, data):
    nameless = task in (PROPOSAL, POLYGON)
    few = data.draw(st.lists(words.map(str.strip), min_size=1, max_size=3))
    label = st.just("") if nameless else st.sampled_from(few)
    notes = data.draw(st.lists(shapes(task, label), max_size=1 if task is CATEGORY else 4))
    text = format_answer(task, notes, SIZE)
    assert accepts(kind, task, text)
    if not nameless:
        assert accepts(kind, task, text, Constraint(labels=("zebra", *few)))


# By hand

BOX, OTHER, RING = locs(1, 2, 3, 4), locs(5, 6, 5, 6), locs(1, 2, 3, 4, 5, 6)


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
            ANY,
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
def test_the_form(kind, task, good, bad):
    assert [t for t in good if not accepts(kind, task, t)] == []
    assert [t for t in bad if accepts(kind, task, t)] == []


@kinds
def test_labels_are_spelt_to_their_end_and_no_further(kind):
    constrain = Constraint(labels=("cat", "cat fish", "tin", "a", "the"))
    good = ["", f"cat{BOX}", f"cat fish{BOX}", f" cat{BOX} tin{BOX}a{BOX}", f" a{BOX}", f" the{BOX}{OTHER}"]
    bad = ["cat", f"ca{BOX}", f"cats{BOX}", f"cat f{BOX}", f"dog{BOX}", f"at{BOX}", f"  cat{BOX}", f"cat {BOX}", BOX]
    assert [t for t in good if not accepts(kind, OD, t, constrain)] == []
    assert [t for t in bad if accepts(kind, OD, t, constrain)] == []
    assert [t for t in ("", "cat", " cat fish") if not accepts(kind, CATEGORY, t, constrain)] == []
    assert [t for t in ("cats", "cat fis", "cat tin", "cat.", BOX) if accepts(kind, CATEGORY, t, constrain)] == []


def test_the_first_token_of_a_labelled_answer():
    own, machine = tokenizer("seedling"), made("seedling", OD, Constraint(labels=("cat", "dog")))
    state = machine.advance(machine.start, own.bos_id)
    may = {own.backend.id_to_token(i) for i in machine.get_allowed_tokens(state).nonzero().flatten().tolist()}
    assert may == {"cat", "Ġcat", "dog", "Ġdog", "<s>", "</s>"}
    after = machine.advance(state, own.ids["cat"])
    assert machine.get_allowed_tokens(after).nonzero().flatten().tolist() == list(
        range(own.first_location_id, own.locations + 1000)
    )


@pytest.mark.parametrize("prefix_space", [False, True])
def test_a_tokenizer_that_puts_a_space_before_words(prefix_space):
    """Then labels come with it, however they are written; no label without one is ever taught."""
    backend = create_tokenizer()
    backend.pre_tokenizer.add_prefix_space = prefix_space
    own = Tokenizer(backend)
    machine = compile_constraint(OD, Constraint(labels=("a", "犬")), own, own.build_vocabulary(), len(own))
    ids = backend.encode(f"a{BOX}犬{BOX}a{BOX}", add_special_tokens=False).ids
    assert ids[0] == own.ids["Ġa" if prefix_space else "a"]
    assert refused(machine, [own.bos_id, *ids, own.eos_id]) is None


phrases = st.one_of(
    st.text("abeit \n", max_size=4),
    st.tuples(st.sampled_from(sorted(FILLER_PHRASES)), st.text(" \nes", max_size=2)).map("".join),
)


@steady
@given(text=phrases, kind=st.sampled_from(["tiny", "seedling"]))
@example(text="the image ", kind="tiny")
@example(text="\x1c each other\u3000", kind="tiny")
def test_a_phrase_is_barred_where_the_reader_drops_it(text, kind):
    for label in (text, text + " "):
        ids = ids_of(kind, label + BOX)
        notes, dropped = read(kind, GROUNDING, ids)
        sound = not dropped and bool(notes) and bool(notes[0].label)
        assert (refused(made(kind, GROUNDING), ids) is None) == sound


def test_half_a_letter_is_a_label_since_the_reader_takes_it_for_one():
    own = tokenizer("tiny")
    half = ids_of("tiny", "犬")[:2]
    ids = [*half, *ids_of("tiny", BOX)]
    assert read("tiny", OD, ids) == read("tiny", OD, ids_of("tiny", f"\ufffd{BOX}"))
    assert refused(made("tiny", OD), [*ids, own.eos_id]) is None


# Masks


@kinds
def test_masks_are_kept(kind):
    own = tokenizer(kind)
    for task, constrain in ((OD, Constraint()), (OD, Constraint(labels=LABELS))):
        # Two automata's worth of states, each reached twice on ways of their own.
        machine = made(kind, task, constrain)
        walks = [machine.start, machine.start]
        ids = [own.bos_id, *ids_of(kind, f"cat{BOX}{OTHER}dog{locs(1, 2, 3, 4)}")]
        for token in ids:
            masks = [machine.get_allowed_tokens(s) for s in walks]
            assert masks[0] is masks[1]
            walks = [machine.advance(s, token) for s in walks]
        assert walks[0] == walks[1]
        assert hash(walks[0]) == hash(walks[1])
    # Another place, the same situation: in a label, and at the same lower bound.
    free = made(kind, OD)
    one, two = (follow(free, ids_of(kind, t)) for t in ("cat", f"cat{BOX}dogs"))
    assert free.get_allowed_tokens(one) is free.allowed(two)
    one, two = (follow(free, ids_of(kind, f"cat{locs(*b)}")) for b in ((7, 1), (3, 7, 9)))
    assert free.get_allowed_tokens(one) is free.allowed(two)


def follow(machine, ids):
    state = machine.start
    for token in ids:
        state = machine.advance(state, token)
    return state


def test_masks_take_bounded_memory():
    machine = made("tiny", OD)
    for least in range(1000):
        assert (
            int(machine.get_allowed_tokens(follow(machine, ids_of("tiny", f"cat{locs(least, 0)}"))).sum())
            == 1000 - least
        )
    info = machine.get_mask.cache_info()
    assert info.maxsize is not None
    assert info.currsize <= info.maxsize < 1000


def test_states_of_different_places_differ():
    """What a state means hangs on more than its numbers."""
    texts = ["", "cat", f"cat{locs(6)}", f"cat{BOX}", "cat<poly>", f"cat<poly>{locs(6)}", f"cat<poly>{RING}"]
    machine = made("tiny", ANY)
    states = [follow(machine, ids_of("tiny", t)) for t in texts]
    assert len(set(states)) == len(states)


@kinds
@pytest.mark.parametrize("text", ["cat", f"cat{locs(1)}", "<poly>", ""])
def test_a_forced_end_ends_it_anywhere(kind, text):
    own, machine = tokenizer(kind), made(kind, ANY)
    state = machine.advance(follow(machine, ids_of(kind, text)), own.eos_id)
    assert machine.get_allowed_tokens(state).nonzero().flatten().tolist() == [own.eos_id]


def test_no_token_raises():
    machine = made("tiny", ANY, Constraint(labels=("cat",)))
    states = [machine.start, *(follow(machine, ids_of("tiny", t)) for t in ("ca", "cat", f"cat{locs(1)}", "cat<poly>"))]
    for state in states:
        for token in [-1, *range(len(machine.get_allowed_tokens(state)) + 2)]:
            assert machine.get_allowed_tokens(machine.advance(state, token)).any()


# What cannot be asked


@pytest.mark.parametrize(
    ("task", "constrain", "reason"),
    [
        (OD, Constraint(grammar=False), "leave constrain out"),
        (OD, Constraint(labels=()), "name at least one"),
        (PROPOSAL, Constraint(labels=("cat",)), "no labels"),
        (POLYGON, Constraint(labels=("cat",)), "no labels"),
        (POLYGON, Constraint(labels=()), "no labels"),
        (TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], Constraint(grammar=False, labels=("cat",)), "no labels"),
        (CAPTION, Constraint(labels=("cat",)), "free text"),
        (TASKS["<OCR>"], Constraint(labels=("cat",)), "free text"),
        (TASKS["<REGION_TO_DESCRIPTION>"], Constraint(labels=("cat",)), "free text"),
        (OD, Constraint(labels=("cat", "")), "blank"),
        (OD, Constraint(labels=(" \n",)), "blank"),
        (OD, Constraint(labels=(" cat",)), "white space"),
        (OD, Constraint(labels=("cat\u3000",)), "white space"),
        (OD, Constraint(labels=("cat<loc_5>",)), "<loc_5>"),
        (CATEGORY, Constraint(labels=("a</s>",)), "</s>"),
        (OD, Constraint(labels=("a<poly>",)), "<poly>"),
        (OD, Constraint(labels=("a\ud800",)), "surrogate"),
        (GROUNDING, Constraint(labels=("a cat", "the image")), "filler"),
    ],
)
def test_what_makes_no_sense_is_refused(task, constrain, reason):
    with pytest.raises(ValueError, match=reason):
        made("tiny", task, constrain)


def test_a_label_that_the_tokenizer_changes_is_refused():
    from tokenizers import normalizers

    backend = create_tokenizer()
    backend.normalizer = normalizers.Lowercase()
    own = Tokenizer(backend)
    with pytest.raises(ValueError, match="'Cat' unchanged"):
        compile_constraint(OD, Constraint(labels=("Cat",)), own, own.build_vocabulary(), len(own))
    assert compile_constraint(OD, Constraint(labels=("cat",)), own, own.build_vocabulary(), len(own))


def test_a_filler_is_a_label_where_it_is_not_a_phrase():
    assert accepts("tiny", OD, f"it{BOX}", Constraint(labels=("it",)))
    assert accepts("tiny", OD, f"it{BOX}")


def test_bounds_hold_for_every_pair():
    """The least x2 is x1, the least y2 is y1: each its own, not the other's."""
    machine = made("tiny", OD)
    first = tokenizer("tiny").first_location_id
    for bins, least in (((700, 20), 700), ((700, 20, 800), 20), ((700,), 0), ((), 0)):
        mask = machine.get_allowed_tokens(follow(machine, ids_of("tiny", f"cat{locs(*bins)}")))
        places = [i - first for i in mask.nonzero().flatten().tolist() if i >= first]
        assert places[0] == least
        assert all(b - a == 1 for a, b in pairwise(places))
        assert places[-1] == 999
