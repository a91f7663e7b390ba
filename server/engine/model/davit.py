"""The layers of DaViT (Ding et al. 2022, arXiv:2204.03645), the vision encoder's backbone.

Images and features have one layout, [n, h, w, c]: n images, h × w tokens, c channels. A convolution reads it as
channels-last, a linear layer as rows of c, so that no layer copies. On a CPU, images are processed one by one, in tiles
of rows: what one layer writes is still in the cache when the next one reads it, and no large buffer is allocated.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from server.engine.model.linear import BatchAdapters, LoraLinear

TILE_TOKENS = 1152
"""Tokens per tile: enough rows for a fast matrix product, few enough for the CPU's cache."""


def split_into_tiles(x: Tensor, step: int = 1) -> Iterator[Tensor]:
    """x [n, h, w, …] → views [n, rows, w, …] of about TILE_TOKENS tokens; `rows` is a multiple of `step`.

    On a GPU there is one tile.
    """
    if x.device.type != "cpu":
        return iter((x,))
    return iter(x.split(step * max(1, TILE_TOKENS // (step * x.shape[2])), 1))


def merge_into_tiles(parts: list[Tensor]) -> list[Tensor]:
    """Merges small images: parts [n, h, w, c] → fewer parts, each with as many images as fit in a tile."""
    n, h, w, _ = parts[0].shape
    per_tile = TILE_TOKENS // (h * w)
    return list(torch.cat(parts).split(per_tile)) if len(parts) > 1 and per_tile > n else parts


class ChannelNorm(nn.Module):
    """Layer norm over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x […, c] → the same shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


class ChannelsLastConv(nn.Module):
    """A 2D convolution of channels-last images."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, padding: int, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.padding, self.groups = stride, padding, groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, size, size))
        self.bias = nn.Parameter(torch.empty(outputs))

    def prepare_weights(self) -> None:
        """Converts the weights to channels-last. Call it after the weights are loaded."""
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, h, w, inputs] → [n, h', w', outputs]."""
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return y.permute(0, 2, 3, 1).contiguous()


class ConvPositionEncoding(ChannelsLastConv):
    """x + a depthwise 3 × 3 convolution of x, which gives each token its position.

    Source: conditional positional encoding (Chu et al. 2021, arXiv:2102.10882).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, 1, 1, channels)

    def prepare_weights(self) -> None:
        """Folds the addition of x into the kernel. Not in 16 bits, where adding 1 would round the kernel away."""
        if self.weight.dtype == torch.float32:
            self.weight.data = self.weight.data.clone()
            self.weight.data[:, 0, 1, 1] += 1

    def forward(self, x: Tensor) -> Tensor:
        """x [n, h, w, c] → the same shape, in new memory."""
        y = super().forward(x)
        return y if self.weight.dtype == torch.float32 else y.add_(x)


class ConvEmbedding(nn.Module):
    """The patch embedding at the start of a stage: a strided convolution with a layer norm before or after it."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, padding: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.conv = ChannelsLastConv(inputs, outputs, size, stride, padding)
        self.norm = ChannelNorm(inputs if norm_first else outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, h, w, inputs] → [n, h / stride, w / stride, outputs]."""
        return self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))


class WindowAttention(nn.Module):
    """Spatial window attention (section 3.2): the tokens of each window attend to each other."""

    def __init__(self, channels: int, heads: int, side: int, *, bias: bool) -> None:
        """`side`: tokens per side of a window."""
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv = LoraLinear(channels, 3 * channels, bias=bias)
        self.proj = LoraLinear(channels, channels)

    def forward(self, x: Tensor, norm: ChannelNorm, adapters: BatchAdapters) -> None:
        """Adds the attention of norm(x) to x [n, h, w, c] in place."""
        for tile in split_into_tiles(x, self.side):
            self._add_attention(tile, norm(tile), adapters)

    def _add_attention(self, x: Tensor, normed: Tensor, adapters: BatchAdapters) -> None:
        n, h, w, c = x.shape
        side = self.side
        bottom, right = -h % side, -w % side  # padding to whole windows
        if bottom or right:
            normed = F.pad(normed, (0, 0, 0, right, 0, bottom))
        rows, columns = (h + bottom) // side, (w + right) // side
        windows = normed.view(n, rows, side, columns, side, c).transpose(2, 3).reshape(-1, side * side, c)
        qkv = self.qkv(windows, adapters).view(-1, side * side, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, side * side, c)
        y = self.proj(attended, adapters).view(n, rows, columns, side, side, c).transpose(2, 3)
        if bottom or right:
            x += y.reshape(n, h + bottom, w + right, c)[:, :h, :w]
        else:
            x.view(n, rows, side, columns, side, c).add_(y)


class ChannelAttention(nn.Module):
    """Channel group attention (section 3.3): the channels of each group attend to each other.

    The features of a channel are its values at all tokens.
    """

    def __init__(self, channels: int, groups: int, *, bias: bool) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = LoraLinear(channels, 3 * channels, bias=bias)
        self.proj = LoraLinear(channels, channels)

    def forward(self, x: Tensor, norm: ChannelNorm, adapters: BatchAdapters) -> None:
        """Adds the attention of norm(x) to x [n, h, w, c] in place.

        Once the attention weights are known, value projection, attention and output projection are linear in the
        tokens. They are folded into one matrix per image, so that one product replaces two. This is not possible with
        an adapter, which changes both projections, and does not pay off when the grid has few tokens.
        """
        n, h, w, c = x.shape
        adapted = any(key in layer.deltas for key, _ in adapters for layer in (self.qkv, self.proj))
        folded = not adapted and h * w > c
        scores, saved = x.new_zeros((), dtype=torch.float32), []
        for tile in split_into_tiles(x):
            normed = norm(tile)
            if folded:
                bias = None if self.qkv.bias is None else self.qkv.bias[: 2 * c]
                q, k = self._split_groups(F.linear(normed, self.qkv.weight[: 2 * c], bias))
                saved.append(normed.view(n, -1, c))
            else:
                q, k, v = self._split_groups(self.qkv(normed, adapters))
                saved.append(v)
            scores = scores + q.transpose(2, 3) @ k
        attention = (scores * (h * w) ** -0.5).softmax(-1).to(x.dtype)  # [n, groups, d, d]
        if folded:
            weight, bias = self._fold(attention)
            for tile, normed in zip(split_into_tiles(x), saved, strict=True):
                tile += torch.baddbmm(bias, normed, weight).view(tile.shape)
        else:
            for tile, v in zip(split_into_tiles(x), saved, strict=True):
                attended = (v @ attention.transpose(2, 3)).transpose(1, 2).reshape(tile.shape)
                tile += self.proj(attended, adapters)

    def _split_groups(self, y: Tensor) -> tuple[Tensor, ...]:
        """[n, h, w, k · c] → k tensors [n, groups, tokens, d], d = c / groups."""
        c = self.proj.weight.shape[0]
        return y.view(len(y), -1, y.shape[-1] // c, self.groups, c // self.groups).permute(2, 0, 3, 1, 4).unbind()

    def _fold(self, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Folds value projection, attention [n, groups, d, d] and output projection.

        Returns the weight [n, c, c] and the bias [n or 1, 1, c] that replace them.
        """
        c = self.proj.weight.shape[0]

        def attend_and_project(v: Tensor) -> Tensor:
            """v [inputs, c] → [n, inputs, c]."""
            attended = v.view(-1, self.groups, c // self.groups).transpose(0, 1) @ attention.transpose(2, 3)
            return attended.transpose(1, 2).reshape(len(attention), -1, c) @ self.proj.weight.T

        weight = attend_and_project(self.qkv.weight[2 * c :].T)
        bias = cast(Tensor, self.proj.bias)
        if self.qkv.bias is None:
            return weight, bias.expand(1, 1, c)
        return weight, bias + attend_and_project(self.qkv.bias[None, 2 * c :])


class DavitFeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = LoraLinear(channels, hidden)
        self.fc2 = LoraLinear(hidden, channels)

    def forward(self, x: Tensor, norm: ChannelNorm, adapters: BatchAdapters) -> None:
        """Adds the feed-forward of norm(x) to x [n, h, w, c] in place."""
        for tile in split_into_tiles(x):
            tile += self.fc2(self.fc1(norm(tile), adapters, gelu=True), adapters)


class DualAttentionHalf(nn.Module):
    """One half of a dual attention block: attention, then the feed-forward, each after a position encoding."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvPositionEncoding(channels), ConvPositionEncoding(channels)
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.ffn = DavitFeedForward(channels, hidden)

    def attend(self, x: Tensor, adapters: BatchAdapters) -> None:
        """Adds the attention to x [n, h, w, c] in place."""
        raise NotImplementedError

    def forward(self, x: Tensor, adapters: BatchAdapters) -> Tensor:
        """x [n, h, w, c] → the same shape."""
        x = self.conv1(x)
        self.attend(x, adapters)
        x = self.conv2(x)
        self.ffn(x, self.norm2, adapters)
        return x


class SpatialBlock(DualAttentionHalf):
    """Window attention and feed-forward."""

    def __init__(self, channels: int, hidden: int, heads: int, side: int, *, bias: bool) -> None:
        super().__init__(channels, hidden)
        self.window_attn = WindowAttention(channels, heads, side, bias=bias)

    def attend(self, x: Tensor, adapters: BatchAdapters) -> None:
        """Adds the attention to x [n, h, w, c] in place."""
        self.window_attn(x, self.norm1, adapters)


class ChannelBlock(DualAttentionHalf):
    """Channel attention and feed-forward."""

    def __init__(self, channels: int, hidden: int, groups: int, *, bias: bool) -> None:
        super().__init__(channels, hidden)
        self.channel_attn = ChannelAttention(channels, groups, bias=bias)

    def attend(self, x: Tensor, adapters: BatchAdapters) -> None:
        """Adds the attention to x [n, h, w, c] in place."""
        self.channel_attn(x, self.norm1, adapters)
