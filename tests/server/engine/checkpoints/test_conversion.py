"""Conversion of Microsoft's layout to the native layout, on tiny models and published names."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Florence2Config, Florence2ForConditionalGeneration

from prompts.special_tokens import ADDED_TOKENS
from server.engine.checkpoints import conversion
from server.engine.checkpoints.conversion import (
    EMBEDDING_KEY,
    TIED_EMBEDDING_KEYS,
    to_native_config,
    to_native_key,
    to_native_state,
)
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.generation_config import GenerationConfig
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import locate_checkpoint
from server.engine.model.florence2 import Florence2
from tests.server.engine import reference
from tests.server.engine.microsoft_layout import to_microsoft_config, to_microsoft_key, to_microsoft_state
from tests.server.engine.tiny import create_image, create_tiny_model, create_tokenizer, save_checkpoint

IMAGE = create_tokenizer().token_to_id("<image>")  # Microsoft's embedding ends before it

# Keys of microsoft/Florence-2-base and their native names.
BLOCKS = {
    "2.8.spatial_block.conv1.fn.dw.weight": "2.8.spatial_block.conv1.weight",
    "0.0.spatial_block.window_attn.norm.weight": "0.0.spatial_block.norm1.weight",
    "0.0.spatial_block.window_attn.fn.qkv.bias": "0.0.spatial_block.window_attn.qkv.bias",
    "0.0.spatial_block.conv2.fn.dw.bias": "0.0.spatial_block.conv2.bias",
    "0.0.spatial_block.ffn.norm.weight": "0.0.spatial_block.norm2.weight",
    "0.0.spatial_block.ffn.fn.net.fc1.weight": "0.0.spatial_block.ffn.fc1.weight",
    "3.0.channel_block.channel_attn.norm.bias": "3.0.channel_block.norm1.bias",
    "3.0.channel_block.channel_attn.fn.proj.weight": "3.0.channel_block.channel_attn.proj.weight",
    "3.0.channel_block.ffn.fn.net.fc2.bias": "3.0.channel_block.ffn.fc2.bias",
}
NAMES = {
    "vision_tower.convs.2.proj.weight": "model.vision_tower.convs.2.conv.weight",
    "vision_tower.convs.2.norm.bias": "model.vision_tower.convs.2.norm.bias",
    "image_projection": "model.multi_modal_projector.image_projection.weight",
    "image_proj_norm.weight": "model.multi_modal_projector.image_proj_norm.weight",
    "image_pos_embed.row_embeddings.weight": "model.multi_modal_projector.image_position_embed.row_embeddings.weight",
    "visual_temporal_embed.pos_idx_to_embed": "model.multi_modal_projector.visual_temporal_embed.pos_idx_to_embed",
    "language_model.model.shared.weight": "model.language_model.shared.weight",
    "language_model.model.decoder.layers.5.fc1.weight": "model.language_model.decoder.layers.5.fc1.weight",
    "language_model.lm_head.weight": "lm_head.weight",
} | {f"vision_tower.blocks.{k}": f"model.vision_tower.blocks.{v}" for k, v in BLOCKS.items()}


@pytest.mark.parametrize(("microsoft", "native"), NAMES.items(), ids=NAMES)
def test_keys_are_converted_both_ways(microsoft: str, native: str) -> None:
    assert to_native_key(microsoft) == native
    assert to_microsoft_key(native) == microsoft


def get_microsoft_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Returns the weights of the tiny model in Microsoft's layout."""
    return to_microsoft_state(reference.load_network(checkpoint).state_dict(), IMAGE)


def get_microsoft_config(checkpoint: Checkpoint) -> dict[str, Any]:
    return to_microsoft_config(checkpoint.model.config.to_dict(), checkpoint.generation, IMAGE)


def write_folder(
    folder: Path, state: dict[str, Tensor], config: dict[str, Any], tiny_folder: Path, *, pickled: bool
) -> Path:
    """Writes a folder in Microsoft's layout: with BART's tokenizer, without generation_config.json."""
    folder.mkdir()
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file({k: v.clone() for k, v in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(tiny_folder / "preprocessor_config.json", folder)
    create_tokenizer(added=()).save(str(folder / "tokenizer.json"))
    return folder


def test_a_round_trip_keeps_the_weights(tiny: Checkpoint) -> None:
    native = reference.load_network(tiny).state_dict()
    back = to_native_state(get_microsoft_state(tiny), native[EMBEDDING_KEY].shape[0])
    assert back.keys() == native.keys()
    for key, value in native.items():
        if key in TIED_EMBEDDING_KEYS:  # the rows that Microsoft's embedding lacks come back as zeros
            assert torch.equal(back[key][:IMAGE], value[:IMAGE])
            assert not back[key][IMAGE:].any()
        else:
            assert torch.equal(back[key], value), key


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_a_microsoft_folder_gives_the_same_answers(
    tiny: Checkpoint, tiny_folder: Path, tmp_path: Path, pickled: bool, head: bool
) -> None:
    state = get_microsoft_state(tiny)
    if not head:  # newer files lack it
        del state["language_model.lm_head.weight"]
    folder = write_folder(tmp_path / "microsoft", state, get_microsoft_config(tiny), tiny_folder, pickled=pickled)
    loaded = load_checkpoint(str(folder))
    assert loaded.tokenizer.ids == tiny.tokenizer.ids
    assert loaded.generation == tiny.generation  # from its text_config
    request = reference.create_request("<OD>", create_image(), limit=12)
    for name, value in reference.get_weights(tiny).items():
        rows = slice(IMAGE) if name == "language_model.token_embedding" else slice(None)
        assert torch.equal(value[rows], reference.get_weights(loaded)[name][rows]), name
    assert reference.run_request(loaded, request).tokens == reference.generate(tiny, request)


def test_sharded_weights_are_loaded(tiny: Checkpoint, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(tiny_folder, folder)
    reference.load_network(tiny).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("*.safetensors"))) > 1
    loaded = reference.get_weights(load_checkpoint(str(folder)))
    assert all(torch.equal(value, loaded[name]) for name, value in reference.get_weights(tiny).items())
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="lacks model-0000"):
        load_checkpoint(str(folder))


def test_missing_unexpected_and_misshapen_weights_are_listed(
    tiny: Checkpoint, tiny_folder: Path, tmp_path: Path
) -> None:
    state = get_microsoft_state(tiny)
    del state["image_projection"]
    state["vision_tower.head.weight"] = torch.zeros(2)
    state["image_proj_norm.bias"] = torch.zeros(7)
    folder = write_folder(tmp_path / "broken", state, get_microsoft_config(tiny), tiny_folder, pickled=False)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(str(folder))
    message = str(raised.value)
    assert "1 missing: model.multi_modal_projector.image_projection.weight" in message
    assert "1 unexpected: model.vision_tower.head.weight" in message
    assert "image_proj_norm.bias [7] instead of [32]" in message


@pytest.mark.parametrize("changed", [{}, {"vision_config": {"qkv_bias": False, "max_temporal_embeddings": 7}}], ids=str)
def test_the_weight_shapes_are_those_of_transformers(changed: dict[str, Any]) -> None:
    seedling = json.loads((locate_checkpoint("seedling") / "config.json").read_text())
    for config in (seedling, Florence2Config().to_dict()):
        config["vision_config"] |= changed.get("vision_config", {})
        native_config = Florence2Config.from_dict(config)
        with torch.device("meta"):
            expected = Florence2ForConditionalGeneration._from_config(native_config).state_dict()
        once = {
            key: value.shape for key, value in expected.items() if key not in set(TIED_EMBEDDING_KEYS) - {EMBEDDING_KEY}
        }
        assert Florence2(native_config).get_weight_shapes() == once


def test_a_logits_bias_is_rejected(tiny: Checkpoint, tiny_folder: Path, tmp_path: Path) -> None:
    state = get_microsoft_state(tiny)
    state["language_model.final_logits_bias"][0, 3] = 0.5
    folder = write_folder(tmp_path / "biased", state, get_microsoft_config(tiny), tiny_folder, pickled=True)
    with pytest.raises(CheckpointError, match="final_logits_bias is not zero"):
        load_checkpoint(str(folder))


def test_an_untied_lm_head_is_rejected(tiny: Checkpoint, tiny_folder: Path, tmp_path: Path) -> None:
    state = get_microsoft_state(tiny)
    state["language_model.lm_head.weight"][5] += 1
    folder = write_folder(tmp_path / "untied", state, get_microsoft_config(tiny), tiny_folder, pickled=True)
    with pytest.raises(CheckpointError, match="lm_head differ"):
        load_checkpoint(str(folder))


def test_the_published_config_is_converted() -> None:
    """The values of microsoft/Florence-2-large's config.json that define the model."""
    config = {
        "model_type": "florence2",
        "pad_token_id": 1,
        "projection_dim": 1024,
        "text_config": {
            "vocab_size": 51289,
            "activation_dropout": 0.1,
            "activation_function": "gelu",
            "add_bias_logits": False,
            "add_final_layer_norm": False,
            "attention_dropout": 0.1,
            "classif_dropout": 0.1,
            "d_model": 1024,
            "decoder_attention_heads": 16,
            "decoder_ffn_dim": 4096,
            "decoder_layers": 12,
            "decoder_start_token_id": 2,
            "early_stopping": True,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "encoder_layers": 12,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
            "label2id": {"LABEL_0": 0},
            "max_position_embeddings": 4096,
            "no_repeat_ngram_size": 3,
            "normalize_before": False,
            "num_hidden_layers": 12,
            "scale_embedding": False,
            "num_beams": 3,
        },
        "vision_config": {
            "model_type": "davit",
            "drop_path_rate": 0.1,
            "patch_size": [7, 3, 3, 3],
            "patch_stride": [4, 2, 2, 2],
            "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True],
            "enable_checkpoint": False,
            "dim_embed": [256, 512, 1024, 2048],
            "num_heads": [8, 16, 32, 64],
            "num_groups": [8, 16, 32, 64],
            "depths": [1, 1, 9, 1],
            "window_size": 12,
            "projection_dim": 1024,
            "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 100},
            "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 50},
            "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
        },
    }
    assert conversion.is_microsoft_config(config)
    native = to_native_config(config, 51328)
    native_config = Florence2Config.from_dict(native | {"image_token_id": 51289})
    with torch.device("meta"):
        model = Florence2ForConditionalGeneration._from_config(native_config)
    added_positions = 2 * (4096 - 1024) * 1024  # 770.2 M is the size with 1024 positions
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(770.2e6 + added_positions, abs=0.1e6)
    assert native["vision_config"]["embed_dim"] == [256, 512, 1024, 2048]
    assert "num_beams" not in native["text_config"]
    back = to_microsoft_config(native_config.to_dict(), GenerationConfig(num_beams=3), 51289)
    for key, value in config["vision_config"].items():  # type: ignore[attr-defined]
        assert key == "enable_checkpoint" or back["vision_config"][key] == value


def test_other_image_features_are_rejected(tiny: Checkpoint) -> None:
    config = get_microsoft_config(tiny)
    config["vision_config"]["image_feature_source"] = ["last_frame"]
    with pytest.raises(ValueError, match="image_feature_source"):
        to_native_config(config, 64)


def test_added_tokens_keep_their_order(tiny: Checkpoint) -> None:
    first = tiny.tokenizer.ids[ADDED_TOKENS[0]]
    assert [tiny.tokenizer.ids[t] for t in ADDED_TOKENS] == list(range(first, first + len(ADDED_TOKENS)))


def test_native_weights_with_a_microsoft_config_are_loaded(tiny: Checkpoint, tiny_folder: Path, tmp_path: Path) -> None:
    """The layouts of config and weights are detected separately, because some tools convert only one of them."""
    folder = write_folder(
        tmp_path / "mixed", get_microsoft_state(tiny), get_microsoft_config(tiny), tiny_folder, pickled=True
    )
    (folder / "pytorch_model.bin").unlink()
    shutil.copy(tiny_folder / "model.safetensors", folder)
    loaded = reference.get_weights(load_checkpoint(str(folder)))
    assert all(torch.equal(value, loaded[name]) for name, value in reference.get_weights(tiny).items())
    assert load_file(folder / "model.safetensors").keys() < reference.load_network(tiny).state_dict().keys()


def test_a_fine_tuned_checkpoint_is_loaded(tiny: Checkpoint, tmp_path: Path) -> None:
    """Fine-tuning saves a checkpoint with save_pretrained."""
    tuned = create_tiny_model(5)
    loaded = load_checkpoint(str(save_checkpoint(tmp_path / "tuned", tuned)))
    reloaded = reference.load_network(loaded).state_dict()
    assert all(torch.equal(reloaded[key], value) for key, value in tuned.state_dict().items())
    request = reference.create_request("<OD>", create_image(), limit=12)
    assert reference.run_request(loaded, request).tokens == reference.generate(loaded, request)
