"""The vision encoder: its features equal those of transformers."""

import pytest
import torch
from torch import Tensor, nn
from transformers import Florence2Config, Florence2ForConditionalGeneration

from server.engine.checkpoints.sources import SEEDLING_FOLDER
from server.engine.model.davit import TILE_TOKENS
from server.engine.model.linear import AdapterRows, LoraDelta
from server.engine.model.vision_encoder import VisionEncoder
from tests.server.engine.tiny import create_config, create_tiny_model


def create_encoder(model: Florence2ForConditionalGeneration) -> VisionEncoder:
    """Returns our vision encoder with the weights of a model of transformers."""
    with torch.device("meta"):
        encoder = VisionEncoder(model.config)
    encoder.load_weights(model.state_dict())
    return encoder


@torch.inference_mode()
def encode_with_transformers(model: Florence2ForConditionalGeneration, pixels: Tensor) -> Tensor:
    return model.model.get_image_features(pixels).pooler_output


@torch.inference_mode()
def encode_with_florist(model: Florence2ForConditionalGeneration, pixels: Tensor) -> Tensor:
    return create_encoder(model)(pixels)


def compute_distance(got: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, relative to the largest feature."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    return ((got - expected).abs().max() / expected.abs().max()).item()


def create_pixels(n: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(n + height)).to(dtype)


def randomize_weights(model: Florence2ForConditionalGeneration) -> Florence2ForConditionalGeneration:
    """Sets weights that are so large that every layer, including the attention scores, affects the features."""
    for name, value in model.named_parameters():
        if value.dim() > 1:
            value.data.normal_(std=1.5 / value[0].numel() ** 0.5)
        elif "norm" in name and name.endswith("weight"):
            value.data.uniform_(0.5, 1.5)
        else:
            value.data.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def base() -> Florence2ForConditionalGeneration:
    """The vision encoder of Florence-2-base with one block per stage, and a minimal BART."""
    torch.manual_seed(3)
    words = {"d_model": 768, "vocab_size": 8, "encoder_layers": 0, "decoder_layers": 0, "max_position_embeddings": 8}
    vision = {"depths": [1, 1, 1, 1], "projection_dim": 768}
    config = Florence2Config(text_config={"model_type": "bart", **words}, vision_config=vision, image_token_id=4)
    return randomize_weights(Florence2ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval())


@pytest.mark.parametrize(
    "size", [(64, 64), (96, 48), (50, 33), (64, 240), (224, 200)], ids=lambda size: f"{size[0]}x{size[1]}"
)
@pytest.mark.parametrize("seed", [0, 13])
def test_tiny_features_equal_transformers(seed: int, size: tuple[int, int]) -> None:
    """Also for grids that are not a multiple of the window, grids smaller than a window, and several tiles."""
    model, pixels = create_tiny_model(seed), create_pixels(3, *size)
    assert compute_distance(encode_with_florist(model, pixels), encode_with_transformers(model, pixels)) < 1e-5


def test_base_features_equal_transformers(base: Florence2ForConditionalGeneration) -> None:
    pixels = create_pixels(1, 288, 336)  # first grid: 6 × 7 windows, several tiles; last grid: less than a window
    assert 2 * TILE_TOKENS < (288 // 4) * (336 // 4)
    assert compute_distance(encode_with_florist(base, pixels), encode_with_transformers(base, pixels)) < 1e-5


def test_seedling_features_equal_transformers() -> None:
    model = Florence2ForConditionalGeneration.from_pretrained(SEEDLING_FOLDER, dtype=torch.float32).eval()
    pixels = create_pixels(4, 256, 256)
    assert compute_distance(encode_with_florist(model, pixels), encode_with_transformers(model, pixels)) < 1e-5


def test_channels_last_pixels_give_the_same_features() -> None:
    model, pixels = create_tiny_model(), create_pixels(2, 64, 64)
    channels_last = pixels.contiguous(memory_format=torch.channels_last)
    assert compute_distance(encode_with_florist(model, channels_last), encode_with_florist(model, pixels)) < 1e-6


@pytest.mark.parametrize(("dtype", "eps"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)], ids=str)
def test_16_bit_features_are_as_close_to_fp32_as_those_of_transformers(
    base: Florence2ForConditionalGeneration, dtype: torch.dtype, eps: float
) -> None:
    pixels = create_pixels(1, 96, 96)
    exact = encode_with_transformers(base, pixels)
    low = Florence2ForConditionalGeneration(base.config).to(dtype).eval()
    low.load_state_dict(base.state_dict())
    got, reference = (f(low, pixels.to(dtype)) for f in (encode_with_florist, encode_with_transformers))
    assert got.dtype == dtype
    error, reference_error = ((features.float() - exact).square().mean().sqrt() for features in (got, reference))
    assert error < 1.3 * reference_error + eps / 4


def test_loading_does_not_change_the_given_weights() -> None:
    model = create_tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    encoder = create_encoder(model)
    with torch.inference_mode():
        encoder(create_pixels(1, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.is_meta or p.requires_grad for p in encoder.parameters())
    given = {value.data_ptr() for value in model.state_dict().values()}
    assert all(layer.weight.data_ptr() in given for layer, _ in encoder.get_lora_targets().values())


def test_a_missing_weight_is_reported() -> None:
    model = create_tiny_model()
    state = model.state_dict()
    del state["model.vision_tower.blocks.2.0.channel_block.norm2.bias"]
    with pytest.raises(KeyError, match=r"blocks\.2\.0\.channel_block\.norm2\.bias"):
        VisionEncoder(model.config).load_weights(state)


def test_another_activation_is_rejected() -> None:
    config = create_config(64, 4)
    config.vision_config.activation_function = "relu"
    with pytest.raises(ValueError, match="relu"):
        VisionEncoder(config)


def test_lora_targets_are_all_linear_layers_by_native_path() -> None:
    model = create_tiny_model()
    native = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("model.vision_tower.", "model.multi_modal_projector."))
    }
    targets = create_encoder(model).get_lora_targets()
    assert targets.keys() == native.keys()
    for name, (layer, first) in targets.items():
        assert first == 0
        assert torch.equal(layer.weight, native[name].weight)


def test_an_adapter_equals_its_merged_weights() -> None:
    """For all layers. The deltas of other adapters are not applied."""
    model, pixels = create_tiny_model(), create_pixels(2, 64, 80)
    encoder = create_encoder(model)
    torch.manual_seed(7)
    modules = dict(model.named_modules())
    with torch.inference_mode():
        plain = encoder(pixels)
        for name, (layer, first) in encoder.get_lora_targets().items():
            rank, (outputs, inputs) = 4, layer.weight.shape
            a, b = torch.randn(rank, inputs) / inputs**0.5, torch.randn(outputs, rank) * 0.1
            layer.deltas["used"] = [LoraDelta(first, a, b, 0.5)]
            layer.deltas["unused"] = [LoraDelta(first, a, -b, 2.0)]
            # Our encoder uses the same tensor, so the merged weights need a new one.
            modules[name].weight = nn.Parameter(modules[name].weight + 0.5 * b @ a)
        got = encoder(pixels, [AdapterRows("used", None)])
        assert torch.equal(encoder(pixels), plain)
    merged = encode_with_transformers(model, pixels)
    assert compute_distance(got, merged) < 1e-5
    assert compute_distance(plain, merged) > 1e-2


def test_a_batch_with_several_adapters_is_rejected() -> None:
    encoder = create_encoder(create_tiny_model())
    with pytest.raises(ValueError, match="share one adapter"):
        encoder(create_pixels(2, 64, 64), [AdapterRows("used", torch.tensor([0]))])
