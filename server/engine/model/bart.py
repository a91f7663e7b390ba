"""BART (Lewis et al. 2020, arXiv:1910.13461) as Florence-2 uses it: an encoder, and a decoder over a KV cache.

Post-norm layers, learnt positions with two rows to spare, exact GELU. Layers that read the same input are one matrix
product (q, k, v; k, v of the encoder's states). The keys and values that a request needs stay in its KV cache slot
(`server.engine.decoding.kv_cache`); the beams of a request are queries on one slot, so they share its cross-attention.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import BartConfig

from server.engine.decoding.kv_cache import CacheView
from server.engine.model.linear import BatchAdapters, LoraLinear, PackedMatrix

OFFSET = 2  # rows of the position table that BART leaves unused
_ROOT = "model.language_model."
_TABLE = _ROOT + "shared.weight"


class Block(nn.Module):
    """A part of a layer that adds to its input and normalises: LayerNorm(x + f(x))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """LayerNorm(x + y); `y` is spent."""
        return cast(Tensor, self.norm(y.add_(x)))


class FeedForward(Block):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__(dim)
        self.fc1, self.fc2 = LoraLinear(dim, inner), LoraLinear(inner, dim)

    def forward(self, x: Tensor, shares: BatchAdapters) -> Tensor:
        return self.add(x, self.fc2(self.fc1(x, shares, gelu=True), shares))


class SelfAttention(Block):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim)
        self.heads = heads
        self.qkv, self.out = LoraLinear(dim, 3 * dim), LoraLinear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, shares: BatchAdapters) -> Tensor:
        """x [n, t, d]; `mask` [n, 1, 1, t], added to the scores; the encoder's, over all places at once."""
        n, t, d = x.shape
        q, k, v = self.qkv(x, shares).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.add(x, self.out(seen.transpose(1, 2).reshape(n, t, d), shares))

    def step(self, x: Tensor, layer: int, views: Sequence[CacheView], shares: BatchAdapters) -> Tensor:
        """x [rows, d], the newest tokens: their keys and values are cached, then each row attends to its own past."""
        seen = []
        parts = _parted(self.qkv(x, shares).view(len(x), 3, self.heads, -1), views)
        for view, part in zip(views, parts, strict=True):
            own = part.view(view.count, view.queries, 3, self.heads, -1)
            k, v = view.append(layer, own[:, :, 1], own[:, :, 2])
            q = own[:, :, 0].transpose(1, 2).to(k.dtype)
            look = F.scaled_dot_product_attention(q, k, v, attn_mask=view.self_mask)
            seen.append(look.transpose(1, 2).reshape(view.rows, -1).to(x.dtype))
        return self.add(x, self.out(seen[0] if len(seen) == 1 else torch.cat(seen), shares))


class CrossAttention(Block):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim)
        self.heads = heads
        self.q, self.kv, self.out = LoraLinear(dim, dim), LoraLinear(dim, 2 * dim), LoraLinear(dim, dim)

    def read(self, states: Tensor, shares: BatchAdapters) -> tuple[Tensor, Tensor]:
        """The encoder's states [n, t, d] → keys and values [n, heads, t, d / heads]."""
        k, v = self.kv(states, shares).view(*states.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return k, v

    def step(self, x: Tensor, layer: int, views: Sequence[CacheView], shares: BatchAdapters) -> Tensor:
        """x [rows, d] → what each row sees of its request's picture and prompt, added."""
        seen = []
        parts = _parted(self.q(x, shares), views)
        for view, part in zip(views, parts, strict=True):
            k, v = view.read_cross(layer)
            q = part.view(view.count, view.queries, self.heads, -1).transpose(1, 2).to(k.dtype)
            look = F.scaled_dot_product_attention(q, k, v, attn_mask=view.cross_mask)
            seen.append(look.transpose(1, 2).reshape(view.rows, -1).to(x.dtype))
        return self.add(x, self.out(seen[0] if len(seen) == 1 else torch.cat(seen), shares))


def _parted(rows: Tensor, views: Sequence[CacheView]) -> Sequence[Tensor]:
    """Each view's rows."""
    return [rows] if len(views) == 1 else rows.split([view.rows for view in views])


class Layer(nn.Module):
    """One layer of the encoder, or of the decoder, which also looks at what was read."""

    def __init__(self, dim: int, heads: int, inner: int, *, looks: bool) -> None:
        super().__init__()
        self.attention, self.forwards = SelfAttention(dim, heads), FeedForward(dim, inner)
        self.cross = CrossAttention(dim, heads) if looks else None

    def parts(self) -> tuple[dict[LoraLinear, tuple[str, ...]], dict[nn.LayerNorm, str]]:
        """The matrix layers and the norms, by their native names within the layer."""
        own, other = "self_attn.", "encoder_attn."
        linears: dict[LoraLinear, tuple[str, ...]] = {
            self.attention.qkv: (own + "q_proj", own + "k_proj", own + "v_proj"),
            self.attention.out: (own + "out_proj",),
            self.forwards.fc1: ("fc1",),
            self.forwards.fc2: ("fc2",),
        }
        norms = {self.attention.norm: "self_attn_layer_norm", self.forwards.norm: "final_layer_norm"}
        if self.cross:
            linears[self.cross.q] = (other + "q_proj",)
            linears[self.cross.kv] = (other + "k_proj", other + "v_proj")
            linears[self.cross.out] = (other + "out_proj",)
            norms[self.cross.norm] = "encoder_attn_layer_norm"
        return linears, norms


class Half(nn.Module):
    """The encoder or the decoder: positions, a norm, layers."""

    def __init__(self, config: BartConfig, layers: int, heads: int, inner: int, *, looks: bool) -> None:
        super().__init__()
        self.positions = nn.Parameter(
            torch.empty(config.max_position_embeddings + OFFSET, config.d_model), requires_grad=False
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.stack = nn.ModuleList(Layer(config.d_model, heads, inner, looks=looks) for _ in range(layers))

    @property
    def layers(self) -> list[Layer]:
        return cast(list[Layer], list(self.stack))


class Encoder(Half):
    def __init__(self, config: BartConfig) -> None:
        layers, heads, inner = config.encoder_layers, config.encoder_attention_heads, config.encoder_ffn_dim
        super().__init__(config, layers, heads, inner, looks=False)

    def forward(self, embedded: Tensor, lengths: Sequence[int], shares: BatchAdapters = ()) -> Tensor:
        """embedded [n, t, d], of which the first `lengths` places of each row count → states [n, t, d]."""
        t = embedded.shape[1]
        x: Tensor = self.norm(embedded + self.positions[OFFSET : OFFSET + t])
        mask = padding(lengths, t, x)
        for layer in self.layers:
            x = layer.forwards(layer.attention(x, mask, shares), shares)
        return x


class Decoder(Half):
    def __init__(self, config: BartConfig) -> None:
        layers, heads, inner = config.decoder_layers, config.decoder_attention_heads, config.decoder_ffn_dim
        super().__init__(config, layers, heads, inner, looks=True)

    def read(self, states: Tensor, view: CacheView, shares: BatchAdapters = ()) -> None:
        """Puts the encoder's states [n, t, d] into the view's KV cache slots, as the keys and values of each layer."""
        for i, layer in enumerate(self.layers):
            if layer.cross:
                view.write_cross(i, *layer.cross.read(states, shares))

    def forward(
        self, words: Tensor, positions: Tensor, views: Sequence[CacheView], shares: BatchAdapters = ()
    ) -> Tensor:
        """words [rows, d]: the newest tokens of the views, one after the other; positions [rows] → states [rows, d]."""
        x: Tensor = self.norm(words + self.positions[positions + OFFSET])
        for i, layer in enumerate(self.layers):
            x = layer.attention.step(x, i, views, shares)
            if layer.cross:
                x = layer.cross.step(x, i, views, shares)
            x = layer.forwards(x, shares)
        return x


def padding(lengths: Sequence[int], longest: int, like: Tensor) -> Tensor | None:
    """What hides the places past each row's length: [n, 1, 1, longest], to be added to scores; None if none are."""
    if min(lengths) == longest:
        return None
    ends = torch.tensor(lengths, device=like.device)
    hidden = torch.arange(longest, device=like.device) >= ends[:, None]
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None]


class Bart(nn.Module):
    """Encoder, decoder and the one table of words that both read and the answers are read through."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.empty(config.vocab_size, config.d_model), requires_grad=False)
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def shapes(self) -> dict[str, torch.Size]:
        """Native keys → the shapes of the weights that `load` takes."""
        found = {_TABLE: self.table.shape}
        for side, half in (("encoder", self.encoder), ("decoder", self.decoder)):
            found[f"{_ROOT}{side}.embed_positions.weight"] = half.positions.shape
            found |= _sizes(half.norm, f"{_ROOT}{side}.layernorm_embedding")
        for path, layer in self._layers():
            linears, norms = layer.parts()
            for linear, names in linears.items():
                outputs, inputs = linear.weight.shape
                for name in names:
                    found[f"{path}{name}.weight"] = torch.Size([outputs // len(names), inputs])
                    found[f"{path}{name}.bias"] = torch.Size([outputs // len(names)])
            for norm, name in norms.items():
                found |= _sizes(norm, path + name)
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the native `model.language_model.*` weights, of one device and type; other keys are ignored."""
        self.table = nn.Parameter(state[_TABLE], requires_grad=False)
        self._head = PackedMatrix(self.table)
        for side, half in (("encoder", self.encoder), ("decoder", self.decoder)):
            half.positions = nn.Parameter(state[f"{_ROOT}{side}.embed_positions.weight"], requires_grad=False)
            _norm(half.norm, state, f"{_ROOT}{side}.layernorm_embedding")
        for path, layer in self._layers():
            linears, norms = layer.parts()
            for linear, names in linears.items():
                linear.weight = _joined(state, path, names, "weight")
                linear.bias = _joined(state, path, names, "bias")
            for norm, name in norms.items():
                _norm(norm, state, path + name)

    def adaptable(self) -> dict[str, tuple[LoraLinear, int]]:
        """Native module path → the layer that computes it, and its first output row there."""
        found: dict[str, tuple[LoraLinear, int]] = {}
        for path, layer in self._layers():
            for linear, names in layer.parts()[0].items():
                rows = linear.weight.shape[0] // len(names)
                found |= {path + name: (linear, i * rows) for i, name in enumerate(names)}
        return found

    def logits(self, x: Tensor) -> Tensor:
        """[rows, d] → [rows, V] in fp32."""
        return self._head.multiply(x).float()

    def _layers(self) -> Iterator[tuple[str, Layer]]:
        """Every layer, after its native path."""
        for side, half in (("encoder", self.encoder), ("decoder", self.decoder)):
            for i, layer in enumerate(half.layers):
                yield f"{_ROOT}{side}.layers.{i}.", layer


def _joined(state: Mapping[str, Tensor], layer: str, names: Sequence[str], part: str) -> nn.Parameter:
    tensors = [state[f"{layer}{name}.{part}"] for name in names]
    return nn.Parameter(tensors[0] if len(tensors) == 1 else torch.cat(tensors), requires_grad=False)


def _sizes(norm: nn.LayerNorm, name: str) -> dict[str, torch.Size]:
    return {name + ".weight": norm.weight.shape, name + ".bias": norm.bias.shape}


def _norm(norm: nn.LayerNorm, state: Mapping[str, Tensor], name: str) -> None:
    norm.weight = nn.Parameter(state[name + ".weight"], requires_grad=False)
    norm.bias = nn.Parameter(state[name + ".bias"], requires_grad=False)
