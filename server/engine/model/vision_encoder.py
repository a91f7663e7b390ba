"""The vision encoder of Florence-2: DaViT and the projector. Its features equal those of transformers."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import Florence2Config

from server.engine.model.davit import (
    ChannelBlock,
    ChannelNorm,
    ChannelsLastConv,
    ConvEmbedding,
    SpatialBlock,
    merge_into_tiles,
)
from server.engine.model.linear import BatchAdapters, LoraLinear, LoraTarget

_PROJECTOR = "model.multi_modal_projector."
_ROW_EMBEDDINGS = _PROJECTOR + "image_position_embed.row_embeddings.weight"
_COLUMN_EMBEDDINGS = _PROJECTOR + "image_position_embed.column_embeddings.weight"
_TIME_EMBEDDINGS = _PROJECTOR + "visual_temporal_embed.pos_idx_to_embed"


class MultiModalProjector(nn.Module):
    """Projects the last grid to image tokens of the language model's width.

    Adds position embeddings, and puts the mean of all tokens first.
    """

    positions: Tensor  # [side, side, c], of the largest grid

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.image_projection = LoraLinear(channels, outputs, bias=False)
        self.image_proj_norm = ChannelNorm(outputs)

    def forward(self, x: Tensor, adapters: BatchAdapters) -> Tensor:
        """x [n, h, w, c] → [n, 1 + h · w, outputs]."""
        n, h, w, c = x.shape
        tokens = (x + self.positions[:h, :w]).view(n, h * w, c)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return self.image_proj_norm(self.image_projection(tokens, adapters))


class VisionEncoder(nn.Module):
    """The same as transformers' `get_image_features(…).pooler_output`, for inference only.

    Submodules have native names, so the key of a weight is its path: `convs.*` and `blocks.*` under
    `model.vision_tower.`, `projector.*` under `model.multi_modal_projector.`.
    """

    def __init__(self, config: Florence2Config) -> None:
        """Raises ValueError for an activation function other than GELU."""
        super().__init__()
        self._config = vision = config.vision_config
        if vision.activation_function != "gelu":
            raise ValueError(f"Florence-2's vision encoder uses gelu, not {vision.activation_function}")
        widths, bias = vision.embed_dim, vision.qkv_bias
        self.convs = nn.ModuleList(
            ConvEmbedding(inputs, outputs, size, stride, padding, norm_first=norm_first)
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
                block = {
                    "spatial_block": SpatialBlock(c, hidden, heads, vision.window_size, bias=bias),
                    "channel_block": ChannelBlock(c, hidden, groups, bias=bias),
                }
                stage.append(nn.ModuleDict(block))
            self.blocks.append(stage)
        self.projector = MultiModalProjector(widths[-1], vision.projection_dim)
        self.requires_grad_(False)

    def get_weight_shapes(self) -> dict[str, torch.Size]:
        """Returns the native keys and shapes of the weights that `load_weights` needs."""
        vision = self._config
        width, side = vision.embed_dim[-1], vision.max_position_embeddings
        embeddings = {
            _ROW_EMBEDDINGS: (side, width // 2),
            _COLUMN_EMBEDDINGS: (side, width - width // 2),
            _TIME_EMBEDDINGS: (vision.max_temporal_embeddings, width),
        }
        shapes = {_to_native_path(name): value.shape for name, value in self.state_dict().items()}
        return shapes | {name: torch.Size(size) for name, size in embeddings.items()}

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Loads weights by their native keys, without a copy. Ignores other keys. Raises KeyError for a missing one."""
        self.load_state_dict({name: state[_to_native_path(name)] for name in self.state_dict()}, assign=True)
        for module in self.modules():
            if isinstance(module, ChannelsLastConv):
                module.prepare_weights()
        rows, columns = state[_ROW_EMBEDDINGS], state[_COLUMN_EMBEDDINGS]
        side = len(rows)
        grid = torch.cat([columns.expand(side, -1, -1), rows[:, None].expand(-1, side, -1)], 2)
        positions = grid + state[_TIME_EMBEDDINGS][0]
        self.projector.register_buffer("positions", positions, persistent=False)

    def forward(self, pixels: Tensor, adapters: BatchAdapters = ()) -> Tensor:
        """Normalized pixels [n, 3, h, w] → [n, 1 + grid, projection_dim], the pooled token first.

        All images of a batch share their adapters (`rows` None), because the rows of a layer are windows or tokens.
        Raises ValueError otherwise.
        """
        if any(rows is not None for _, rows in adapters):
            raise ValueError("all images of a batch share one adapter; run another batch for another adapter")
        parts = list(pixels.permute(0, 2, 3, 1).split(1 if pixels.device.type == "cpu" else len(pixels)))
        for conv, stage in zip(self.convs, self.blocks, strict=True):
            parts = merge_into_tiles([conv(x) for x in parts])
            for block in cast(nn.ModuleList, stage):
                for half in cast(nn.ModuleDict, block).values():
                    parts = [half(x, adapters) for x in parts]
        return torch.cat([self.projector(x, adapters) for x in parts])

    def get_lora_targets(self) -> dict[str, LoraTarget]:
        """Returns the modules that LoRA can adapt, by native path."""
        linears = ((name, module) for name, module in self.named_modules() if isinstance(module, LoraLinear))
        return {_to_native_path(name): LoraTarget(module, 0) for name, module in linears}


def _to_native_path(name: str) -> str:
    """Returns the path of a module or weight in transformers' model."""
    inner = name.removeprefix("projector.")
    return f"model.vision_tower.{name}" if inner == name else _PROJECTOR + inner
