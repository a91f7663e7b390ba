"""Florence-2 (arXiv:2311.06242): a DaViT vision encoder and a BART language model, on transformers' native weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Florence2Config

from server.engine.decoding.kv_cache import CacheView, KVCache
from server.engine.model.bart import Bart
from server.engine.model.linear import BatchAdapters, LoraLinear, LoraTarget
from server.engine.model.vision_encoder import VisionEncoder


class Florence2(nn.Module):
    """The whole model, for inference only.

    An image becomes features (`encode_images`), features and a prompt become encoder states (`encode_prompts`), and the
    decoder generates the answer from the states in a KV cache (`write_cross_attention`, then `decode` for every token).
    """

    def __init__(self, config: Florence2Config) -> None:
        """Allocates no memory for weights; `load_weights` provides them."""
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.vision_encoder, self.language_model = VisionEncoder(config), Bart(config.text_config)

    def get_weight_shapes(self) -> dict[str, torch.Size]:
        """Returns the native keys and shapes of a checkpoint's weights. The token embedding has one key."""
        return self.vision_encoder.get_weight_shapes() | self.language_model.get_weight_shapes()

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Loads native weights, all of one device and floating-point type."""
        self.vision_encoder.load_weights(state)
        self.language_model.load_weights(state)
        for module in self.modules():
            if isinstance(module, LoraLinear):
                module.pack()
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.language_model.token_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.token_embedding.dtype

    def get_lora_targets(self) -> dict[str, LoraTarget]:
        """Returns the modules that LoRA can adapt, by native path."""
        return self.vision_encoder.get_lora_targets() | self.language_model.get_lora_targets()

    def create_kv_cache(self, width: int, count: int) -> KVCache:
        """Returns an empty KV cache of `count` slots for requests of `width` beams."""
        # On a CPU, attention with one query is 3 to 8 times slower in 16 bits than in 32.
        dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        return KVCache(self.config.text_config, width, count, device=self.device, dtype=dtype)

    def encode_images(self, pixels: Tensor, adapters: BatchAdapters = ()) -> Tensor:
        """Normalized pixels [n, 3, height, width] → image features [n, image tokens, d]."""
        return self.vision_encoder(pixels.to(self.dtype).contiguous(memory_format=torch.channels_last), adapters)

    def encode_prompts(
        self, features: Tensor, prompts: Sequence[Sequence[int]], adapters: BatchAdapters = ()
    ) -> tuple[Tensor, list[int]]:
        """Image features [n, image tokens, d] and prompt ids (`<s>` … `</s>`) → encoder states [n, tokens, d].

        Also returns the number of valid tokens of each row. Prompts are padded on the right, because BART's positions
        are absolute.
        """
        ids = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True).to(features.device)
        embedded = torch.cat([features, self.language_model.token_embedding[ids]], 1)
        lengths = [features.shape[1] + len(p) for p in prompts]
        return self.language_model.encoder(embedded, lengths, adapters), lengths

    def write_cross_attention(self, states: Tensor, view: CacheView, adapters: BatchAdapters = ()) -> None:
        """Writes the cross-attention keys and values of encoder states [n, tokens, d] into the cache."""
        self.language_model.decoder.write_cross_attention(states, view, adapters)

    def decode(
        self, tokens: Tensor, positions: Tensor, views: Sequence[CacheView], adapters: BatchAdapters = ()
    ) -> Tensor:
        """The newest tokens [rows] of all views, in order, at their positions [rows] → logits [rows, V] in fp32."""
        embedded = self.language_model.token_embedding[tokens]
        return self.language_model.compute_logits(self.language_model.decoder(embedded, positions, views, adapters))
