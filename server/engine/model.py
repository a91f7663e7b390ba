"""Florence-2 (arXiv:2311.06242): DaViT looks, BART reads and answers. Our modules, on transformers' native weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Florence2Config

from server.engine.bart import Bart
from server.engine.davit import VisionTower
from server.engine.decoding.kv_cache import Slots, Span
from server.engine.linear import Linear, Shares


class Florence2(nn.Module):
    """The whole model, for inference alone."""

    def __init__(self, config: Florence2Config) -> None:
        """Shapes alone; `load` brings the weights."""
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.tower, self.text = VisionTower(config), Bart(config.text_config)

    def shapes(self) -> dict[str, torch.Size]:
        """What a checkpoint of this config holds: native keys, one for the table of words, → the shapes."""
        return self.tower.shapes() | self.text.shapes()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes native weights, all of one device and floating type."""
        self.tower.load(state)
        self.text.load(state)
        for module in self.modules():
            if isinstance(module, Linear):
                module.arrange()
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.text.table.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text.table.dtype

    def adaptable(self) -> dict[str, tuple[Linear, int]]:
        """Native module path → the layer that computes it, and its first output row there."""
        return self.tower.adaptable() | self.text.adaptable()

    def slots(self, width: int, count: int, *, spare: int = 0) -> Slots:
        """Places for `count` running requests of `width` beams."""
        # A CPU attends with one query three to eight times slower in 16 bits than in 32.
        dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        return Slots(self.config.text_config, width, count, spare=spare, device=self.device, dtype=dtype)

    def look(self, pixels: Tensor, shares: Shares = ()) -> Tensor:
        """Pixel values [n, 3, height, width] → projected image features [n, image tokens, d]."""
        return self.tower(pixels.to(self.dtype).contiguous(memory_format=torch.channels_last), shares)

    def read(self, features: Tensor, prompts: Sequence[Sequence[int]], shares: Shares = ()) -> tuple[Tensor, list[int]]:
        """Image features [n, image tokens, d] and prompts as ids, `<s>` … `</s>` → states [n, tokens, d] and how many
        places of each row count. Prompts are padded on the right, since BART's positions are absolute."""
        ids = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True).to(features.device)
        embedded = torch.cat([features, self.text.table[ids]], 1)
        lengths = [features.shape[1] + len(p) for p in prompts]
        return self.text.encoder(embedded, lengths, shares), lengths

    def say(self, tokens: Tensor, positions: Tensor, spans: Sequence[Span], shares: Shares = ()) -> Tensor:
        """The newest tokens [rows] of the spans, at their positions [rows] → logits [rows, V] in fp32."""
        return self.text.logits(self.text.decoder(self.text.table[tokens], positions, spans, shares))
