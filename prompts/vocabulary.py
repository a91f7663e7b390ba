"""What each token id of a tokenizer means to the answer grammar: text, a location, structure or control.

Florence-2's tokenizer is BART's byte-level BPE: a text token is a sequence of bytes, and one character may be spread
over several tokens. Therefore tokens carry bytes, which can be joined safely, and not strings.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from prompts import locations
from prompts.special_tokens import CONTROL_TOKENS, STRUCTURE_TOKENS


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the grammar sees it. Raises ValueError unless exactly one of the four fields is set.

    `text_bytes`: UTF-8 bytes of text. `location`: a bin, 0 … 999. `structure`: a token such as `<sep>`.
    `control`: `<s>`, `</s>`, `<pad>` and similar tokens without content.
    """

    text_bytes: bytes | None = None
    location: int | None = None
    structure: str | None = None
    control: str | None = None

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.text_bytes, self.location, self.structure, self.control)) != 1:
            raise ValueError(f"a token must be one of text, location, structure or control, not {self}")
        if self.location is not None and not 0 <= self.location < locations.BINS:
            raise ValueError(f"a location must be 0 … {locations.BINS - 1}, not {self.location}")


UNUSED_TOKEN = Token(control="<unused>")
_CONTROL = frozenset(CONTROL_TOKENS)
_STRUCTURE = frozenset(STRUCTURE_TOKENS)
# Any token without text, as it appears in an answer string. The one group makes `split` keep the tokens.
_SPECIAL = re.compile(
    f"({locations.LOCATION_PATTERN.pattern.replace('(', '(?:')}|"
    f"{'|'.join(map(re.escape, sorted(_CONTROL | _STRUCTURE)))})"
)


@lru_cache(1)
def unicode_to_bytes() -> dict[str, int]:
    """Returns the byte of each printable character in byte-level BPE: the inverse of GPT-2's `bytes_to_unicode`."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def classify_token(token: str, *, added: bool = True) -> Token:
    """Returns the meaning of a token, given as a string.

    `added`: whether the tokenizer lists it as an added token, and not as byte-level text. An added token that is not
    one of Florence-2's, such as the token of a fine-tuned model, counts as text.
    """
    if added:
        if match := locations.LOCATION_PATTERN.fullmatch(token):
            return Token(location=int(match[1]))
        if token in _CONTROL:
            return Token(control=token)
        if token in _STRUCTURE:
            return Token(structure=token)
        return Token(text_bytes=token.encode())
    alphabet = unicode_to_bytes()
    if all(c in alphabet for c in token):
        return Token(text_bytes=bytes(alphabet[c] for c in token))
    return Token(text_bytes=token.encode())


class Vocabulary:
    """Token id → Token. An id without a token (padding of the embedding, -100) is a control token."""

    def __init__(self, ids: Mapping[str, int], added: Iterable[str]) -> None:
        """`ids`: the whole vocabulary of the tokenizer, string → id. `added`: its tokens that are not byte-level."""
        added = set(added)
        self._tokens = [UNUSED_TOKEN] * (max(ids.values(), default=-1) + 1)
        for token, i in ids.items():
            self._tokens[i] = classify_token(token, added=token in added)

    def __getitem__(self, i: int) -> Token:
        return self._tokens[i] if 0 <= i < len(self._tokens) else UNUSED_TOKEN

    def __iter__(self) -> Iterator[Token]:
        return iter(self._tokens)

    def __len__(self) -> int:
        """Returns the highest id plus one."""
        return len(self._tokens)


def find_special_token(text: str) -> str | None:
    """Returns the first control, structure or location token in `text`, or None."""
    match = _SPECIAL.search(text)
    return match[0] if match else None


def tokenize_answer(text: str) -> list[Token]:
    """Splits an answer string (`cat<loc_1><loc_2>…`) into tokens, without a tokenizer."""
    return [classify_token(part) for part in _SPECIAL.split(text) if part]
