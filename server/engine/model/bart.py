"""The language model of Florence-2: BART (Lewis et al. 2020, arXiv:1910.13461).

The encoder reads the whole input at once. The decoder generates one token per step and keeps its keys and values in a
KV cache (`server.engine.decoding.kv_cache`). Layers use post-norm residuals, learned positions and exact GELU. Layers
that read the same input are merged into one matrix product: q, k, v of self-attention; k, v of cross-attention.

Shapes: n sequences, t tokens, d model dimensions, V vocabulary size. `rows` are the newest tokens of all beams.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import BartConfig

from server.engine.decoding.kv_cache import CacheView
from server.engine.model.linear import BatchAdapters, LoraLinear, LoraTarget, PackedMatrix

POSITION_OFFSET = 2
"""BART does not use the first two rows of its position embeddings."""

_PREFIX = "model.language_model."
_TOKEN_EMBEDDING = _PREFIX + "shared.weight"


class PostNormResidual(nn.Module):
    """LayerNorm(x + f(x)): a part of a layer with its residual connection and layer norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def add_and_norm(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns LayerNorm(x + y), in the shape of x. Overwrites `y`."""
        return cast(Tensor, self.norm(y.add_(x)))


class BartFeedForward(PostNormResidual):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim)
        self.fc1, self.fc2 = LoraLinear(dim, hidden), LoraLinear(hidden, dim)

    def forward(self, x: Tensor, adapters: BatchAdapters) -> Tensor:
        """x [n, …, d] → the same shape."""
        return self.add_and_norm(x, self.fc2(self.fc1(x, adapters, gelu=True), adapters))


class SelfAttention(PostNormResidual):
    """Multi-head self-attention: of the encoder over the whole input, of the decoder over its KV cache."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim)
        self.heads = heads
        self.qkv, self.out = LoraLinear(dim, 3 * dim), LoraLinear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, adapters: BatchAdapters) -> Tensor:
        """The encoder's attention. x [n, t, d], `mask` [n, 1, 1, t], added to the scores → [n, t, d]."""
        n, t, d = x.shape
        q, k, v = self.qkv(x, adapters).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.add_and_norm(x, self.out(attended.transpose(1, 2).reshape(n, t, d), adapters))

    def decode(self, x: Tensor, layer: int, views: Sequence[CacheView], adapters: BatchAdapters) -> Tensor:
        """The decoder's attention. Appends the keys and values of the newest tokens to the cache.

        x [rows, d]: the newest tokens of all views, in order → [rows, d].
        """
        attended = []
        parts = _split_by_view(self.qkv(x, adapters).view(len(x), 3, self.heads, -1), views)
        for view, part in zip(views, parts, strict=True):
            qkv = part.view(view.count, view.queries, 3, self.heads, -1)
            k, v = view.append(layer, qkv[:, :, 1], qkv[:, :, 2])
            q = qkv[:, :, 0].transpose(1, 2).to(k.dtype)
            values = F.scaled_dot_product_attention(q, k, v, attn_mask=view.self_mask)
            attended.append(values.transpose(1, 2).reshape(view.rows, -1).to(x.dtype))
        return self.add_and_norm(x, self.out(_concatenate(attended), adapters))


class CrossAttention(PostNormResidual):
    """Multi-head attention of the decoder over the encoder states. All beams of a request share keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim)
        self.heads = heads
        self.q, self.kv, self.out = LoraLinear(dim, dim), LoraLinear(dim, 2 * dim), LoraLinear(dim, dim)

    def project_states(self, states: Tensor, adapters: BatchAdapters) -> tuple[Tensor, Tensor]:
        """Encoder states [n, t, d] → keys and values [n, heads, t, d / heads]."""
        k, v = self.kv(states, adapters).view(*states.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return k, v

    def decode(self, x: Tensor, layer: int, views: Sequence[CacheView], adapters: BatchAdapters) -> Tensor:
        """x [rows, d] → [rows, d]. Each row attends to the image and the prompt of its request."""
        attended = []
        parts = _split_by_view(self.q(x, adapters), views)
        for view, part in zip(views, parts, strict=True):
            k, v = view.read_cross(layer)
            q = part.view(view.count, view.queries, self.heads, -1).transpose(1, 2).to(k.dtype)
            values = F.scaled_dot_product_attention(q, k, v, attn_mask=view.cross_mask)
            attended.append(values.transpose(1, 2).reshape(view.rows, -1).to(x.dtype))
        return self.add_and_norm(x, self.out(_concatenate(attended), adapters))


def _split_by_view(rows: Tensor, views: Sequence[CacheView]) -> Sequence[Tensor]:
    return [rows] if len(views) == 1 else rows.split([view.rows for view in views])


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attention, self.feed_forward = SelfAttention(dim, heads), BartFeedForward(dim, hidden)

    def get_linears(self) -> dict[LoraLinear, tuple[str, ...]]:
        """Returns the linear layers and the native names of the modules that each one merges."""
        return {
            self.self_attention.qkv: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            self.self_attention.out: ("self_attn.out_proj",),
            self.feed_forward.fc1: ("fc1",),
            self.feed_forward.fc2: ("fc2",),
        }

    def get_norms(self) -> dict[nn.LayerNorm, str]:
        """Returns the layer norms and their native names."""
        return {self.self_attention.norm: "self_attn_layer_norm", self.feed_forward.norm: "final_layer_norm"}


class DecoderLayer(EncoderLayer):
    """Self-attention, cross-attention and feed-forward."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__(dim, heads, hidden)
        self.cross_attention = CrossAttention(dim, heads)

    def get_linears(self) -> dict[LoraLinear, tuple[str, ...]]:
        """Returns the linear layers and the native names of the modules that each one merges."""
        return super().get_linears() | {
            self.cross_attention.q: ("encoder_attn.q_proj",),
            self.cross_attention.kv: ("encoder_attn.k_proj", "encoder_attn.v_proj"),
            self.cross_attention.out: ("encoder_attn.out_proj",),
        }

    def get_norms(self) -> dict[nn.LayerNorm, str]:
        """Returns the layer norms and their native names."""
        return super().get_norms() | {self.cross_attention.norm: "encoder_attn_layer_norm"}


class BartStack(nn.Module):
    """The common parts of encoder and decoder: position embeddings [positions, d], a layer norm, and layers."""

    def __init__(self, config: BartConfig, layers: Sequence[EncoderLayer]) -> None:
        super().__init__()
        self.positions = nn.Parameter(
            torch.empty(config.max_position_embeddings + POSITION_OFFSET, config.d_model), requires_grad=False
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.layers = nn.ModuleList(layers)


class BartEncoder(BartStack):
    """The encoder: image features and embedded prompts → encoder states."""

    def __init__(self, config: BartConfig) -> None:
        heads, hidden = config.encoder_attention_heads, config.encoder_ffn_dim
        layers = [EncoderLayer(config.d_model, heads, hidden) for _ in range(config.encoder_layers)]
        super().__init__(config, layers)

    def forward(self, embedded: Tensor, lengths: Sequence[int], adapters: BatchAdapters = ()) -> Tensor:
        """`embedded` [n, t, d], with `lengths` valid tokens per row → states [n, t, d]."""
        t = embedded.shape[1]
        x: Tensor = self.norm(embedded + self.positions[POSITION_OFFSET : POSITION_OFFSET + t])
        mask = build_padding_mask(lengths, t, x)
        for layer in cast(list[EncoderLayer], self.layers):
            x = layer.feed_forward(layer.self_attention(x, mask, adapters), adapters)
        return x


class BartDecoder(BartStack):
    """The decoder: the newest tokens and the KV cache → decoder states."""

    def __init__(self, config: BartConfig) -> None:
        heads, hidden = config.decoder_attention_heads, config.decoder_ffn_dim
        layers = [DecoderLayer(config.d_model, heads, hidden) for _ in range(config.decoder_layers)]
        super().__init__(config, layers)

    def write_cross_attention(self, states: Tensor, view: CacheView, adapters: BatchAdapters = ()) -> None:
        """Writes the cross-attention keys and values of encoder states [n, t, d] into the cache, for every layer."""
        for i, layer in enumerate(cast(list[DecoderLayer], self.layers)):
            view.write_cross(i, *layer.cross_attention.project_states(states, adapters))

    def forward(
        self, embedded: Tensor, positions: Tensor, views: Sequence[CacheView], adapters: BatchAdapters = ()
    ) -> Tensor:
        """`embedded` [rows, d]: the newest tokens of all views, in order; `positions` [rows] → states [rows, d]."""
        x: Tensor = self.norm(embedded + self.positions[positions + POSITION_OFFSET])
        for i, layer in enumerate(cast(list[DecoderLayer], self.layers)):
            x = layer.self_attention.decode(x, i, views, adapters)
            x = layer.cross_attention.decode(x, i, views, adapters)
            x = layer.feed_forward(x, adapters)
        return x


def build_padding_mask(lengths: Sequence[int], longest: int, like: Tensor) -> Tensor | None:
    """Returns a mask [n, 1, 1, longest] to add to attention scores: -inf past each row's length. None if all are full.

    `like`: a tensor with the device and dtype of the mask.
    """
    if min(lengths) == longest:
        return None
    ends = torch.tensor(lengths, device=like.device)
    hidden = torch.arange(longest, device=like.device) >= ends[:, None]
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None]


class Bart(nn.Module):
    """Encoder, decoder, and the token embedding [V, d], which is also the output projection."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model), requires_grad=False)
        self.encoder, self.decoder = BartEncoder(config), BartDecoder(config)

    def get_weight_shapes(self) -> dict[str, torch.Size]:
        """Returns the native keys and shapes of the weights that `load_weights` needs."""
        shapes = {_TOKEN_EMBEDDING: self.token_embedding.shape}
        for path, stack in self._iterate_stacks():
            shapes[f"{path}embed_positions.weight"] = stack.positions.shape
            shapes |= _get_norm_shapes(stack.norm, f"{path}layernorm_embedding")
        for path, layer in self._iterate_layers():
            for linear, names in layer.get_linears().items():
                outputs, inputs = linear.weight.shape
                for name in names:
                    shapes[f"{path}{name}.weight"] = torch.Size([outputs // len(names), inputs])
                    shapes[f"{path}{name}.bias"] = torch.Size([outputs // len(names)])
            for norm, name in layer.get_norms().items():
                shapes |= _get_norm_shapes(norm, path + name)
        return shapes

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Loads the native `model.language_model.*` weights, all of one device and dtype. Ignores other keys."""
        self.token_embedding = nn.Parameter(state[_TOKEN_EMBEDDING], requires_grad=False)
        self._output_projection = PackedMatrix(self.token_embedding)
        for path, stack in self._iterate_stacks():
            stack.positions = nn.Parameter(state[f"{path}embed_positions.weight"], requires_grad=False)
            _load_norm(stack.norm, state, f"{path}layernorm_embedding")
        for path, layer in self._iterate_layers():
            for linear, names in layer.get_linears().items():
                linear.weight = _merge_parameters(state, path, names, "weight")
                linear.bias = _merge_parameters(state, path, names, "bias")
            for norm, name in layer.get_norms().items():
                _load_norm(norm, state, path + name)

    def get_lora_targets(self) -> dict[str, LoraTarget]:
        """Returns the modules that LoRA can adapt, by native path."""
        targets: dict[str, LoraTarget] = {}
        for path, layer in self._iterate_layers():
            for linear, names in layer.get_linears().items():
                outputs = linear.weight.shape[0] // len(names)
                targets |= {path + name: LoraTarget(linear, i * outputs) for i, name in enumerate(names)}
        return targets

    def compute_logits(self, states: Tensor) -> Tensor:
        """Decoder states [rows, d] → logits [rows, V] in fp32."""
        return self._output_projection.multiply(states).float()

    def _iterate_stacks(self) -> Iterator[tuple[str, BartStack]]:
        """Yields encoder and decoder, each after its native path."""
        yield _PREFIX + "encoder.", self.encoder
        yield _PREFIX + "decoder.", self.decoder

    def _iterate_layers(self) -> Iterator[tuple[str, EncoderLayer]]:
        """Yields every layer after its native path."""
        for path, stack in self._iterate_stacks():
            for i, layer in enumerate(cast(list[EncoderLayer], stack.layers)):
                yield f"{path}layers.{i}.", layer


def _merge_parameters(state: Mapping[str, Tensor], layer: str, names: Sequence[str], kind: str) -> nn.Parameter:
    tensors = [state[f"{layer}{name}.{kind}"] for name in names]
    return nn.Parameter(tensors[0] if len(tensors) == 1 else torch.cat(tensors), requires_grad=False)


def _get_norm_shapes(norm: nn.LayerNorm, name: str) -> dict[str, torch.Size]:
    return {name + ".weight": norm.weight.shape, name + ".bias": norm.bias.shape}


def _load_norm(norm: nn.LayerNorm, state: Mapping[str, Tensor], name: str) -> None:
    norm.weight = nn.Parameter(state[name + ".weight"], requires_grad=False)
    norm.bias = nn.Parameter(state[name + ".bias"], requires_grad=False)
