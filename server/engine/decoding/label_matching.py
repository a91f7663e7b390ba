"""Matches the token ids of a label: any text, or one of a list."""

import codecs
from collections.abc import Hashable, Iterable

from prompts.grammar import FILLER_PHRASES
from prompts.special_tokens import LOCATION_TOKENS
from prompts.tasks import AnswerKind, Task
from prompts.text import truncate
from prompts.vocabulary import Vocabulary, find_special_token
from server.engine.checkpoints.tokenizer import Tokenizer


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
    """Matches one of a list of labels, with a trie of their token ids. The progress is a node number."""

    allows_any_text = False
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

    def advance(self, progress: Hashable, token: int) -> Hashable:
        """Returns the node after `token`, which must be one of `list_next_tokens`."""
        return self._nodes[progress][token] if isinstance(progress, int) else None

    def can_end(self, progress: Hashable) -> bool:
        """Returns whether the label may end here."""
        return progress in self._ends

    def list_next_tokens(self, progress: Hashable) -> tuple[int, ...]:
        return self._tokens[progress] if isinstance(progress, int) else ()


LabelMatcher = FreeLabel | LabelTrie


def spell_label(task: Task, label: str, tokenizer: Tokenizer, vocabulary: Vocabulary) -> set[tuple[int, ...]]:
    """Returns the token ids of `label` at any place in an answer: with and without a leading space.

    The label is encoded together with the location that follows. What precedes it is a special token or nothing, and
    the tokenizer splits there in either case. Raises ValueError for a label that the parser would not read back
    unchanged.
    """
    quoted = repr(truncate(label))
    if not label.strip():
        raise ValueError(f"the label {quoted} is blank; remove it")
    if label != label.strip():
        raise ValueError(f"the label {quoted} has leading or trailing white space, which answers lose; remove it")
    if special := find_special_token(label):
        raise ValueError(f"the label {quoted} contains the reserved token {special}; write it differently")
    if task.answer_kind is AnswerKind.PHRASES and label in FILLER_PHRASES:
        raise ValueError(f"the label {quoted} is a pronoun or filler phrase, which grounding drops; remove it")
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the label {quoted} contains half a character (a lone surrogate); replace it") from error
    suffix = "" if task.answer_kind is AnswerKind.TEXT else LOCATION_TOKENS[0]
    spellings = set()
    for text in (label, " " + label):
        ids = tokenizer.backend.encode(text + suffix, add_special_tokens=False).ids
        spelling = tuple(i for i in ids if vocabulary[i].location is None)
        letters = [vocabulary[i].text_bytes for i in spelling]
        if None in letters or b"".join(filter(None, letters)).strip() != label.encode():
            raise ValueError(f"the tokenizer cannot write the label {quoted} unchanged; use other characters")
        spellings.add(spelling)
    return spellings
