"""The least time that answers can take: the operations and bytes that nobody can do without, over P and BW.

    t ≥ (pictures · F_vision + prompts · F_encoder) / P + Σ_steps max([W + Σ_rows (X + S · t)] / BW, F_step / P)

The first term is the encoder's products; the second the decoder's steps, each of which reads its weights W and what
its requests remember: X of their encoder's states, S a token and beam. With many rows a step of a CPU is bound by its
products instead, F_step. Which of the two counts is decided here for the sum of the steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Florence2Config

from benchmarks.machine import Machine
from benchmarks.matrix_products import products


@dataclass(frozen=True, slots=True)
class Floor:
    """The cost of a model's parts. `vision`, `encoder`: operations a picture, a prompt; `step`: operations a row of
    the decoder; `weights`: bytes read a step; `source`: bytes of X; `past`: bytes of S."""

    machine: Machine
    vision: float
    encoder: float
    step: float
    weights: float
    source: float
    past: float

    @classmethod
    def of(cls, config: Florence2Config, side: int, tokens: int, dtype: torch.dtype, machine: Machine) -> "Floor":
        """`side`: of the pictures in pixels; `tokens`: the encoder's places, of a picture and a prompt together."""
        text = config.text_config
        d, layers = text.d_model, text.decoder_layers
        inner, outer = text.encoder_ffn_dim, text.decoder_ffn_dim
        encoder = text.encoder_layers * (2 * tokens * (4 * d * d + 2 * d * inner) + 4 * tokens * tokens * d)
        crossed = layers * 2 * tokens * 2 * d * d  # the keys and values of the encoder's states, made once
        held = layers * (6 * d * d + 2 * d * outer) + d * text.vocab_size  # values that a step multiplies with
        size = dtype.itemsize
        return cls(
            machine,
            vision=sum(p.count * p.operations for p in products(config.vision_config, side, dtype)),
            encoder=encoder + crossed,
            step=2 * held + layers * 4 * tokens * d,
            weights=held * size,
            source=layers * 2 * tokens * d * size,
            past=layers * 2 * d * size,
        )

    def seconds(self, pictures: int, lengths: Sequence[int], *, beams: int = 1, slots: int = 16) -> float:
        """For answers of these lengths, at best: `pictures` looked at once each, `slots` requests a step."""
        rows = sum(lengths)  # of one beam
        steps = max(max(lengths), -(-rows // slots))
        p, bw = self.machine.operations, self.machine.bytes
        said = sum(length * (length + 1) / 2 for length in lengths)
        read = (steps * self.weights + rows * self.source + said * beams * self.past) / bw
        return (pictures * self.vision + len(lengths) * self.encoder) / p + max(read, rows * beams * self.step / p)
