"""Changing the image size and the depth of a trained seedling."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerBase

from seedling import architecture, resizing


def test_a_larger_image_keeps_the_meaning_of_positions(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """A position in the image means the same as before, and so does each position of the prompt."""
    model = architecture.build_model(0, image_side=192)[0].eval()
    torch.manual_seed(0)
    position_embed = model.model.multi_modal_projector.image_position_embed
    positions = model.model.language_model.encoder.embed_positions
    with torch.no_grad():
        for axis in (position_embed.row_embeddings, position_embed.column_embeddings):
            axis.weight += torch.linspace(-1, 1, 12)[:, None]  # as if training had added the position
        down, across = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
        positions.weight[3 : 3 + 144] = (3 * down + across).flatten()[:, None].expand(-1, 192)
    before = positions.weight.clone()
    resizing.resize_input(model, 256)
    vision = model.config.vision_config
    assert (vision.max_position_embeddings, vision.window_size) == (16, 16)
    # Cell 4 of 16 has the center of cell 3 of 12: a quarter of the side, up to half a pixel.
    features = architecture.compute_fourier_features(architecture.compute_cell_centers(16), 96)
    learned = position_embed.row_embeddings.weight.detach() - features
    for new, old in ((0, 0), (4, 3), (8, 6), (12, 9)):
        assert learned[new, 0] == pytest.approx(-1 + 2 * old / 11, abs=2e-3)
    assert learned[15, 0] == pytest.approx(1)  # beyond the last of 12: the same as the last
    cells = positions.weight.detach()[3 : 3 + 256].view(16, 16, 192)[..., 0]
    assert cells[4, 8] == pytest.approx(3 * 3 + 6, abs=0.04)
    assert torch.equal(positions.weight[:3], before[:3])
    assert torch.equal(positions.weight[3 + 256 :], before[3 + 144 : -(256 - 144)])
    assert positions.weight.shape == before.shape
    noise = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.get_image_features(noise).pooler_output
    assert features.shape == (1, 257, 192)
    architecture.save_checkpoint(model, tokenizer, tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.size == {"height": 256, "width": 256}
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.model.vision_tower.blocks[0][0].spatial_block.window_attn.window_size == 16
    with torch.no_grad():  # a model that was created with this size computes the same
        again = loaded.float().eval().get_image_features(noise).pooler_output
    torch.testing.assert_close(again, features, rtol=0.01, atol=0.01)


def test_a_smaller_image_keeps_its_positions_and_frees_the_rest() -> None:
    model = architecture.build_model(0, image_side=192)[0]
    position_embed = model.model.multi_modal_projector.image_position_embed
    positions = model.model.language_model.encoder.embed_positions
    before = positions.weight.detach().clone()
    resizing.resize_input(model, 96)
    torch.testing.assert_close(
        position_embed.row_embeddings.weight.detach(),
        architecture.compute_fourier_features(architecture.compute_cell_centers(6), 96),
    )
    prompt = before[3 + 144 :]
    assert torch.equal(positions.weight[3 + 36 : 3 + 36 + len(prompt)], prompt)
    assert torch.equal(positions.weight[3 + 36 + len(prompt) :], prompt[-1:].expand(144 - 36, -1))


def test_unordered_positions_are_interpolated_directly() -> None:
    model = architecture.build_model(0, ordered=False, image_side=192)[0]
    axis = model.model.multi_modal_projector.image_position_embed.row_embeddings
    before = axis.weight.detach().clone()
    weights = resizing.compute_interpolation_weights(
        architecture.compute_cell_centers(12), architecture.compute_cell_centers(16)
    )
    resizing.resize_input(model, 256, ordered=False)
    torch.testing.assert_close(axis.weight.detach(), weights @ before)
    assert axis.weight.norm(dim=-1).max() <= 1 + 1e-5


@pytest.mark.parametrize("side", [0, -16, 100, 416])
def test_a_side_with_a_partial_cell_or_too_many_cells_is_rejected(side: int) -> None:
    model = architecture.build_model(0, image_side=96)[0]
    for call in (
        lambda: resizing.resize_input(model, side),
        lambda: architecture.build_model(0, image_side=side),
    ):
        with pytest.raises(ValueError, match="use a multiple of 16, up to 400"):
            call()


def test_the_same_size_changes_nothing() -> None:
    model = architecture.build_model(0)[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    resizing.resize_input(model, architecture.IMAGE_SIDE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_with_fewer_blocks_and_positions_keeps_its_outputs(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(architecture, "DEPTHS", (1, 1, 2, 1))
        patch.setattr(architecture, "MAX_POSITIONS", 512)
        model = architecture.build_model(0, image_side=96)[0].eval()
    noise = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    prompt = tokenizer("What does the image describe?")["input_ids"]
    inputs = {
        "input_ids": torch.tensor([[model.config.image_token_id] * 37 + prompt]),
        "pixel_values": noise,
        "decoder_input_ids": torch.tensor([[2, 0, 5]]),
    }
    with torch.no_grad():
        before = model(**inputs).logits
    own = {name: value.clone() for name, value in model.state_dict().items()}
    resizing.extend_architecture(model)
    whole = architecture.build_model(0, image_side=96)[0].state_dict()
    assert {name: value.shape for name, value in model.state_dict().items()} == {k: v.shape for k, v in whole.items()}
    for name, value in own.items():  # old values stay, and new positions are copies of the last one
        now = model.state_dict()[name]
        assert torch.equal(now[: len(value)], value), name
        assert torch.equal(now[len(value) :], value[-1:].expand_as(now[len(value) :])), name
    architecture.save_checkpoint(model, tokenizer, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["max_position_embeddings"] == 640
    model.requires_grad_(True)
    after = model(**inputs).logits
    torch.testing.assert_close(after.detach(), before)
    after.square().mean().backward()
    new = model.model.vision_tower.blocks[1][1]
    for half, attention in ((new.spatial_block, "window_attn"), (new.channel_block, "channel_attn")):
        assert all(m.weight.grad.abs().max() > 0 for m in (half.conv1, half.ffn.fc2, getattr(half, attention).proj))
