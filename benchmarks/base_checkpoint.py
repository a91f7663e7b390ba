"""A checkpoint of Florence-2-base's shape with random weights: what the published one costs, without its knowledge.

The weights are such that an answer never ends by itself, so that `max_new_tokens` alone decides its length.
"""

import json
import re
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from prompts.special_tokens import ADDED_TOKENS
from prompts.tasks import TASKS
from prompts.vocabulary import unicode_to_bytes
from server.engine.checkpoints.generation_config import PUBLISHED_SETTINGS

SIDE = 768
BART = 50_265  # tokens before Florence-2's own
ROWS = 51_328  # of the embeddings
IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


def config() -> Florence2Config:
    """As microsoft/Florence-2-base has it."""
    words = {
        "model_type": "bart", "vocab_size": ROWS, "d_model": 768, "max_position_embeddings": 1024,
        "encoder_layers": 6, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072,
        "decoder_layers": 6, "decoder_attention_heads": 12, "decoder_ffn_dim": 3072, **IDS,
    }  # fmt: skip
    looks = {"projection_dim": 768}  # the others are the class's own
    return Florence2Config(text_config=words, vision_config=looks, image_token_id=BART + len(ADDED_TOKENS) - 1)


def tokenizer() -> Tokenizer:
    """As many tokens as BART's: bytes, the words of the prompts whole, and others that no text leads to."""
    known = ["<s>", "<pad>", "</s>", "<unk>", *sorted(unicode_to_bytes(), key=unicode_to_bytes().__getitem__)]
    words = " ".join(task.template.replace("{input}", "") for task in TASKS.values())
    merges: list[tuple[str, str]] = []
    for word in sorted({*re.findall(r"[A-Za-z]+", words), *re.findall(r" [A-Za-z]+", words)}):
        written = word.replace(" ", "Ġ")
        steps = [(written[:i], written[i]) for i in range(1, len(written))]
        merges += [step for step in steps if step not in merges]
    known += ["".join(merge) for merge in merges]
    known += [f"ÿÿ{i}" for i in range(BART - len(known))]
    built = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, merges, unk_token="<unk>"))
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    built.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*known[:4], *ADDED_TOKENS)])
    return built


def save(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint in transformers' layout, in bf16: both types then compute with the very same weights."""
    torch.manual_seed(seed)
    shape = config()
    model = Florence2ForConditionalGeneration._from_config(shape, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        table = model.model.language_model.shared.weight
        table[shape.text_config.eos_token_id] = 0  # a logit of zero never wins among thousands of random ones
        table[BART + len(ADDED_TOKENS) :] = 0
    model.generation_config = GenerationConfig(**(PUBLISHED_SETTINGS | IDS))
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    pictures = {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False, "resample": 3,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        "size": {"height": SIDE, "width": SIDE},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures), encoding="utf-8")
    return folder
