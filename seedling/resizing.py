"""Changes a trained seedling in place: larger or smaller images, more blocks, more positions."""

import numpy as np
import torch
from torch import nn
from transformers import Florence2ForConditionalGeneration

from seedling import architecture
from seedling.architecture import compute_cell_centers, compute_fourier_features, count_cells
from seedling.initialization import InitScheme, initialize_layer


@torch.no_grad()
def resize_input(model: Florence2ForConditionalGeneration, image_side: int, *, ordered: bool = True) -> None:
    """Adapts the model to images of `image_side` pixels. Some parameters change their shape.

    Windows keep their share of the image. Positions of cells keep their place in the image and are interpolated
    bilinearly. Positions of the prompt, which follow them, keep their order. If the model was initialized with
    `ordered` positions, only the learned difference from the Fourier features is interpolated, and the features are
    computed for the new grid. Raises ValueError as `count_cells` does.
    """
    vision = model.config.vision_config
    old, new = vision.max_position_embeddings, count_cells(image_side)
    if old == new:
        return
    weights = compute_interpolation_weights(compute_cell_centers(old), compute_cell_centers(new))
    position_embed = model.model.multi_modal_projector.image_position_embed
    for axis in (position_embed.row_embeddings, position_embed.column_embeddings):
        old_features, new_features = (
            compute_fourier_features(compute_cell_centers(n), axis.weight.shape[1]) * ordered for n in (old, new)
        )
        axis.weight = nn.Parameter((weights @ (axis.weight.cpu() - old_features) + new_features).to(axis.weight))
        axis.num_embeddings = new
    positions = model.model.language_model.encoder.embed_positions
    first = positions.offset
    pooled, cells, prompt = positions.weight[first:].split([1, old**2, len(positions.weight) - first - 1 - old**2])
    weights = weights.to(cells)
    cells = torch.einsum("ri,cj,ijd->rcd", weights, weights, cells.view(old, old, -1)).flatten(0, 1)
    padding = prompt[-1:].expand(max(old**2 - new**2, 0), -1)
    resized = torch.cat([positions.weight[:first], pooled, cells, prompt, padding])
    positions.weight.copy_(resized[: len(positions.weight)])
    vision.max_position_embeddings = vision.window_size = new
    for module in model.modules():
        if hasattr(module, "window_size"):
            module.window_size = new


@torch.no_grad()
def extend_architecture(model: Florence2ForConditionalGeneration) -> None:
    """Extends a model of an earlier architecture to the current depths and positions. Its outputs stay the same.

    New blocks are added at the end of their stage of the vision encoder, with output weights of zero. New positions
    are copies of the last one.
    """
    vision, encoder = model.config.vision_config, model.model.vision_tower
    for stage, (blocks, depth) in enumerate(zip(encoder.blocks, architecture.DEPTHS, strict=True)):
        while len(blocks) < depth:
            block = type(blocks[-1])(vision, stage, 0.0, 0.0).to(model.device)
            for module in block.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    initialize_layer(module, InitScheme.XAVIER)
            spatial, channel = block.spatial_block, block.channel_block
            outputs = [layer for half in (spatial, channel) for layer in (half.conv1, half.conv2, half.ffn.fc2)]
            for layer in (*outputs, spatial.window_attn.proj, channel.channel_attn.proj):
                layer.weight.zero_()
            blocks.append(block)
    vision.depths = list(architecture.DEPTHS)
    text, language_model = model.config.text_config, model.model.language_model
    for half in (language_model.encoder, language_model.decoder):
        table = half.embed_positions
        missing = max(architecture.MAX_POSITIONS - text.max_position_embeddings, 0)
        table.weight = nn.Parameter(torch.cat([table.weight, table.weight[-1:].expand(missing, -1)]))
        table.num_embeddings = len(table.weight)
    text.max_position_embeddings = architecture.MAX_POSITIONS


def compute_interpolation_weights(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Returns linear interpolation weights, [new, old].

    A new position takes the two old ones around it by proximity; beyond the first or last one, only that one.
    """
    columns = [torch.from_numpy(np.interp(new.numpy(), old.numpy(), row)) for row in torch.eye(len(old)).numpy()]
    return torch.stack(columns).T.float()
