"""The vision tower of Florence-2: pictures → image tokens, as transformers' and with less memory moved.

DaViT (Ding et al. 2022, arXiv:2204.03645) and the projector on top of it. One layout throughout: a picture is
[n, h, w, c], which a convolution reads as channels-last, a linear layer as rows of c, and nothing copies in between.
On a CPU the pictures go one by one and each in tiles of rows, so that what a layer writes is still in the cache when
the next one reads it, and no large block is taken from the system and given back.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Florence2Config

from server.engine.model.linear import BatchAdapters, LoraLinear

TILE_TOKENS = 1152  # tokens: enough rows for a matrix product at full speed, few enough for the cache

_PROJECTOR = "model.multi_modal_projector."
_ROWS = _PROJECTOR + "image_position_embed.row_embeddings.weight"
_COLUMNS = _PROJECTOR + "image_position_embed.column_embeddings.weight"
_TIMES = _PROJECTOR + "visual_temporal_embed.pos_idx_to_embed"


def tiles(x: Tensor, step: int = 1) -> Iterator[Tensor]:
    """x [n, h, w, …] → views [n, rows, w, …] of about TILE tokens, rows a multiple of `step`; on a GPU all at once."""
    if x.device.type != "cpu":
        return iter((x,))
    return iter(x.split(step * max(1, TILE_TOKENS // (step * x.shape[2])), 1))


def together(parts: list[Tensor]) -> list[Tensor]:
    """Pictures [n, h, w, c] in parts → the same in fewer parts, as many at a time as make a tile."""
    n, h, w, _ = parts[0].shape
    fit = TILE_TOKENS // (h * w)
    return list(torch.cat(parts).split(fit)) if len(parts) > 1 and fit > n else parts


class Norm(nn.Module):
    """Layer norm over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x […, c] → the same shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


class Conv(nn.Module):
    """A convolution of channels-last pictures."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, padding: int, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.padding, self.groups = stride, padding, groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, size, size))
        self.bias = nn.Parameter(torch.empty(outputs))

    def arrange(self) -> None:
        """Lays the weights out as the pictures are, once."""
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, h, w, inputs] → [n, h', w', outputs]."""
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return y.permute(0, 2, 3, 1).contiguous()


class Mixing(Conv):
    """x + a depthwise 3 × 3 convolution of x: each block's sense of where its tokens are."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, 1, 1, channels)

    def arrange(self) -> None:
        """Folds the addition of x into the kernel's centre. 16 bits would round the kernel away beside the 1."""
        if self.weight.dtype == torch.float32:
            self.weight.data = self.weight.data.clone()
            self.weight.data[:, 0, 1, 1] += 1

    def forward(self, x: Tensor) -> Tensor:
        """x [n, h, w, c] → the same shape, in memory of its own."""
        y = super().forward(x)
        return y if self.weight.dtype == torch.float32 else y.add_(x)


class Patches(nn.Module):
    """What begins a stage: a strided convolution, and a layer norm after it (first stage) or before it."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, padding: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.conv = Conv(inputs, outputs, size, stride, padding)
        self.norm = Norm(inputs if norm_first else outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, h, w, inputs] → [n, h / stride, w / stride, outputs]."""
        return self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))


class WindowAttention(nn.Module):
    """Attention of the tokens of a window among each other, in heads of channels."""

    def __init__(self, channels: int, heads: int, side: int, *, bias: bool) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv = LoraLinear(channels, 3 * channels, bias=bias)
        self.proj = LoraLinear(channels, channels)

    def forward(self, x: Tensor, norm: Norm, shares: BatchAdapters) -> None:
        """Adds to x [n, h, w, c], in place, what its windows of side × side give."""
        for rows in tiles(x, self.side):
            self._add(rows, norm(rows), shares)

    def _add(self, x: Tensor, normed: Tensor, shares: BatchAdapters) -> None:
        n, h, w, c = x.shape
        side = self.side
        below, right = -h % side, -w % side
        if below or right:
            normed = F.pad(normed, (0, 0, 0, right, 0, below))
        down, across = (h + below) // side, (w + right) // side
        windows = normed.view(n, down, side, across, side, c).transpose(2, 3).reshape(-1, side * side, c)
        qkv = self.qkv(windows, shares).view(-1, side * side, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, side * side, c)
        y = self.proj(mixed, shares).view(n, down, across, side, side, c).transpose(2, 3)
        if below or right:
            x += y.reshape(n, h + below, w + right, c)[:, :h, :w]
        else:
            x.view(n, down, side, across, side, c).add_(y)


class ChannelAttention(nn.Module):
    """Attention of the channels of a group among each other; a channel's features are its values at all tokens."""

    def __init__(self, channels: int, groups: int, *, bias: bool) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = LoraLinear(channels, 3 * channels, bias=bias)
        self.proj = LoraLinear(channels, channels)

    def forward(self, x: Tensor, norm: Norm, shares: BatchAdapters) -> None:
        """Adds to x [n, h, w, c], in place, what its channels give.

        From the tokens to the sum, values, attention and projection are linear, so the picture's own product of their
        three matrices does in one layer what they do in two. Not for an adapter, which adds to each of them, nor for
        a grid of so few tokens that the product costs more than it saves.
        """
        n, h, w, c = x.shape
        adapted = any(share.adapter in layer.adapters for share in shares for layer in (self.qkv, self.proj))
        folded = not adapted and h * w > c
        scores, kept = x.new_zeros((), dtype=torch.float32), []
        for rows in tiles(x):
            normed = norm(rows)
            if folded:
                bias = None if self.qkv.bias is None else self.qkv.bias[: 2 * c]
                q, k = self._grouped(F.linear(normed, self.qkv.weight[: 2 * c], bias))
                kept.append(normed.view(n, -1, c))
            else:
                q, k, v = self._grouped(self.qkv(normed, shares))
                kept.append(v)
            scores = scores + q.transpose(2, 3) @ k
        attention = (scores * (h * w) ** -0.5).softmax(-1).to(x.dtype)  # [n, groups, d, d]
        if folded:
            weight, bias = self._fold(attention)
            for rows, normed in zip(tiles(x), kept, strict=True):
                rows += torch.baddbmm(bias, normed, weight).view(rows.shape)
        else:
            for rows, v in zip(tiles(x), kept, strict=True):
                rows += self.proj((v @ attention.transpose(2, 3)).transpose(1, 2).reshape(rows.shape), shares)

    def _grouped(self, y: Tensor) -> tuple[Tensor, ...]:
        """[n, h, w, several · c] → as many of [n, groups, tokens, d], d = c / groups."""
        c = self.proj.weight.shape[0]
        return y.view(len(y), -1, y.shape[-1] // c, self.groups, c // self.groups).permute(2, 0, 3, 1, 4).unbind()

    def _fold(self, attention: Tensor) -> tuple[Tensor, Tensor]:
        """[n, groups, d, d] → what a normed token is multiplied by, [n, c, c], and what is added, [n, 1, c]."""
        c = self.proj.weight.shape[0]

        def through(v: Tensor) -> Tensor:
            """v [inputs, c] → [n, inputs, c], each row attended and projected."""
            mixed = v.view(-1, self.groups, c // self.groups).transpose(0, 1) @ attention.transpose(2, 3)
            return mixed.transpose(1, 2).reshape(len(attention), -1, c) @ self.proj.weight.T

        weight, bias = self.qkv.weight[2 * c :], self.qkv.bias
        added = cast(Tensor, self.proj.bias)
        return through(weight.T), added + through(bias[None, 2 * c :]) if bias is not None else added.expand(1, 1, c)


class FeedForward(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = LoraLinear(channels, hidden)
        self.fc2 = LoraLinear(hidden, channels)

    def forward(self, x: Tensor, norm: Norm, shares: BatchAdapters) -> None:
        """Adds to x [n, h, w, c], in place, what its tokens give."""
        for rows in tiles(x):
            rows += self.fc2(self.fc1(norm(rows), shares, gelu=True), shares)


class Block(nn.Module):
    """Half a DaViT block: attention over windows or over channels, then the feed-forward."""

    def __init__(self, channels: int, hidden: int, **attention: nn.Module) -> None:
        """`attention`: the one module, by its native name."""
        super().__init__()
        self.conv1, self.conv2 = Mixing(channels), Mixing(channels)
        self.norm1, self.norm2 = Norm(channels), Norm(channels)
        ((self.attention, module),) = attention.items()
        self.add_module(self.attention, module)
        self.ffn = FeedForward(channels, hidden)

    def forward(self, x: Tensor, shares: BatchAdapters) -> Tensor:
        """x [n, h, w, c] → the same shape."""
        x = self.conv1(x)
        self.get_submodule(self.attention)(x, self.norm1, shares)
        x = self.conv2(x)
        self.ffn(x, self.norm2, shares)
        return x


class Projector(nn.Module):
    """The last grid → image tokens: positions added, the pooled token put first, all brought to the words' width."""

    positions: Tensor  # [side, side, c], for the largest grid

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.image_projection = LoraLinear(channels, outputs, bias=False)
        self.image_proj_norm = Norm(outputs)

    def forward(self, x: Tensor, shares: BatchAdapters) -> Tensor:
        """x [n, h, w, c] → [n, 1 + h · w, outputs]."""
        n, h, w, c = x.shape
        tokens = (x + self.positions[:h, :w]).view(n, h * w, c)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return self.image_proj_norm(self.image_projection(tokens, shares))


class VisionTower(nn.Module):
    """transformers' `get_image_features(…).pooler_output`, inference only.

    Submodules bear native names, so a weight's key is its path: `convs.*` and `blocks.*` under `model.vision_tower.`,
    `projector.*` under `model.multi_modal_projector.`.
    """

    def __init__(self, config: Florence2Config) -> None:
        super().__init__()
        self._config = vision = config.vision_config
        if vision.activation_function != "gelu":
            raise ValueError(f"Florence-2's vision tower uses gelu, not {vision.activation_function}")
        widths, bias = vision.embed_dim, vision.qkv_bias
        self.convs = nn.ModuleList(
            Patches(inputs, outputs, size, stride, padding, norm_first=norm_first)
            for inputs, outputs, size, stride, padding, norm_first in zip(
                (vision.in_channels, *widths[:-1]),
                widths,
                vision.patch_size,
                vision.patch_stride,
                vision.patch_padding,
                vision.patch_prenorm,
                strict=True,
            )
        )
        self.blocks = nn.ModuleList()
        for c, heads, groups, depth in zip(widths, vision.num_heads, vision.num_groups, vision.depths, strict=True):
            hidden = int(c * vision.mlp_ratio)
            stage = nn.ModuleList()
            for _ in range(depth):
                window = WindowAttention(c, heads, vision.window_size, bias=bias)
                channel = ChannelAttention(c, groups, bias=bias)
                block = {
                    "spatial_block": Block(c, hidden, window_attn=window),
                    "channel_block": Block(c, hidden, channel_attn=channel),
                }
                stage.append(nn.ModuleDict(block))
            self.blocks.append(stage)
        self.projector = Projector(widths[-1], vision.projection_dim)
        self.requires_grad_(False)

    def shapes(self) -> dict[str, torch.Size]:
        """Native keys → the shapes of the weights that `load` takes."""
        vision = self._config
        width, side = vision.embed_dim[-1], vision.max_position_embeddings
        positions = {
            _ROWS: (side, width // 2),
            _COLUMNS: (side, width - width // 2),
            _TIMES: (vision.max_temporal_embeddings, width),
        }
        own = {_native(name): value.shape for name, value in self.state_dict().items()}
        return own | {name: torch.Size(size) for name, size in positions.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the weights by their native keys, as they are; other keys are passed over. Raises KeyError."""
        self.load_state_dict({name: state[_native(name)] for name in self.state_dict()}, assign=True)
        for module in self.modules():
            if isinstance(module, Conv):
                module.arrange()
        down, across = state[_ROWS], state[_COLUMNS]
        side = len(down)
        grid = torch.cat([across.expand(side, -1, -1), down[:, None].expand(-1, side, -1)], 2)
        positions = grid + state[_TIMES][0]
        self.projector.register_buffer("positions", positions, persistent=False)

    def forward(self, pixels: Tensor, shares: BatchAdapters = ()) -> Tensor:
        """Normalised pixels [n, 3, h, w] → [n, 1 + grid, projection_dim], the pooled token first.

        `shares` name one adapter for all pictures (rows None), since a layer's rows are windows here, tokens there.
        """
        if any(share.rows is not None for share in shares):
            raise ValueError("the pictures of a batch share one adapter; run another batch for another")
        parts = list(pixels.permute(0, 2, 3, 1).split(1 if pixels.device.type == "cpu" else len(pixels)))
        for conv, stage in zip(self.convs, self.blocks, strict=True):
            parts = together([conv(x) for x in parts])
            for block in cast(nn.ModuleList, stage):
                for half in cast(nn.ModuleDict, block).values():
                    parts = [half(x, shares) for x in parts]
        return torch.cat([self.projector(x, shares) for x in parts])

    def adaptable(self) -> dict[str, tuple[LoraLinear, int]]:
        """Native path of each layer that an adapter may change → the layer, and the first of its output rows."""
        return {_native(name): (module, 0) for name, module in self.named_modules() if isinstance(module, LoraLinear)}


def _native(name: str) -> str:
    """The path of a module or weight of ours in transformers' model."""
    inside = name.removeprefix("projector.")
    return f"model.vision_tower.{name}" if inside == name else _PROJECTOR + inside
