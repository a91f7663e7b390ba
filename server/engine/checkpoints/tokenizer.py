"""Text → token ids, with the tokenizer of a Florence-2 checkpoint."""

from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import AddedToken

from prompts.special_tokens import ADDED_TOKENS, BOS, EOS, IMAGE, LOCATION_TOKENS, PAD
from prompts.vocabulary import Vocabulary


class Tokenizer:
    """The tokenizer.json of a checkpoint.

    `ids`: token → id. `bos_id`, `eos_id`, `image_id`: ids of special tokens. `first_location_id`: the id of `<loc_0>`;
    the other locations follow.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Adds Florence-2's tokens if they are missing, as in Microsoft's checkpoints, in the order of the hub.

        Raises ValueError when a token that Florence-2 needs is missing.
        """
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ADDED_TOKENS])
        # The engine rejects prompts that are too long. The tokenizer must not truncate them silently.
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.ids: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        if missing := [token for token in (BOS, EOS, PAD) if token not in self.ids]:
            raise ValueError(f"the tokenizer lacks {', '.join(missing)}")
        self.bos_id, self.eos_id, self.image_id = self.ids[BOS], self.ids[EOS], self.ids[IMAGE]
        self.first_location_id = self.ids[LOCATION_TOKENS[0]]

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Reads `folder`/tokenizer.json. Raises ValueError when it cannot be read."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
        except ValueError:
            raise
        except Exception as error:  # errors of the Rust library have no class of their own
            raise ValueError(f"it cannot be read: {error}") from error

    def __len__(self) -> int:
        """Returns the highest id plus one."""
        return max(self.ids.values()) + 1

    def encode_prompt(self, text: str) -> list[int]:
        """Returns the ids of a prompt for the encoder, with `<s>` and `</s>`."""
        return [self.bos_id, *self.backend.encode(text, add_special_tokens=False).ids, self.eos_id]

    def build_vocabulary(self) -> Vocabulary:
        """Returns what each id means to the answer grammar."""
        return Vocabulary(self.ids, (token.content for token in self.backend.get_added_tokens_decoder().values()))
