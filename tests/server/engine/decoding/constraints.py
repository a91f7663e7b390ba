"""Helpers for tests of constraints."""

from functools import cache

import pytest
from hypothesis import settings

from prompts.parsing import AnswerParser
from prompts.tasks import TASKS, AnswerKind, find_task
from server.engine.checkpoints.sources import SEEDLING_FOLDER
from server.engine.checkpoints.tokenizer import Tokenizer
from server.engine.decoding.constraint import compile_constraint
from server.engine.decoding.token_masks import TokenMasks
from server.engine.request import Constraint
from tests.prompts.answers import locs
from tests.server.engine.tiny import create_tokenizer

SIZE = (1000, 1000)
UNUSED_IDS = 5  # ids past those of the tokenizer, as in padded checkpoints
LABELS = ("cat", "cat fish", "the tin", "at", "犬", "Übergröße", "don't", "line\nbreak", "x < y", "dog")
SEEDLING = SEEDLING_FOLDER
WITH_LABELS = [
    t
    for t in TASKS.values()
    if t.answer_kind not in (AnswerKind.TEXT, AnswerKind.POLYGONS) and t.token != "<REGION_PROPOSAL>"
]
LABELS_CAN_BE_LISTED = [*WITH_LABELS, TASKS["<REGION_TO_CATEGORY>"], TASKS["<REGION_TO_OCR>"], find_task("<VQA>")]
OD, PROPOSAL, CATEGORY = TASKS["<OD>"], TASKS["<REGION_PROPOSAL>"], TASKS["<REGION_TO_CATEGORY>"]
POLYGON, QUADS, BOXES_OR_POLYGONS = (
    TASKS["<REGION_TO_SEGMENTATION>"],
    TASKS["<OCR_WITH_REGION>"],
    TASKS["<OPEN_VOCABULARY_DETECTION>"],
)
GROUNDING, CAPTION = TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], TASKS["<CAPTION>"]

# The same examples in every run, without a time limit per example.
steady = settings(derandomize=True, deadline=None, max_examples=30)


@cache
def load_tokenizer(kind):
    return Tokenizer(create_tokenizer()) if kind == "tiny" else Tokenizer.from_folder(SEEDLING)


@cache
def load_vocabulary(kind):
    return load_tokenizer(kind).build_vocabulary()


@cache
def compile_for(kind, task, options=Constraint()):
    own = load_tokenizer(kind)
    return compile_constraint(task, options, own, TokenMasks(load_vocabulary(kind), len(own) + UNUSED_IDS))


def encode(kind, text):
    return load_tokenizer(kind).backend.encode(text, add_special_tokens=False).ids


def find_rejected(constraint, ids, state=None):
    """Returns the index of the first of `ids` that is not allowed, or None."""
    state = constraint.start if state is None else state
    for i, token in enumerate(ids):
        if not constraint.get_allowed_tokens(state)[token]:
            return i
        state = constraint.advance(state, token)
    return None


def is_accepted(kind, task, text, options=Constraint()):
    """Returns whether `text` is a complete answer, including its `</s>`."""
    own = load_tokenizer(kind)
    return find_rejected(compile_for(kind, task, options), [own.bos_id, *encode(kind, text), own.eos_id]) is None


def parse(kind, task, ids):
    parser = AnswerParser(task, SIZE)
    annotations = [a for token in ids for a in parser.feed(load_vocabulary(kind)[token])]
    return annotations + parser.finish(), parser.dropped


def follow(constraint, ids):
    state = constraint.start
    for token in ids:
        state = constraint.advance(state, token)
    return state


kinds = pytest.mark.parametrize("kind", ["tiny", "seedling"])
BOX, OTHER, RING = locs(1, 2, 3, 4), locs(5, 6, 5, 6), locs(1, 2, 3, 4, 5, 6)
