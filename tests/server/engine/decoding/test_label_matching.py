"""Labels in constrained answers."""

import random
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prompts.grammar import FILLER_PHRASES
from prompts.tasks import TASKS
from server.engine.checkpoints.tokenizer import Tokenizer
from server.engine.decoding.constraint import compile_constraint
from server.engine.decoding.token_masks import TokenMasks
from server.engine.request import Constraint
from tests.server.engine.decoding.constraints import (
    BOX,
    CAPTION,
    CATEGORY,
    GROUNDING,
    OD,
    OTHER,
    POLYGON,
    PROPOSAL,
    compile_for,
    encode,
    find_rejected,
    follow,
    is_accepted,
    kinds,
    load_tokenizer,
    load_vocabulary,
    parse,
    steady,
)
from tests.server.engine.tiny import create_tokenizer


@kinds
def test_labels_are_spelled_exactly(kind):
    options = Constraint(labels=("cat", "cat fish", "tin", "a", "the"))
    good = ["", f"cat{BOX}", f"cat fish{BOX}", f" cat{BOX} tin{BOX}a{BOX}", f" a{BOX}", f" the{BOX}{OTHER}"]
    bad = ["cat", f"ca{BOX}", f"cats{BOX}", f"cat f{BOX}", f"dog{BOX}", f"at{BOX}", f"  cat{BOX}", f"cat {BOX}", BOX]
    assert [t for t in good if not is_accepted(kind, OD, t, options)] == []
    assert [t for t in bad if is_accepted(kind, OD, t, options)] == []
    assert [t for t in ("", "cat", " cat fish") if not is_accepted(kind, CATEGORY, t, options)] == []
    assert [t for t in ("cats", "cat fis", "cat tin", "cat.", BOX) if is_accepted(kind, CATEGORY, t, options)] == []


def test_first_token_of_an_answer_with_labels():
    own, constraint = load_tokenizer("seedling"), compile_for("seedling", OD, Constraint(labels=("cat", "dog")))
    state = constraint.advance(constraint.start, own.bos_id)
    allowed = {own.backend.id_to_token(i) for i in constraint.get_allowed_tokens(state).nonzero().flatten().tolist()}
    assert allowed == {"cat", "Ġcat", "dog", "Ġdog", "<s>", "</s>"}
    after = constraint.advance(state, own.ids["cat"])
    assert constraint.get_allowed_tokens(after).nonzero().flatten().tolist() == list(
        range(own.first_location_id, own.first_location_id + 1000)
    )


@pytest.mark.parametrize("prefix_space", [False, True])
def test_tokenizer_that_adds_a_prefix_space(prefix_space):
    """Such a tokenizer encodes all labels with the space, and no training sample has labels without it."""
    backend = create_tokenizer()
    backend.pre_tokenizer.add_prefix_space = prefix_space
    own = Tokenizer(backend)
    constraint = compile_constraint(
        OD, Constraint(labels=("a", "犬")), own, TokenMasks(own.build_vocabulary(), len(own))
    )
    ids = backend.encode(f"a{BOX}犬{BOX}a{BOX}", add_special_tokens=False).ids
    assert ids[0] == own.ids["Ġa" if prefix_space else "a"]
    assert find_rejected(constraint, [own.bos_id, *ids, own.eos_id]) is None


phrases = st.one_of(
    st.text("abeit \n", max_size=4),
    st.tuples(st.sampled_from(sorted(FILLER_PHRASES)), st.text(" \nes", max_size=2)).map("".join),
)


@steady
@given(text=phrases, kind=st.sampled_from(["tiny", "seedling"]))
@example(text="the image ", kind="tiny")
@example(text="\x1c each other\u3000", kind="tiny")
def test_phrase_is_forbidden_exactly_when_the_parser_drops_it(text, kind):
    for label in (text, text + " "):
        ids = encode(kind, label + BOX)
        annotations, dropped = parse(kind, GROUNDING, ids)
        is_valid = not dropped and bool(annotations) and bool(annotations[0].label)
        assert (find_rejected(compile_for(kind, GROUNDING), ids) is None) == is_valid


def test_incomplete_character_is_a_label_as_in_the_parser():
    own = load_tokenizer("tiny")
    half = encode("tiny", "犬")[:2]
    ids = [*half, *encode("tiny", BOX)]
    assert parse("tiny", OD, ids) == parse("tiny", OD, encode("tiny", f"\ufffd{BOX}"))
    assert find_rejected(compile_for("tiny", OD), [*ids, own.eos_id]) is None


@pytest.mark.parametrize(
    ("task", "options", "reason"),
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
def test_invalid_constraints_are_rejected(task, options, reason):
    with pytest.raises(ValueError, match=reason):
        compile_for("tiny", task, options)


def test_label_that_the_tokenizer_changes_is_rejected():
    from tokenizers import normalizers

    backend = create_tokenizer()
    backend.normalizer = normalizers.Lowercase()
    own = Tokenizer(backend)
    with pytest.raises(ValueError, match="'Cat' unchanged"):
        compile_constraint(OD, Constraint(labels=("Cat",)), own, TokenMasks(own.build_vocabulary(), len(own)))
    assert compile_constraint(OD, Constraint(labels=("cat",)), own, TokenMasks(own.build_vocabulary(), len(own)))


def test_filler_phrase_is_a_label_in_other_tasks():
    assert is_accepted("tiny", OD, f"it{BOX}", Constraint(labels=("it",)))
    assert is_accepted("tiny", OD, f"it{BOX}")


def test_a_trie_accepts_exactly_its_labels():
    """Random labels of few letters, so that many begin with others."""
    rng = random.Random(0)
    words = {"".join(rng.choices("abc ", k=rng.randint(1, 7))).strip() or "a" for _ in range(400)}
    labels, others = sorted(words)[::2], sorted(words)[1::2]
    options = Constraint(labels=tuple(labels))
    for kind in ("tiny", "seedling"):
        assert [label for label in labels if not is_accepted(kind, OD, f"{label}{BOX} {label}{BOX}", options)] == []
        assert [label for label in others if is_accepted(kind, OD, f"{label}{BOX}", options)] == []


def test_labels_that_are_too_long_or_too_many_are_rejected():
    for labels, reason in (
        (["x" * 513], "513 bytes; the limit of one of the labels is 512"),
        ([f"{i}" for i in range(2001)], "2,001 labels; the limit is 2,000"),
        (["犬" * 100 + f"{i}" for i in range(300)], "the limit is 65,536"),
    ):
        with pytest.raises(ValueError, match=reason):
            compile_for("tiny", OD, Constraint(labels=tuple(labels)))


def test_the_largest_list_is_compiled_within_its_size():
    """`nbytes` bounds what all visited nodes take; tracemalloc counts only what Python allocates."""
    rng = random.Random(1)
    labels = tuple({"".join(rng.choices("abcdefg", k=30)) for _ in range(2000)})
    own = load_tokenizer("tiny")
    masks = TokenMasks(load_vocabulary("tiny"), len(own))
    tracemalloc.start()
    constraint = compile_constraint(OD, Constraint(labels=labels), own, masks)
    for label in labels:
        follow(constraint, encode("tiny", label))
    masks.get_mask.cache_clear()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < constraint.nbytes < 16 << 20
