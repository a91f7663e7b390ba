"""Our vision tower against transformers', feature by feature."""

import pytest
import torch
from torch import Tensor, nn
from transformers import Florence2Config, Florence2ForConditionalGeneration

from server.engine.checkpoints.sources import SEEDLING_FOLDER
from server.engine.model.davit import TILE_TOKENS
from server.engine.model.linear import AdapterRows, LoraDelta
from server.engine.model.vision_encoder import VisionEncoder
from tests.server.engine.tiny import create_config, create_tiny_model

SEEDLING = SEEDLING_FOLDER


def tower(model: Florence2ForConditionalGeneration) -> VisionEncoder:
    """Ours, on the weights of theirs."""
    with torch.device("meta"):
        ours = VisionEncoder(model.config)
    ours.load_weights(model.state_dict())
    return ours


@torch.inference_mode()
def theirs(model: Florence2ForConditionalGeneration, pixels: Tensor) -> Tensor:
    return model.model.get_image_features(pixels).pooler_output


@torch.inference_mode()
def ours(model: Florence2ForConditionalGeneration, pixels: Tensor) -> Tensor:
    return tower(model)(pixels)


def distance(got: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest feature."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    return ((got - expected).abs().max() / expected.abs().max()).item()


def pictures(n: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(n + height)).to(dtype)


def spread(model: Florence2ForConditionalGeneration) -> Florence2ForConditionalGeneration:
    """Weights so wide that every layer, the attention's scores included, weighs in the features."""
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
    """Florence-2-base's tower, a block a stage, under a BART of nothing much."""
    torch.manual_seed(3)
    words = {"d_model": 768, "vocab_size": 8, "encoder_layers": 0, "decoder_layers": 0, "max_position_embeddings": 8}
    vision = {"depths": [1, 1, 1, 1], "projection_dim": 768}
    config = Florence2Config(text_config={"model_type": "bart", **words}, vision_config=vision, image_token_id=4)
    return spread(Florence2ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval())


@pytest.mark.parametrize(
    "size", [(64, 64), (96, 48), (50, 33), (64, 240), (224, 200)], ids=lambda size: f"{size[0]}x{size[1]}"
)
@pytest.mark.parametrize("seed", [0, 13])
def test_tiny_features_equal_transformers(seed: int, size: tuple[int, int]) -> None:
    """Also grids that no window divides, grids smaller than one, and pictures of several tiles."""
    model, pixels = create_tiny_model(seed), pictures(3, *size)
    assert distance(ours(model, pixels), theirs(model, pixels)) < 1e-5


def test_base_features_equal_transformers(base: Florence2ForConditionalGeneration) -> None:
    pixels = pictures(1, 288, 336)  # a first grid of 6 × 7 windows and several tiles, a last one of less than a window
    assert 2 * TILE_TOKENS < (288 // 4) * (336 // 4)
    assert distance(ours(base, pixels), theirs(base, pixels)) < 1e-5


def test_seedling_features_equal_transformers() -> None:
    model = Florence2ForConditionalGeneration.from_pretrained(SEEDLING, dtype=torch.float32).eval()
    pixels = pictures(4, 256, 256)
    assert distance(ours(model, pixels), theirs(model, pixels)) < 1e-5


def test_channels_last_pixels_are_the_same_pictures() -> None:
    model, pixels = create_tiny_model(), pictures(2, 64, 64)
    laid_out = pixels.contiguous(memory_format=torch.channels_last)
    assert distance(ours(model, laid_out), ours(model, pixels)) < 1e-6


@pytest.mark.parametrize(("dtype", "eps"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)], ids=str)
def test_16_bit_features_are_as_near_to_fp32_as_transformers(
    base: Florence2ForConditionalGeneration, dtype: torch.dtype, eps: float
) -> None:
    pixels = pictures(1, 96, 96)
    exact = theirs(base, pixels)
    low = Florence2ForConditionalGeneration(base.config).to(dtype).eval()
    low.load_state_dict(base.state_dict())
    got, reference = (f(low, pixels.to(dtype)) for f in (ours, theirs))
    assert got.dtype == dtype
    error, theirs_error = ((features.float() - exact).square().mean().sqrt() for features in (got, reference))
    assert error < 1.3 * theirs_error + eps / 4


def test_loading_leaves_the_weights_given_as_they_were() -> None:
    model = create_tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loaded = tower(model)
    with torch.inference_mode():
        loaded(pictures(1, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.is_meta or p.requires_grad for p in loaded.parameters())
    given = {value.data_ptr() for value in model.state_dict().values()}
    assert all(layer.weight.data_ptr() in given for layer, _ in loaded.get_lora_targets().values())


def test_a_missing_weight_is_named() -> None:
    model = create_tiny_model()
    state = model.state_dict()
    del state["model.vision_tower.blocks.2.0.channel_block.norm2.bias"]
    with pytest.raises(KeyError, match=r"blocks\.2\.0\.channel_block\.norm2\.bias"):
        VisionEncoder(model.config).load_weights(state)


def test_another_activation_is_refused() -> None:
    config = create_config(64, 4)
    config.vision_config.activation_function = "relu"
    with pytest.raises(ValueError, match="relu"):
        VisionEncoder(config)


def test_every_linear_layer_is_adaptable_under_its_native_path() -> None:
    model = create_tiny_model()
    native = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("model.vision_tower.", "model.multi_modal_projector."))
    }
    adaptable = tower(model).get_lora_targets()
    assert adaptable.keys() == native.keys()
    for name, (layer, first) in adaptable.items():
        assert first == 0
        assert torch.equal(layer.weight, native[name].weight)


def test_an_adapter_equals_its_weights_merged() -> None:
    """On every layer; another adapter's are left out."""
    model, pixels = create_tiny_model(), pictures(2, 64, 80)
    loaded = tower(model)
    torch.manual_seed(7)
    modules = dict(model.named_modules())
    with torch.inference_mode():
        plain = loaded(pixels)
        for name, (layer, first) in loaded.get_lora_targets().items():
            rank, (outputs, inputs) = 4, layer.weight.shape
            a, b = torch.randn(rank, inputs) / inputs**0.5, torch.randn(outputs, rank) * 0.1
            layer.deltas["mine"] = [LoraDelta(first, a, b, 0.5)]
            layer.deltas["yours"] = [LoraDelta(first, a, -b, 2.0)]
            # Ours read the same tensor: what is merged must be another.
            modules[name].weight = nn.Parameter(modules[name].weight + 0.5 * b @ a)
        got = loaded(pixels, [AdapterRows("mine", None)])
        assert torch.equal(loaded(pixels), plain)
    merged = theirs(model, pixels)
    assert distance(got, merged) < 1e-5
    assert distance(plain, merged) > 1e-2


def test_one_adapter_a_batch() -> None:
    loaded = tower(create_tiny_model())
    with pytest.raises(ValueError, match="share one adapter"):
        loaded(pictures(2, 64, 64), [AdapterRows("mine", torch.tensor([0]))])
