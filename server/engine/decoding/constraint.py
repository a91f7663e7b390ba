"""Constrained decoding: a finite-state machine that determines which tokens may come next in an answer.

It accepts exactly the answers that `prompts.formatting` writes and `prompts.parsing` reads without dropping anything,
with the labels of the request if it lists any. The empty answer is always accepted: the object is not in the image.
Opt-in, since a constraint can change the answer.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from prompts.grammar import FILLER_PHRASES, POLYGON_END, POLYGON_START, RING_SEPARATOR
from prompts.label_lists import check_label_list
from prompts.tasks import TASKS, UNLABELED_TASK, AnswerKind, Task
from server.engine.checkpoints.tokenizer import Tokenizer
from server.engine.decoding.label_matching import FreeLabel, LabelMatcher, LabelTrie, spell_labels
from server.engine.decoding.token_masks import AllowedTokens, TokenMasks
from server.engine.request import Constraint

State = Hashable

_FIXED_BYTES = 2048  # of a machine without its labels
_MAX_BOS = 3  # Florence-2-large generates `<s>` three times before its answer, and the n-gram ban forbids a fourth
# Tasks whose answer text is a label. Answers to other text tasks of the table are prose; custom tasks of a fine-tuned
# model may have either.
_TEXT_IS_LABEL = ("<REGION_TO_CATEGORY>", "<REGION_TO_OCR>")


# States. Classes rather than tuples, so that no two states of different kinds are equal.
@dataclass(frozen=True, slots=True)
class _Start:
    bos_count: int = 0  # number of `<s>` so far, and nothing else


@dataclass(frozen=True, slots=True)
class _InLabel:
    progress: Hashable


@dataclass(frozen=True, slots=True)
class _InShape:
    count: int = 0  # locations so far; in a ring with more than 6, only whether their number is even (6) or odd (7)
    bins: tuple[int, ...] = ()  # bins of those locations, except in rings
    wrapped: bool = False  # inside <poly>


@dataclass(frozen=True, slots=True)
class _AfterShape:
    ended: bool = False  # whether the whole answer has ended


class CompiledConstraint:
    """The finite-state machine of one task and one constraint. Created by `compile_constraint`.

    `nbytes`: the memory that it can take, for caches.
    """

    start: State = _Start()

    def __init__(
        self,
        answer_kind: AnswerKind,
        grammar: bool,
        labels: LabelMatcher | None,
        tokenizer: Tokenizer,
        masks: TokenMasks,
    ) -> None:
        """`grammar`: whether to enforce number and order of locations. `labels`: None for answers without labels."""
        self._answer_kind, self._grammar, self._labels, self._masks = answer_kind, grammar, labels, masks
        self.nbytes = _FIXED_BYTES + (labels.nbytes if isinstance(labels, LabelTrie) else 0)
        self._bos, self._eos = tokenizer.bos_id, tokenizer.eos_id
        self._poly, self._end_poly, self._separator = (
            tokenizer.ids[token] for token in (POLYGON_START, POLYGON_END, RING_SEPARATOR)
        )

    def get_allowed_tokens(self, state: State) -> Tensor:
        """Returns [V] bool on the CPU: the tokens allowed in `state`, at least one. The mask is cached and shared: do
        not write to it."""
        return self._masks.get_mask(self._find_allowed(state))

    def advance(self, state: State, token: int) -> State:
        """Returns the state after `token`. A token that is not allowed, such as a forced `</s>`, ends the answer."""
        if isinstance(state, _Start) and token == self._bos:
            return _Start(min(state.bos_count + 1, _MAX_BOS))
        if token == self._eos or not 0 <= token < self._masks.size or not self.get_allowed_tokens(state)[token]:
            return _AfterShape(ended=True)
        meaning = self._masks.vocabulary[token]
        if meaning.text_bytes is not None and self._labels:
            progress = state.progress if isinstance(state, _InLabel) else self._labels.start
            return _InLabel(self._labels.advance(progress, token))
        if not self._grammar or token == self._end_poly:
            return _AfterShape()
        shape = state if isinstance(state, _InShape) else _InShape()
        if meaning.location is None:  # <poly>, or <sep> inside a polygon
            return _InShape(wrapped=shape.wrapped or token == self._poly)
        if self._is_ring(shape):
            return _InShape(6 if shape.count == 7 else shape.count + 1, wrapped=shape.wrapped)
        if shape.count + 1 == (8 if self._answer_kind is AnswerKind.QUADS else 4):
            return _AfterShape()
        return _InShape(shape.count + 1, (*shape.bins, meaning.location))

    def _is_ring(self, shape: _InShape) -> bool:
        return shape.wrapped or self._answer_kind is AnswerKind.POLYGONS

    def _find_allowed(self, state: State) -> AllowedTokens:
        kind, mixed = self._answer_kind, AnswerKind.BOXES_OR_POLYGONS
        poly = (self._poly,) if kind in (AnswerKind.POLYGONS, mixed) else ()
        match state:
            case _AfterShape(ended=True):
                return AllowedTokens((self._eos,))
            case _Start(bos_count):
                started = self._allow_between_shapes(*((False, ()) if self._labels else (True, poly)))
                return started if bos_count == _MAX_BOS else started._replace(tokens=(self._bos, *started.tokens))
            case _AfterShape():
                # Boxes may share a label, each quad has its own text, and a further polygon needs its <poly>.
                return self._allow_between_shapes(kind in (AnswerKind.BOXES, AnswerKind.PHRASES, mixed), poly)
            case _InLabel(progress) if self._labels:
                tokens, text = self._labels.list_next_tokens(progress), self._labels.allows_any_text
                if not self._labels.can_end(progress):
                    return AllowedTokens(tokens, None, text)
                if kind is AnswerKind.TEXT:
                    return AllowedTokens((*tokens, self._eos), None, text)
                return AllowedTokens((*tokens, *poly), 0, text)
            case _InShape(6, _, wrapped) if self._is_ring(state):
                return AllowedTokens((self._separator, self._end_poly if wrapped else self._eos), 0)
            case _InShape(2 | 3, bins, _) if kind is not AnswerKind.QUADS and not self._is_ring(state):
                return AllowedTokens(min_bin=bins[-2])  # x2 is at least x1, y2 at least y1
        return AllowedTokens(min_bin=0)

    def _allow_between_shapes(self, locations: bool, structure: tuple[int, ...]) -> AllowedTokens:
        """Allows the end, the start of a label, `structure` tokens and, if set, `locations`."""
        if not self._grammar:
            mixed = self._answer_kind is AnswerKind.BOXES_OR_POLYGONS
            locations, structure = True, (self._poly, self._end_poly, self._separator) if mixed else ()
        label_starts = self._labels.list_next_tokens(self._labels.start) if self._labels else ()
        text = self._labels is not None and self._labels.allows_any_text
        return AllowedTokens((self._eos, *structure, *label_starts), 0 if locations else None, text)


def compile_constraint(
    task: Task, constraint: Constraint, tokenizer: Tokenizer, masks: TokenMasks
) -> CompiledConstraint:
    """Returns the state machine of `task` and `constraint`. `masks`: of the checkpoint.

    Raises ValueError, with what to do, for a combination that makes no sense, and for labels above the limits of
    `prompts.label_lists`.
    """
    if not constraint.grammar and constraint.labels is None:
        raise ValueError("grammar is false and labels is missing, so nothing is constrained; leave constrain out")
    kind = task.answer_kind
    is_text = kind is AnswerKind.TEXT
    has_labels = kind is not AnswerKind.POLYGONS and task.token != UNLABELED_TASK
    if constraint.labels is None:
        excluded = () if is_text else ("", *FILLER_PHRASES) if kind is AnswerKind.PHRASES else ("",)
        free = FreeLabel(masks.vocabulary, excluded) if has_labels else None
        return CompiledConstraint(kind, True, free, tokenizer, masks)
    if not has_labels:
        raise ValueError(f"answers to {task.token} have no labels; leave labels out")
    if is_text and task.token in TASKS and task.token not in _TEXT_IS_LABEL:
        raise ValueError(
            f"answers to {task.token} are free text, not labels; leave labels out, or use {_TEXT_IS_LABEL[0]}"
        )
    if not constraint.labels:
        raise ValueError("labels is empty; name at least one, or leave labels out")
    check_label_list(constraint.labels)
    labels = LabelTrie(spell_labels(task, constraint.labels, tokenizer, masks.vocabulary))
    # Answers of text have no locations, so the grammar is always enforced.
    return CompiledConstraint(kind, constraint.grammar or is_text, labels, tokenizer, masks)
