"""Text → token ids, for the tokenizers that Florence-2 checkpoints carry."""

from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from prompts.special_tokens import ADDED_TOKENS, BOS, EOS, IMAGE, LOCATION_TOKENS, PAD
from prompts.vocabulary import Vocabulary


class Tokenizer:
    """A checkpoint's tokenizer.json. `ids`: string form → id; `bos`, `eos`, `image`: those ids; `locations`: the first
    location's, the others follow it."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Adds Florence-2's own tokens where they are missing, as in Microsoft's checkpoints, in the hub's order.

        Raises ValueError when a token that Florence-2 cannot do without is missing.
        """
        own = [AddedToken(token, special=True, normalized=False) for token in ADDED_TOKENS]
        backend.add_special_tokens(own)
        # What fits the model is decided by the engine, which says so, rather than cut off here in silence.
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.ids: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        if missing := [t for t in (BOS, EOS, PAD) if t not in self.ids]:
            raise ValueError(f"the tokenizer lacks {', '.join(missing)}")
        self.bos, self.eos, self.image = self.ids[BOS], self.ids[EOS], self.ids[IMAGE]
        self.locations = self.ids[LOCATION_TOKENS[0]]

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads `folder`/tokenizer.json. Raises ValueError when it cannot be read."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
        except ValueError:
            raise
        except Exception as error:  # what the Rust side raises has no class of its own
            raise ValueError(f"it cannot be read: {error}") from error

    def __len__(self) -> int:
        return max(self.ids.values()) + 1

    def encode_prompt(self, text: str) -> list[int]:
        """The words for the encoder as ids, `<s>` … `</s>`."""
        return [self.bos, *self.backend.encode(text, add_special_tokens=False).ids, self.eos]

    def vocabulary(self) -> Vocabulary:
        """What each id means to the answer grammar."""
        return Vocabulary(self.ids, (token.content for token in self.backend.get_added_tokens_decoder().values()))
