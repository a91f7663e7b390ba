"""A lower bound of the time that answers take: the necessary operations over P, and the necessary bytes over BW.

    t ≥ (images · F_vision + prompts · F_encoder) / P + Σ_steps max([W + Σ_rows (X + S · t)] / BW, F_step / P)

The first term is the matrix products of the encoders. The second is the decoder steps: each reads its weights W and the
cache of its requests, X for the encoder's states and S per token and beam. With many rows a step on a CPU is bound by
its matrix products instead, F_step. Which of the two counts is decided for the sum of all steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Florence2Config

from benchmarks.machine import MachineSpeed
from benchmarks.matrix_products import list_matrix_products


@dataclass(frozen=True, slots=True)
class Roofline:
    """The costs of a model's parts on a machine."""

    machine: MachineSpeed
    vision: float
    """Operations per image."""
    encoder: float
    """Operations per prompt."""
    step: float
    """Operations per row of a decoder step."""
    weights: float
    """Bytes read per step."""
    source: float
    """Bytes of X."""
    past: float
    """Bytes of S."""

    @classmethod
    def from_config(
        cls, config: Florence2Config, side: int, tokens: int, dtype: torch.dtype, machine: MachineSpeed
    ) -> "Roofline":
        """`side` is that of an image in pixels; `tokens` are the positions of an image and a prompt in the encoder."""
        text = config.text_config
        d, layers = text.d_model, text.decoder_layers
        inner, outer = text.encoder_ffn_dim, text.decoder_ffn_dim
        encoder = text.encoder_layers * (2 * tokens * (4 * d * d + 2 * d * inner) + 4 * tokens * tokens * d)
        cross_projection = layers * 2 * tokens * 2 * d * d  # keys and values of the encoder's states, computed once
        step_weights = layers * (6 * d * d + 2 * d * outer) + d * text.vocab_size
        size = dtype.itemsize
        return cls(
            machine,
            vision=sum(p.count * p.operations for p in list_matrix_products(config.vision_config, side, dtype)),
            encoder=encoder + cross_projection,
            step=2 * step_weights + layers * 4 * tokens * d,
            weights=step_weights * size,
            source=layers * 2 * tokens * d * size,
            past=layers * 2 * d * size,
        )

    def min_seconds(self, images: int, lengths: Sequence[int], *, beams: int = 1, slots: int = 16) -> float:
        """Returns the lower bound for answers of these lengths, with `images` encoded and `slots` requests per step."""
        rows = sum(lengths)  # of one beam
        steps = max(max(lengths), -(-rows // slots))
        p, bw = self.machine.operations, self.machine.bytes
        past_reads = sum(length * (length + 1) / 2 for length in lengths)
        read = (steps * self.weights + rows * self.source + past_reads * beams * self.past) / bw
        return (images * self.vision + len(lengths) * self.encoder) / p + max(read, rows * beams * self.step / p)
