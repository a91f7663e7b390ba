"""A checkpoint with the architecture of Florence-2-base and random weights: the same cost, without the knowledge.

The weights never generate the end token, so `max_new_tokens` alone decides the length of an answer.
"""

import json
import re
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from prompts.special_tokens import ADDED_TOKENS
from prompts.tasks import FLORENCE_TASKS
from prompts.vocabulary import unicode_to_bytes
from server.engine.checkpoints.generation_config import PUBLISHED_SETTINGS

IMAGE_SIDE = 768
BART_TOKENS = 50_265  # before Florence-2's own
EMBEDDING_ROWS = 51_328
SPECIAL_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_base_config() -> Florence2Config:
    """Returns the configuration of microsoft/Florence-2-base."""
    text = {
        "model_type": "bart", "vocab_size": EMBEDDING_ROWS, "d_model": 768, "max_position_embeddings": 1024,
        "encoder_layers": 6, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072,
        "decoder_layers": 6, "decoder_attention_heads": 12, "decoder_ffn_dim": 3072, **SPECIAL_IDS,
    }  # fmt: skip
    vision = {"projection_dim": 768}  # all else is the default of the class
    image_token = BART_TOKENS + len(ADDED_TOKENS) - 1
    return Florence2Config(text_config=text, vision_config=vision, image_token_id=image_token)


def build_base_tokenizer() -> Tokenizer:
    """Returns a tokenizer with as many tokens as BART's: bytes, the words of the prompts, and unused ones."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(unicode_to_bytes(), key=unicode_to_bytes().__getitem__)]
    words = " ".join(task.template.replace("{input}", "") for task in FLORENCE_TASKS.values())
    merges: list[tuple[str, str]] = []
    for word in sorted({*re.findall(r"[A-Za-z]+", words), *re.findall(r" [A-Za-z]+", words)}):
        text = word.replace(" ", "Ġ")
        steps = [(text[:i], text[i]) for i in range(1, len(text))]
        merges += [step for step in steps if step not in merges]
    tokens += ["".join(merge) for merge in merges]
    tokens += [f"ÿÿ{i}" for i in range(BART_TOKENS - len(tokens))]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = (*tokens[:4], *ADDED_TOKENS)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def save_base_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint in transformers' layout, in bf16: fp32 and bf16 then compute with the same weights."""
    torch.manual_seed(seed)
    config = build_base_config()
    model = Florence2ForConditionalGeneration._from_config(config, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        table = model.model.language_model.shared.weight
        table[config.text_config.eos_token_id] = 0  # a logit of 0 is never the largest of thousands of random ones
        table[BART_TOKENS + len(ADDED_TOKENS) :] = 0
    model.generation_config = GenerationConfig(**(PUBLISHED_SETTINGS | SPECIAL_IDS))
    model.save_pretrained(folder)
    build_base_tokenizer().save(str(folder / "tokenizer.json"))
    preprocessor = {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False, "resample": 3,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        "size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return folder
