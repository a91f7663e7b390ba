"""Florence-2 (arXiv:2311.06242): DaViT looks, BART reads and answers. Our modules, on transformers' native weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Florence2Config

from server.engine.decoding.kv_cache import CacheView, KVCache
from server.engine.model.bart import Bart
from server.engine.model.linear import BatchAdapters, LoraLinear
from server.engine.model.vision_encoder import VisionEncoder


class Florence2(nn.Module):
    """The whole model, for inference alone."""

    def __init__(self, config: Florence2Config) -> None:
        """Shapes alone; `load` brings the weights."""
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.tower, self.text = VisionEncoder(config), Bart(config.text_config)

    def shapes(self) -> dict[str, torch.Size]:
        """What a checkpoint of this config holds: native keys, one for the table of words, → the shapes."""
        return self.tower.shapes() | self.text.shapes()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes native weights, all of one device and floating type."""
        self.tower.load(state)
        self.text.load(state)
        for module in self.modules():
            if isinstance(module, LoraLinear):
                module.arrange()
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.text.table.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text.table.dtype

    def adaptable(self) -> dict[str, tuple[LoraLinear, int]]:
        """Native module path → the layer that computes it, and its first output row there."""
        return self.tower.adaptable() | self.text.adaptable()

    def create_kv_cache(self, width: int, count: int) -> KVCache:
        """Returns an empty KV cache of `count` slots for requests of `width` beams."""
        # On a CPU, attention with one query is 3 to 8 times slower in 16 bits than in 32.
        dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        return KVCache(self.config.text_config, width, count, device=self.device, dtype=dtype)

    def look(self, pixels: Tensor, shares: BatchAdapters = ()) -> Tensor:
        """Pixel values [n, 3, height, width] → projected image features [n, image tokens, d]."""
        return self.tower(pixels.to(self.dtype).contiguous(memory_format=torch.channels_last), shares)

    def read(
        self, features: Tensor, prompts: Sequence[Sequence[int]], shares: BatchAdapters = ()
    ) -> tuple[Tensor, list[int]]:
        """Image features [n, image tokens, d] and prompts as ids, `<s>` … `</s>` → states [n, tokens, d] and how many
        places of each row count. Prompts are padded on the right, since BART's positions are absolute."""
        ids = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True).to(features.device)
        embedded = torch.cat([features, self.text.table[ids]], 1)
        lengths = [features.shape[1] + len(p) for p in prompts]
        return self.text.encoder(embedded, lengths, shares), lengths

    def say(self, tokens: Tensor, positions: Tensor, views: Sequence[CacheView], shares: BatchAdapters = ()) -> Tensor:
        """The newest tokens [rows] of the views, at their positions [rows] → logits [rows, V] in fp32."""
        return self.text.logits(self.text.decoder(self.text.table[tokens], positions, views, shares))
