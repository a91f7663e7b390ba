"""Small checkpoints with random weights, whose variance is so large that each prompt gets a different answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from prompts.special_tokens import ADDED_TOKENS
from prompts.vocabulary import unicode_to_bytes

MIXED_LENGTHS_SEED = 13  # a seed whose answers have many different lengths
BASE_SEED = 1  # such a seed for the token embedding of `create_base_model`
IMAGE_SIDE = 64  # pixels; a grid of 2 × 2
PUBLISHED = {
    "num_beams": 3,
    "no_repeat_ngram_size": 3,
    "early_stopping": True,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "length_penalty": 1.0,
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}


def create_tokenizer(added: tuple[str, ...] = ADDED_TOKENS) -> Tokenizer:
    """Returns a tokenizer of control tokens, the 256 bytes and a few merges, then `added`: ordered as BART's."""
    control = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted(unicode_to_bytes(), key=unicode_to_bytes().__getitem__)
    merges = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("i", "n"), ("o", "b")]
    ids = {token: i for i, token in enumerate([*control, *letters, *map("".join, merges)])}
    built = Tokenizer(models.BPE(ids, merges, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*control, *added)])
    return built


def create_config(vocab_size: int, image_token: int) -> Florence2Config:
    """Returns the config of a DaViT of four stages and a BART of 2 + 2 layers. `vocab_size` may exceed the number of
    tokens, as in padded checkpoints."""
    return Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": vocab_size,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 96,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [16, 16, 32, 32],
            "num_heads": [2, 2, 4, 4],
            "num_groups": [2, 2, 4, 4],
            "window_size": 4,
            "projection_dim": 32,
            "max_temporal_embeddings": 8,
            "max_position_embeddings": 8,
        },
        image_token_id=image_token,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )


def create_base_model() -> Florence2ForConditionalGeneration:
    """Returns a model with the widths of Florence-2-base, a BART of 2 + 2 layers, a DaViT with one block per stage, and
    the vocabulary of the tiny tokenizer."""
    tokenizer = create_tokenizer()
    config = create_config(tokenizer.get_vocab_size(), tokenizer.token_to_id("<image>"))
    text, vision = config.text_config, config.vision_config
    text.d_model, text.encoder_ffn_dim, text.decoder_ffn_dim = 768, 3072, 3072
    text.encoder_attention_heads = text.decoder_attention_heads = 12
    vision.embed_dim, vision.projection_dim, vision.window_size = [128, 256, 512, 1024], 768, 12
    vision.num_heads = vision.num_groups = [4, 8, 16, 32]
    torch.manual_seed(0)
    model = Florence2ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    table = model.model.language_model.shared.weight
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" not in name and value.dim() > 1:
                value.normal_(std=1.4 / value[0].numel() ** 0.5 if value is not table else 0.5)
        torch.manual_seed(BASE_SEED)
        table.copy_(torch.randn(table.shape) * 0.1)
        table[2] *= 2
    model.generation_config = GenerationConfig(**PUBLISHED)
    return model


def create_tiny_model(
    seed: int = MIXED_LENGTHS_SEED, vocab_size: int | None = None
) -> Florence2ForConditionalGeneration:
    tokenizer = create_tokenizer()
    known = tokenizer.get_vocab_size()
    config = create_config(vocab_size or -(-known // 64) * 64, tokenizer.token_to_id("<image>"))
    torch.manual_seed(seed)
    model = Florence2ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" not in name and value.dim() > 1:
                value.normal_(std=0.25 if "shared" not in name else 0.5)
            elif name.endswith("bias"):
                value.normal_(std=0.1)
        # A larger embedding makes </s> more likely: with some seeds answers end at many lengths, with others never.
        model.model.language_model.shared.weight[2] *= 2
    model.generation_config = GenerationConfig(**PUBLISHED)
    return model


def create_preprocessor_config(side: int = IMAGE_SIDE) -> dict[str, Any]:
    """Returns the preprocessor_config.json of the hub with another image size."""
    return {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_center_crop": False,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": {"height": side, "width": side},
    }


def save_checkpoint(folder: Path, model: Florence2ForConditionalGeneration, tokenizer: Tokenizer | None = None) -> Path:
    """Saves a checkpoint folder in the native layout and returns it."""
    model.save_pretrained(folder)
    (tokenizer or create_tokenizer()).save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps(create_preprocessor_config()))
    return folder


def save_adapter(folder: Path, seed: int = 1, std: float = 0.05, **config: Any) -> Path:
    """Saves a LoRA adapter of `create_tiny_model()` with random weights in PEFT's format and returns its folder."""
    base = create_tiny_model()  # also sets the seed
    torch.manual_seed(seed)
    network = get_peft_model(base, LoraConfig(**({"r": 4, "lora_alpha": 8} | config)))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_B" in name:
                value.normal_(std=std)
    network.save_pretrained(str(folder))
    return folder


def create_image(seed: int = 0, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """Returns an image of coarse colored noise."""
    colors = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC)
