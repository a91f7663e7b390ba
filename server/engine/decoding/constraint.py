"""Constrained decoding: which tokens may come next, so that an answer keeps its task's form and the project's labels.

Opt-in, since it changes what the model says. An automaton walks the ids that follow the decoder's start token and says
for each place what may come: exactly the answers that `prompts.targets` writes and `prompts.grammar` reads without
dropping anything, so that the same rules stand there in other words. The empty answer is one of them in every task:
nothing of the kind is in the picture.
"""

import codecs
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from prompts.grammar import FILLERS, SEPARATOR, UNWRAP, WRAP
from prompts.tasks import LOCATIONS, TASKS, Gives, Task
from prompts.vocabulary import Vocabulary, special_in
from server.engine.tokenizer import Tokenizer

State = Hashable

_KEPT = 256  # masks an automaton keeps, least recently used out: 13 MB at 51,328 ids
_STARTS = 3  # large says `<s>` three times before its answer, and the ban on repeats stops a fourth
_NAMELESS = "<REGION_PROPOSAL>"
# The texts that are one name. The others are prose or whole pages; a fine-tuned model's own task may be anything.
_NAMES = ("<REGION_TO_CATEGORY>", "<REGION_TO_OCR>")


@dataclass(frozen=True, slots=True)
class Constrain:
    """What a request asks. `grammar`: locations come in the number and order that the answer's form needs;
    `labels`: labels may only be these."""

    grammar: bool = True
    labels: tuple[str, ...] | None = None


class _Free:
    """Labels of any letters but `barred`: those that the reader would not take for labels."""

    letters = True
    start: Hashable = ("", b"")

    def __init__(self, vocabulary: Vocabulary, barred: Iterable[str]) -> None:
        self._vocabulary, self._barred = vocabulary, frozenset(barred)
        self._prefixes = {label[:i] for label in self._barred for i in range(len(label) + 1)}

    def next(self, word: Hashable, token: int) -> Hashable:
        """`word`: the text so far with the bytes of an unfinished letter, while it may yet be barred; then None."""
        if not isinstance(word, tuple):
            return None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = (word[0] + decoder.decode(word[1] + (self._vocabulary[token].letters or b""))).lstrip()
        if text not in self._prefixes:
            if text.rstrip() not in self._barred:
                return None
            text = text.rstrip() + "  "  # barred, and more white space changes nothing: one state for all of it
        return text, decoder.getstate()[0]

    def ends(self, word: Hashable) -> bool:
        # A letter that is cut short is read as a replacement character, which no barred label holds.
        return not isinstance(word, tuple) or bool(word[1]) or word[0].strip() not in self._barred

    def tokens(self, word: Hashable) -> tuple[int, ...]:
        return ()


class _Listed:
    """Labels of a list: a trie of the ids that spell them, walked by node number."""

    letters = False
    start: Hashable = 0

    def __init__(self, spellings: Iterable[tuple[int, ...]]) -> None:
        self._nodes: list[dict[int, int]] = [{}]
        self._ends: set[Hashable] = set()
        for spelling in spellings:
            node = 0
            for token in spelling:
                if token not in self._nodes[node]:
                    self._nodes[node][token] = len(self._nodes)
                    self._nodes.append({})
                node = self._nodes[node][token]
            self._ends.add(node)
        self._tokens = [tuple(node) for node in self._nodes]

    def next(self, word: Hashable, token: int) -> Hashable:
        return self._nodes[word][token] if isinstance(word, int) else None

    def ends(self, word: Hashable) -> bool:
        return word in self._ends

    def tokens(self, word: Hashable) -> tuple[int, ...]:
        return self._tokens[word] if isinstance(word, int) else ()


# The places in an answer. Classes rather than tuples, so that no two of different kinds are equal.
@dataclass(frozen=True, slots=True)
class _Start:
    said: int = 0  # times `<s>`, and nothing else


@dataclass(frozen=True, slots=True)
class _Name:
    word: Hashable  # the label so far


@dataclass(frozen=True, slots=True)
class _Shape:
    count: int = 0  # locations so far; of a ring, past six, only even (6) or odd (7)
    bins: tuple[int, ...] = ()  # those locations, but of rings
    wrapped: bool = False  # within <poly>


@dataclass(frozen=True, slots=True)
class _Placed:
    ended: bool = False  # after the answer; else after a whole shape


class _May(NamedTuple):
    """What may come: these ids, the locations from bin `least` on, any letters."""

    tokens: tuple[int, ...] = ()
    least: int | None = None
    letters: bool = False


class Automaton:
    """What may follow what in the answers to one task under one constraint. Made by `automaton`."""

    start: State = _Start()

    def __init__(
        self, gives: Gives, strict: bool, naming: _Free | _Listed | None, tokenizer: Tokenizer, vocabulary: Vocabulary,
        size: int,
    ) -> None:  # fmt: skip
        """`strict`: locations come in the form's number and order; `naming`: None where the answer has no labels."""
        self._gives, self._strict, self._naming, self._vocabulary = gives, strict, naming, vocabulary
        self._bos, self._eos = tokenizer.bos, tokenizer.eos
        self._wrap, self._unwrap, self._separator = (tokenizer.ids[t] for t in (WRAP, UNWRAP, SEPARATOR))
        tokens = [vocabulary[i] for i in range(size)]
        self._letters = torch.tensor([bool(token.letters) for token in tokens])
        self._bins = torch.tensor([-1 if token.location is None else token.location for token in tokens])
        self._mask = lru_cache(_KEPT)(self._build)

    def allowed(self, state: State) -> Tensor:
        """[V] bool on the CPU: what may come in `state`, at least one id. It is kept and shared; never write to it."""
        return self._mask(self._may(state))

    def next(self, state: State, token: int) -> State:
        """Where `token` leads. One that is not allowed, as a forced `</s>` may be, ends the answer; none raises."""
        if isinstance(state, _Start) and token == self._bos:
            return _Start(min(state.said + 1, _STARTS))
        if token == self._eos or not 0 <= token < len(self._bins) or not self.allowed(state)[token]:
            return _Placed(ended=True)
        told = self._vocabulary[token]
        if told.letters is not None and self._naming:
            return _Name(self._naming.next(state.word if isinstance(state, _Name) else self._naming.start, token))
        if not self._strict or token == self._unwrap:
            return _Placed()
        shape = state if isinstance(state, _Shape) else _Shape()
        if told.location is None:  # <poly>, or <sep> within a ring
            return _Shape(wrapped=shape.wrapped or token == self._wrap)
        if self._is_ring(shape):
            return _Shape(6 if shape.count == 7 else shape.count + 1, wrapped=shape.wrapped)
        if shape.count + 1 == (8 if self._gives is Gives.QUADS else 4):
            return _Placed()
        return _Shape(shape.count + 1, (*shape.bins, told.location))

    def _is_ring(self, shape: _Shape) -> bool:
        return shape.wrapped or self._gives is Gives.POLYGONS

    def _may(self, state: State) -> _May:
        wrap = (self._wrap,) if self._gives in (Gives.POLYGONS, Gives.ANY) else ()
        match state:
            case _Placed(ended=True):
                return _May((self._eos,))
            case _Start(said):
                started = self._between(*((False, ()) if self._naming else (True, wrap)))
                return started if said == _STARTS else started._replace(tokens=(self._bos, *started.tokens))
            case _Placed():
                # Boxes may share a label, the words of a quad are its own, and a further polygon needs its wrapper.
                return self._between(self._gives in (Gives.BOXES, Gives.PHRASES, Gives.ANY), wrap)
            case _Name(word) if self._naming:
                tokens, letters = self._naming.tokens(word), self._naming.letters
                if not self._naming.ends(word):
                    return _May(tokens, None, letters)
                if self._gives is Gives.TEXT:
                    return _May((*tokens, self._eos), None, letters)
                return _May((*tokens, *wrap), 0, letters)
            case _Shape(6, _, wrapped) if self._is_ring(state):
                return _May((self._separator, self._unwrap if wrapped else self._eos), 0)
            case _Shape(2 | 3, bins, _) if self._gives is not Gives.QUADS and not self._is_ring(state):
                return _May(least=bins[-2])  # x2 is no less than x1, y2 no less than y1
        return _May(least=0)

    def _between(self, bare: bool, wrap: tuple[int, ...]) -> _May:
        """Where the answer may end, name, or, when `bare`, go on with a location; `wrap`: the structure tokens."""
        if not self._strict:
            bare, wrap = True, (self._wrap, self._unwrap, self._separator) if self._gives is Gives.ANY else ()
        named = self._naming.tokens(self._naming.start) if self._naming else ()
        letters = self._naming is not None and self._naming.letters
        return _May((self._eos, *wrap, *named), 0 if bare else None, letters)

    def _build(self, may: _May) -> Tensor:
        mask = self._letters.clone() if may.letters else torch.zeros_like(self._letters)
        if may.least is not None:
            mask |= self._bins >= may.least
        mask[list(may.tokens)] = True
        return mask


def automaton(task: Task, constrain: Constrain, tokenizer: Tokenizer, vocabulary: Vocabulary, size: int) -> Automaton:
    """The automaton of `task` under `constrain`. `size`: V, the rows of lm_head.

    Raises ValueError, which says what to do, for a combination that makes no sense.
    """
    if not constrain.grammar and constrain.labels is None:
        raise ValueError("grammar is off and there are no labels, so nothing is constrained; leave constrain out")
    text = task.gives is Gives.TEXT
    labelled = task.gives is not Gives.POLYGONS and task.token != _NAMELESS
    if constrain.labels is None:
        barred = () if text else ("", *FILLERS) if task.gives is Gives.PHRASES else ("",)
        naming = _Free(vocabulary, barred) if labelled else None
        return Automaton(task.gives, True, naming, tokenizer, vocabulary, size)
    if not labelled:
        raise ValueError(f"the answer to {task.token} carries no labels; leave labels out")
    if text and task.token in TASKS and task.token not in _NAMES:
        raise ValueError(f"the answer to {task.token} is free text, no label; leave labels out, or ask {_NAMES[0]}")
    if not constrain.labels:
        raise ValueError("labels is empty; name at least one, or leave labels out")
    spellings = [s for label in constrain.labels for s in _spellings(task, label, tokenizer, vocabulary)]
    # A text has no locations to set free.
    return Automaton(task.gives, constrain.grammar or text, _Listed(spellings), tokenizer, vocabulary, size)


def _spellings(task: Task, label: str, tokenizer: Tokenizer, vocabulary: Vocabulary) -> set[tuple[int, ...]]:
    """The ids of `label` wherever it may stand: with a space before it and without.

    It is encoded with the location that follows. What stands before it is a token of its own or nothing, which a
    tokenizer tells apart in no way: it splits there first. Raises ValueError for what would not be read back as the
    same label.
    """
    shown = repr(label if len(label) <= 60 else label[:59] + "…")
    if not label.strip():
        raise ValueError(f"the label {shown} is blank; take it out")
    if label != label.strip():
        raise ValueError(f"the label {shown} has white space around it, which answers lose; take it away")
    if special := special_in(label):
        raise ValueError(f"the label {shown} holds the reserved token {special}; write it otherwise")
    if task.gives is Gives.PHRASES and label in FILLERS:
        raise ValueError(f"the label {shown} is a pronoun or filler, which a grounding leaves out; take it out")
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the label {shown} holds half a character (a lone surrogate); write it anew") from error
    after = "" if task.gives is Gives.TEXT else LOCATIONS[0]
    found = set()
    for written in (label, " " + label):
        ids = tokenizer.backend.encode(written + after, add_special_tokens=False).ids
        spelling = tuple(i for i in ids if vocabulary[i].location is None)
        letters = [vocabulary[i].letters for i in spelling]
        if None in letters or b"".join(filter(None, letters)).strip() != label.encode():
            raise ValueError(f"the tokenizer cannot write the label {shown} unchanged; use other characters")
        found.add(spelling)
    return found
