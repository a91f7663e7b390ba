"""What each token id of a checkpoint's tokenizer means to the grammar: letters, a location, structure or control.

Florence-2's tokenizer is BART's byte-level BPE, so a letter token is a run of bytes and a letter of
another script may be spread over several tokens: bytes, not strings, are what can be joined safely.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from prompts import locations, tasks


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the grammar sees it. Raises ValueError unless exactly one of the four is set.

    `letters`: bytes of text. `location`: a bin, 0 … 999. `structure`: a token such as `<sep>`.
    `control`: `<s>`, `</s>`, `<pad>` and the like, which carry no content.
    """

    letters: bytes | None = None
    location: int | None = None
    structure: str | None = None
    control: str | None = None

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.letters, self.location, self.structure, self.control)) != 1:
            raise ValueError(f"a token is one of letters, location, structure, control; not {self}")
        if self.location is not None and not 0 <= self.location < locations.BINS:
            raise ValueError(f"a location is 0 … {locations.BINS - 1}, not {self.location}")


UNUSED = Token(control="<unused>")
_CONTROL = frozenset(tasks.CONTROL)
_STRUCTURE = frozenset((*tasks.STRUCTURE_BEFORE, *tasks.STRUCTURE_AFTER))
# Any token that carries no letters, where it stands in an answer written as text. One group: split keeps it.
_SPECIAL = re.compile(
    f"({locations.LOCATION.pattern.replace('(', '(?:')}|{'|'.join(map(re.escape, sorted(_CONTROL | _STRUCTURE)))})"
)


@lru_cache(1)
def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE (GPT-2) writes for each of the 256 bytes, inverted."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in set(shown)]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


def classify(token: str, *, added: bool = True) -> Token:
    """The meaning of a token's string form; `added` tells a token of its own from byte-level letters.

    An added token that is none of Florence-2's, such as a fine-tuned model's own, is the letters it is written with.
    """
    if added:
        if match := locations.LOCATION.fullmatch(token):
            return Token(location=int(match[1]))
        if token in _CONTROL:
            return Token(control=token)
        if token in _STRUCTURE:
            return Token(structure=token)
        return Token(letters=token.encode())
    alphabet = byte_alphabet()
    if all(c in alphabet for c in token):
        return Token(letters=bytes(alphabet[c] for c in token))
    return Token(letters=token.encode())


class Vocabulary:
    """Token id → Token. An id that the tokenizer does not know (padding of the embedding, -100) is control."""

    def __init__(self, ids: Mapping[str, int], added: Iterable[str]) -> None:
        """`ids`: the tokenizer's whole vocabulary, string form → id; `added`: those that are not byte-level."""
        own = set(added)
        self._tokens = [UNUSED] * (max(ids.values(), default=-1) + 1)
        for token, i in ids.items():
            self._tokens[i] = classify(token, added=token in own)

    def __getitem__(self, i: int) -> Token:
        return self._tokens[i] if 0 <= i < len(self._tokens) else UNUSED

    def __iter__(self) -> Iterator[Token]:
        return iter(self._tokens)

    def __len__(self) -> int:
        """One more than the tokenizer's highest id."""
        return len(self._tokens)


def special_in(text: str) -> str | None:
    """The first control, structure or location token that is written in `text`; None where there is none."""
    match = _SPECIAL.search(text)
    return match[0] if match else None


def tokens_of(text: str) -> list[Token]:
    """An answer written as text (`cat<loc_1><loc_2>…`) → tokens: the way to read targets without a tokenizer."""
    return [classify(part) for part in _SPECIAL.split(text) if part]
