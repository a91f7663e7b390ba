"""Matches the token ids of a label: any text, or one of a list."""

import codecs
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from prompts.grammar import FILLER_PHRASES
from prompts.special_tokens import LOCATION_TOKENS
from prompts.tasks import AnswerKind, Task
from prompts.text import truncate
from prompts.vocabulary import Vocabulary, find_special_token
from server.engine.checkpoints.tokenizer import Tokenizer

TOKEN_TYPE = np.dtype(">u4")  # most significant byte first
_BYTES_PER_SPELLING = 1000  # at most, with the label itself and the node where it leaves the others
_NOT_TEXT = b"\xff"  # not part of any text in UTF-8


class FreeLabel:
    """Matches a label of any text except `excluded`: texts that the parser does not accept as labels."""

    allows_any_text = True
    start: Hashable = ("", b"")

    def __init__(self, vocabulary: Vocabulary, excluded: Iterable[str]) -> None:
        self._vocabulary, self._excluded = vocabulary, frozenset(excluded)
        self._prefixes = {label[:i] for label in self._excluded for i in range(len(label) + 1)}

    def advance(self, progress: Hashable, token: int) -> Hashable:
        """Returns the progress after `token`.

        The progress is the text so far and the bytes of an incomplete character while the label may still become an
        excluded one, then None.
        """
        if not isinstance(progress, tuple):
            return None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = (progress[0] + decoder.decode(progress[1] + (self._vocabulary[token].text_bytes or b""))).lstrip()
        if text not in self._prefixes:
            if text.rstrip() not in self._excluded:
                return None
            text = text.rstrip() + "  "  # one state for an excluded label with any amount of white space after it
        return text, decoder.getstate()[0]

    def can_end(self, progress: Hashable) -> bool:
        """Returns whether the label may end here."""
        # The parser reads an incomplete character as a replacement character, which no excluded label contains.
        return not isinstance(progress, tuple) or bool(progress[1]) or progress[0].strip() not in self._excluded

    def list_next_tokens(self, progress: Hashable) -> tuple[int, ...]:
        return ()


class LabelTrie:
    """Matches one of a list of labels. The progress is a node of the trie of their token ids.

    The trie is a sorted list of spellings, and a node is the range of those that begin with its tokens. That takes 4
    bytes per token until a node is visited; a dictionary per node would take 300.
    """

    allows_any_text = False

    def __init__(self, spellings: Iterable[bytes]) -> None:
        """`spellings`: token ids as TOKEN_TYPE, so that their order is that of their bytes."""
        self._spellings = sorted(set(spellings))
        self.start = _TrieNode(0, len(self._spellings), 0)
        self._branches: dict[_TrieNode, _Branches] = {}  # of the nodes visited so far, if they have several
        tokens = sum(map(len, self._spellings)) // TOKEN_TYPE.itemsize
        self.nbytes = tokens * TOKEN_TYPE.itemsize + len(self._spellings) * _BYTES_PER_SPELLING

    def advance(self, progress: Hashable, token: int) -> Hashable:
        """Returns the node after `token`, which must be one of `list_next_tokens`."""
        if not isinstance(progress, _TrieNode):
            return None
        tokens, ends = self._find_branches(progress)
        index = bisect_left(tokens, token)
        first = ends[index - 1] if index else progress.first + self.can_end(progress)
        return _TrieNode(first, ends[index], progress.length + TOKEN_TYPE.itemsize)

    def can_end(self, progress: Hashable) -> bool:
        """Returns whether the label may end here."""
        # A spelling that ends here sorts before those that continue.
        return isinstance(progress, _TrieNode) and len(self._spellings[progress.first]) == progress.length

    def list_next_tokens(self, progress: Hashable) -> tuple[int, ...]:
        return self._find_branches(progress).tokens if isinstance(progress, _TrieNode) else ()

    def _find_branches(self, node: "_TrieNode") -> "_Branches":
        if (found := self._branches.get(node)) is not None:
            return found
        first, end, width = node.first + self.can_end(node), node.end, node.length + TOKEN_TYPE.itemsize
        tokens, ends = [], []
        while first < end:
            prefix = self._spellings[first][:width]
            first = bisect_right(self._spellings, prefix, first, end, key=lambda spelling: spelling[:width])
            tokens.append(int.from_bytes(prefix[node.length :]))
            ends.append(first)
        found = _Branches(tuple(tokens), tuple(ends))
        if len(tokens) > 1:  # of which there are fewer than spellings
            self._branches[node] = found
        return found


class _TrieNode(NamedTuple):
    """The spellings `first` … `end` - 1 have the first `length` bytes in common."""

    first: int
    end: int
    length: int


class _Branches(NamedTuple):
    """The tokens that may follow a node, sorted, and the end of the range of each."""

    tokens: tuple[int, ...]
    ends: tuple[int, ...]


LabelMatcher = FreeLabel | LabelTrie


def spell_labels(task: Task, labels: Sequence[str], tokenizer: Tokenizer, vocabulary: Vocabulary) -> list[bytes]:
    """Returns the token ids (TOKEN_TYPE) of each label at any place in an answer: with and without a leading space.

    A label is encoded together with the location that follows. What precedes it is a special token or nothing, and the
    tokenizer splits there in either case: so all labels are encoded in one call, which releases the GIL. Raises
    ValueError for a label that the parser would not read back unchanged.
    """
    for label in labels:
        _check_label(task, label)
    end = LOCATION_TOKENS[0]
    if find_special_token("\n".join(labels)):
        label, special = next((label, found) for label in labels if (found := find_special_token(label)))
        raise ValueError(f"the label {_quote(label)} contains the reserved token {special}; write it differently")
    text = "".join(f"{label}{end} {label}{end}" for label in labels)
    (encoding,) = tokenizer.backend.encode_batch_fast([text], add_special_tokens=False)
    ids = np.array(encoding.ids, TOKEN_TYPE)
    letters = [_NOT_TEXT if (own := vocabulary[i].text_bytes) is None else own for i in encoding.ids]
    ends = np.flatnonzero(ids == tokenizer.first_location_id).tolist()
    spellings = []
    for i, (first, last) in enumerate(zip([0, *(end + 1 for end in ends)], ends, strict=False)):
        label = labels[i // 2]
        if b"".join(letters[first:last]).strip() != label.encode():
            raise ValueError(f"the tokenizer cannot write the label {_quote(label)} unchanged; use other characters")
        spellings.append(ids[first:last].tobytes())
    return spellings


def _check_label(task: Task, label: str) -> None:
    """Raises ValueError for a label that the parser would not read back unchanged with any tokenizer."""
    if not label.strip():
        raise ValueError(f"the label {_quote(label)} is blank; remove it")
    if label != label.strip():
        raise ValueError(
            f"the label {_quote(label)} has leading or trailing white space, which answers lose; remove it"
        )
    if task.answer_kind is AnswerKind.PHRASES and label in FILLER_PHRASES:
        raise ValueError(f"the label {_quote(label)} is a pronoun or filler phrase, which grounding drops; remove it")
    if not label.isascii() and any("\ud800" <= letter <= "\udfff" for letter in label):
        raise ValueError(f"the label {_quote(label)} contains half a character (a lone surrogate); replace it")


def _quote(label: str) -> str:
    return repr(truncate(label))
