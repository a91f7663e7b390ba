"""The seedling before training: tokenizer, configuration, initial weights and checkpoint files.

It is a Florence-2 with 7.9 M parameters in transformers' native layout. Any program that loads it also loads the
published checkpoints.
"""

import copy
import math
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    BartConfig,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from finetune import attention
from prompts.locations import BINS
from prompts.special_tokens import ADDED_TOKENS
from prompts.vocabulary import unicode_to_bytes
from seedling.initialization import InitScheme, initialize_layer
from seedling.scenes.descriptions import WORDS
from seedling.scenes.glyphs import CATEGORIES
from server.engine.adapters.class_list import write_class_list
from server.engine.calibration import CALIBRATION_FILE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in the published preprocessor
IMAGE_SIDE = 320  # pixels, after all stages; the first stages use smaller images (`resizing.resize_input`)
KNOWN_CLASSES = (*CATEGORIES, "word")  # `<REGION_TO_CATEGORY>` calls a written word so
DEPTHS = (1, 2, 3, 1)  # blocks per stage of the vision encoder
CELL_SIDE = 16  # pixels per side of one image token
MAX_POSITIONS = 640  # of the encoder: cells, one pooled token, and the prompt


def build_model(
    seed: int = 0, scheme: InitScheme = InitScheme.XAVIER, *, ordered: bool = True, image_side: int = IMAGE_SIDE
) -> tuple[Florence2ForConditionalGeneration, PreTrainedTokenizerFast]:
    """Returns an untrained seedling in fp32 for images of `image_side` pixels, and its tokenizer.

    See `initialize_weights` for `scheme` and `ordered`.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = build_config(tokenizer, image_side)
    model = Florence2ForConditionalGeneration._from_config(config, attn_implementation=attention.select_cpu_attention())
    initialize_weights(model, tokenizer, scheme, ordered=ordered)
    model.generation_config = build_generation_config()
    return model, tokenizer


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer in BART's byte-level format with a small vocabulary.

    It holds 256 bytes, and each known word as one token, with and without a leading space. Any other text is split
    into bytes, so nothing is unknown. Location and structure tokens follow in the order of the published tokenizer.
    """
    control = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [form for word in WORDS if len(word) > 1 for form in (word, "Ġ" + word)]
    byte_letters = sorted(unicode_to_bytes(), key=unicode_to_bytes().__getitem__)
    ids = {token: i for i, token in enumerate([*control, *byte_letters, "Ġa", "ĠA", *words])}
    # Without merges, text that is not a whole word falls back to its bytes.
    backend = Tokenizer(models.BPE(ids, [], unk_token="<unk>", ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*control, *ADDED_TOKENS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def count_cells(image_side: int) -> int:
    """Returns the number of cells per side of an image.

    Raises ValueError unless the side is a multiple of CELL_SIDE and leaves positions for a prompt.
    """
    cells = image_side // CELL_SIDE
    if cells < 1 or image_side % CELL_SIDE or cells**2 + 1 >= MAX_POSITIONS:
        largest = CELL_SIDE * math.isqrt(MAX_POSITIONS - 2)
        raise ValueError(f"image side {image_side} is not supported: use a multiple of {CELL_SIDE}, up to {largest}")
    return cells


def build_config(tokenizer: PreTrainedTokenizerFast, image_side: int = IMAGE_SIDE) -> Florence2Config:
    """Returns the configuration: a small DaViT, and a BART with 2 encoder and 3 decoder layers.

    The first stride of the DaViT is 4 (320 pixels: 80 → 40 → 20 → 20 cells), so that letters stay legible.
    """
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=192,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=768,
        decoder_ffn_dim=768,
        max_position_embeddings=MAX_POSITIONS,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    vision = {
        "depths": list(DEPTHS),
        "embed_dim": [48, 96, 192, 192],
        "num_heads": [2, 4, 8, 8],
        "num_groups": [2, 4, 8, 8],
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 1],
        "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [False, True, True, True],
        "window_size": count_cells(image_side),
        "drop_path_rate": 0.0,
        "projection_dim": 192,
        "max_temporal_embeddings": 4,
        "max_position_embeddings": count_cells(image_side),
    }
    return Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )


def build_generation_config() -> GenerationConfig:
    """Returns greedy decoding without an n-gram ban: in the small language `large red car` may appear twice."""
    return GenerationConfig(
        num_beams=1,
        no_repeat_ngram_size=0,
        early_stopping=False,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        max_new_tokens=256,
    )


def compute_fourier_features(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Returns ordered features of positions in 0 … 1: similar for neighbors, so their order need not be learned.

    sin and cos of 2π·f·p with f geometric from 0.5 to 40 and amplitude f^-0.35, rows of unit length. [n] → [n, dim].
    """
    frequency = torch.logspace(math.log10(0.5), math.log10(40), dim // 2)
    angle = 2 * math.pi * positions[:, None] * frequency
    amplitude = frequency**-0.35
    return nn.functional.normalize(torch.cat([angle.sin() * amplitude, angle.cos() * amplitude], -1), dim=-1)


def compute_cell_centers(grid: int) -> torch.Tensor:
    """Returns the centers of the cells along one side, as fractions of it.

    Strided convolutions with odd kernels keep the center of the first pixel, so cell k is centered at pixel k · 16, not
    at the middle of its 16 pixels.
    """
    return (torch.arange(grid) * CELL_SIDE + 0.5) / (grid * CELL_SIDE)


@torch.no_grad()
def initialize_weights(
    model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast,
    scheme: InitScheme = InitScheme.XAVIER, *, ordered: bool = True,
) -> None:  # fmt: skip
    """Sets the initial weights.

    Matrices follow `scheme`. The committed seedling started with Xavier: layers are shallow and GELU lies between
    norms, so preserving the variance in both directions works better than He's scheme, which assumes ReLU. Word
    embeddings are random with unit length; a word with and without a leading space has nearly the same one. Location
    tokens and cell positions are Fourier features if `ordered`, else random with unit length.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            initialize_layer(module, scheme)
    table = model.model.language_model.shared.weight
    table.copy_(nn.functional.normalize(torch.randn_like(table), dim=-1))
    ids = tokenizer.get_vocab()
    for token, i in ids.items():
        if token.startswith("Ġ") and token[1:] in ids:
            table[i] = nn.functional.normalize(table[ids[token[1:]]] + 0.5 * table[i], dim=-1)
    first = ids["<loc_0>"]
    if ordered:
        table[first : first + BINS] = compute_fourier_features((torch.arange(BINS) + 0.5) / BINS, table.shape[1])
    table[tokenizer.pad_token_id] = 0
    for positions in (
        model.model.language_model.encoder.embed_positions,
        model.model.language_model.decoder.embed_positions,
    ):
        nn.init.normal_(positions.weight, std=0.02)
    centers = compute_cell_centers(model.config.vision_config.max_position_embeddings)
    position_embed = model.model.multi_modal_projector.image_position_embed
    for axis in (position_embed.row_embeddings, position_embed.column_embeddings):
        if ordered:
            axis.weight.copy_(compute_fourier_features(centers, axis.weight.shape[1]))
        else:
            axis.weight.copy_(nn.functional.normalize(torch.randn_like(axis.weight), dim=-1))


def save_checkpoint(model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a folder that transformers and florist can load. Weights are stored in fp16.

    A calibration file in the folder belongs to other weights and is deleted.
    """
    (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    side = model.config.vision_config.max_position_embeddings * CELL_SIDE
    copy.deepcopy(model).half().save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(
        size={"height": side, "width": side},
        crop_size={"height": side, "width": side},
        do_center_crop=False,
        resample=3,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    image_processor.image_seq_length = (side // CELL_SIDE) ** 2 + 1  # the pooled one
    Florence2Processor(image_processor, tokenizer).save_pretrained(folder)
    write_class_list(folder, KNOWN_CLASSES)
