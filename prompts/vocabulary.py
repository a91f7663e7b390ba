"""What each token id of a checkpoint's tokenizer means to the grammar: letters, a location, structure or control.

Florence-2's tokenizer is BART's byte-level BPE, so a letter token is a run of bytes and a letter of
another script may be spread over several tokens: bytes, not strings, are what can be joined safely.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from prompts import locations, tasks


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the grammar sees it; exactly one of the four is set.

    `letters`: bytes of text. `location`: a bin, 0 … 999. `structure`: a token such as `<sep>`.
    `control`: `<s>`, `</s>`, `<pad>` and the like, which carry no content.
    """

    letters: bytes | None = None
    location: int | None = None
    structure: str | None = None
    control: str | None = None


@lru_cache(1)
def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE (GPT-2) writes for each of the 256 bytes, inverted."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in set(shown)]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


def classify(token: str, *, added: bool = True) -> Token:
    """The meaning of a token's string form; `added` tells a token of its own from byte-level letters."""
    if added and (match := locations.LOCATION.fullmatch(token)):
        return Token(location=int(match[1]))
    if added and token in tasks.CONTROL:
        return Token(control=token)
    if added and token in tasks.ADDED_TOKENS:
        return Token(structure=token)
    alphabet = byte_alphabet()
    if not added and all(c in alphabet for c in token):
        return Token(letters=bytes(alphabet[c] for c in token))
    return Token(letters=token.encode())


class Vocabulary(Sequence[Token]):
    """Token id → Token. Ids that the tokenizer does not know (padding of the embedding) are control."""

    def __init__(self, ids: Mapping[str, int], added: Iterable[str]) -> None:
        """`ids`: the tokenizer's whole vocabulary, string form → id; `added`: those that are not byte-level."""
        own = set(added)
        self._tokens = [Token(control="<unused>")] * (max(ids.values()) + 1)
        for token, i in ids.items():
            self._tokens[i] = classify(token, added=token in own)

    def __getitem__(self, i):  # type: ignore[no-untyped-def, override]
        return self._tokens[i] if i < len(self._tokens) else Token(control="<unused>")

    def __len__(self) -> int:
        return len(self._tokens)


_SPECIAL = re.compile("|".join(map(re.escape, (*tasks.CONTROL, *tasks.STRUCTURE_BEFORE, *tasks.STRUCTURE_AFTER))))
_SPLIT = re.compile(rf"({locations.LOCATION.pattern.replace('(', '(?:')}|{_SPECIAL.pattern})")


def tokens_of(text: str) -> list[Token]:
    """An answer written as text (`cat<loc_1><loc_2>…`) → tokens: the way to read targets without a tokenizer."""
    return [classify(part) for part in _SPLIT.split(text) if part]
