"""The seedling from scratch: its tokenizer, its shape and its first values.

A Florence-2 of 7.9 M parameters in transformers' native layout, so that whatever loads it loads the real ones.
"""

import copy
import math
from pathlib import Path

import numpy as np
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
from prompts.tasks import ADDED_TOKENS
from prompts.vocabulary import unicode_to_bytes
from seedling.initialization import InitScheme, initialize_layer
from seedling.scenes.samples import WORDS
from server.engine import calibration

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in the hub's preprocessor
PICTURE = 320  # pixels a side, in the end; its first stages see smaller ones (`resize`)
DEPTHS = (1, 2, 3, 1)  # blocks of each stage of the tower
CELL = 16  # pixels a side of what an image token stands for
POSITIONS = 640  # of the encoder: cells, one token more of the picture, and the prompt


def tokenizer() -> PreTrainedTokenizerFast:
    """BART's byte-level form with a small vocabulary: 256 bytes, and each known word whole, alone and after a space.

    Any other text is spelled letter by letter, so nothing is unknown; location and structure tokens follow in
    the order of the hub's tokenizer.
    """
    control = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [form for word in WORDS if len(word) > 1 for form in (word, "Ġ" + word)]
    letters = sorted(unicode_to_bytes(), key=unicode_to_bytes().__getitem__)
    ids = {token: i for i, token in enumerate([*control, *letters, "Ġa", "ĠA", *words])}
    # No merges: what is not a whole word falls to its bytes.
    built = Tokenizer(models.BPE(ids, [], unk_token="<unk>", ignore_merges=True))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*control, *ADDED_TOKENS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )


def cells_of(picture: int) -> int:
    """The cells of a side of so many pixels. Raises ValueError for a side that is no whole number of them, or of so
    many that the encoder has no place left for a prompt."""
    cells = picture // CELL
    if cells < 1 or picture % CELL or cells**2 + 1 >= POSITIONS:
        most = CELL * math.isqrt(POSITIONS - 2)
        raise ValueError(f"a side of {picture} pixels cannot be: take a multiple of {CELL}, up to {most}")
    return cells


def config(words: PreTrainedTokenizerFast, picture: int = PICTURE) -> Florence2Config:
    """A DaViT whose stem keeps stride 4 (80 → 40 → 20 → 20 cells), so that letters survive; a BART of 2 + 3 layers."""
    text = BartConfig(
        vocab_size=len(words),
        d_model=192,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=768,
        decoder_ffn_dim=768,
        max_position_embeddings=POSITIONS,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        bos_token_id=words.bos_token_id,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.eos_token_id,
        forced_eos_token_id=words.eos_token_id,
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
        "window_size": cells_of(picture),
        "drop_path_rate": 0.0,
        "projection_dim": 192,
        "max_temporal_embeddings": 4,
        "max_position_embeddings": cells_of(picture),
    }
    return Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        bos_token_id=words.bos_token_id,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=True,
    )


def fourier(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Ordered features of positions in 0 … 1: sin and cos of 2π·f·p, f geometric from 0.5 to 40, amplitude
    f^-0.35, rows of unit length. [n] → [n, dim]. Neighbours start alike, so the model need not learn the order."""
    frequency = torch.logspace(math.log10(0.5), math.log10(40), dim // 2)
    angle = 2 * math.pi * positions[:, None] * frequency
    amplitude = frequency**-0.35
    return nn.functional.normalize(torch.cat([angle.sin() * amplitude, angle.cos() * amplitude], -1), dim=-1)


def middles(grid: int) -> torch.Tensor:
    """Where the cells of a side look, as shares of it: strides of odd kernels keep the first pixel's middle, so that
    cell k looks at pixel k · 16, not at the middle of its 16."""
    return (torch.arange(grid) * CELL + 0.5) / (grid * CELL)


@torch.no_grad()
def initialise(
    model: Florence2ForConditionalGeneration, words: PreTrainedTokenizerFast, how: InitScheme = InitScheme.XAVIER, *,
    ordered: bool = True,
) -> None:  # fmt: skip
    """Every matrix as `how` says. Xavier's, as the committed seedling began: layers are shallow and GELU sits between
    norms, so variance kept both ways serves better than He's, which assumes ReLU. Words are random of unit length, a
    word and the same word after a space nearly the same; locations and cell positions are Fourier features, which are
    `ordered`, or else random of unit length, as words are."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            initialize_layer(module, how)
    table = model.model.language_model.shared.weight
    table.copy_(nn.functional.normalize(torch.randn_like(table), dim=-1))
    ids = words.get_vocab()
    for token, i in ids.items():
        if token.startswith("Ġ") and token[1:] in ids:
            table[i] = nn.functional.normalize(table[ids[token[1:]]] + 0.5 * table[i], dim=-1)
    first = ids["<loc_0>"]
    if ordered:
        table[first : first + BINS] = fourier((torch.arange(BINS) + 0.5) / BINS, table.shape[1])
    table[words.pad_token_id] = 0
    for positions in (
        model.model.language_model.encoder.embed_positions,
        model.model.language_model.decoder.embed_positions,
    ):
        nn.init.normal_(positions.weight, std=0.02)
    cells = middles(model.config.vision_config.max_position_embeddings)
    place = model.model.multi_modal_projector.image_position_embed
    for axis in (place.row_embeddings, place.column_embeddings):
        if ordered:
            axis.weight.copy_(fourier(cells, axis.weight.shape[1]))
        else:
            axis.weight.copy_(nn.functional.normalize(torch.randn_like(axis.weight), dim=-1))


def build(
    seed: int = 0, how: InitScheme = InitScheme.XAVIER, *, ordered: bool = True, picture: int = PICTURE
) -> tuple[Florence2ForConditionalGeneration, PreTrainedTokenizerFast]:
    """The untaught seedling in fp32, for pictures of so many pixels a side, and its tokenizer; `how` and `ordered`: see
    `initialise`."""
    torch.manual_seed(seed)
    words = tokenizer()
    shape = config(words, picture)
    model = Florence2ForConditionalGeneration._from_config(shape, attn_implementation=attention.best())
    initialise(model, words, how, ordered=ordered)
    model.generation_config = generation()
    return model, words


@torch.no_grad()
def resize(model: Florence2ForConditionalGeneration, picture: int, *, ordered: bool = True) -> None:
    """From here on for pictures of so many pixels a side, in place: windows keep their share of the picture, positions
    of cells their place in it, those of the prompt behind them their number. Parameters change their shape.

    What a place means is interpolated bilinearly between the old cells around it; where it began `ordered`, from what
    was taught beyond the Fourier features that it began with, which are reckoned anew. Raises ValueError as `cells_of`
    does.
    """
    vision = model.config.vision_config
    old, new = vision.max_position_embeddings, cells_of(picture)
    if old == new:
        return
    share = interpolation(middles(old), middles(new))
    place = model.model.multi_modal_projector.image_position_embed
    for axis in (place.row_embeddings, place.column_embeddings):
        began, begins = (fourier(middles(n), axis.weight.shape[1]) * ordered for n in (old, new))
        axis.weight = nn.Parameter((share @ (axis.weight.cpu() - began) + begins).to(axis.weight))
        axis.num_embeddings = new
    positions = model.model.language_model.encoder.embed_positions
    first = positions.offset
    pooled, cells, behind = positions.weight[first:].split([1, old**2, len(positions.weight) - first - 1 - old**2])
    share = share.to(cells)
    cells = torch.einsum("ri,cj,ijd->rcd", share, share, cells.view(old, old, -1)).flatten(0, 1)
    spare = behind[-1:].expand(max(old**2 - new**2, 0), -1)
    told = torch.cat([positions.weight[:first], pooled, cells, behind, spare])
    positions.weight.copy_(told[: len(positions.weight)])
    vision.max_position_embeddings = vision.window_size = new
    for module in model.modules():
        if hasattr(module, "window_size"):
            module.window_size = new


@torch.no_grad()
def grow(model: Florence2ForConditionalGeneration) -> None:
    """Gives a model of an earlier shape what it lacks of this one, in place, and it answers as it did: blocks of the
    tower come to the end of their stage and say nothing at first; positions are as the last was."""
    vision, tower = model.config.vision_config, model.model.vision_tower
    for stage, (blocks, depth) in enumerate(zip(tower.blocks, DEPTHS, strict=True)):
        while len(blocks) < depth:
            block = type(blocks[-1])(vision, stage, 0.0, 0.0).to(model.device)
            for part in block.modules():
                if isinstance(part, nn.Linear | nn.Conv2d):
                    initialize_layer(part, InitScheme.XAVIER)
            spatial, channel = block.spatial_block, block.channel_block
            last = [part for half in (spatial, channel) for part in (half.conv1, half.conv2, half.ffn.fc2)]
            for part in (*last, spatial.window_attn.proj, channel.channel_attn.proj):
                part.weight.zero_()
            blocks.append(block)
    vision.depths = list(DEPTHS)
    shape, language = model.config.text_config, model.model.language_model
    for half in (language.encoder, language.decoder):
        table = half.embed_positions
        more = table.weight[-1:].expand(max(POSITIONS - shape.max_position_embeddings, 0), -1)
        table.weight = nn.Parameter(torch.cat([table.weight, more]))
        table.num_embeddings = len(table.weight)
    shape.max_position_embeddings = POSITIONS


def interpolation(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """The shares, [new, old], that each old place has in each new one: of the two around it, by nearness; beyond the
    last, of that one alone."""
    at = torch.stack(
        [torch.from_numpy(np.interp(new.numpy(), old.numpy(), row)) for row in torch.eye(len(old)).numpy()]
    )
    return at.T.float()


def generation() -> GenerationConfig:
    """Greedy, and no n-gram ban: in its small language `large red car` may rightly be said twice."""
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


def save(model: Florence2ForConditionalGeneration, words: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the folder that any transformers program, and florist, loads; weights as fp16, half the size. Scales that
    lie there were of other weights, and go."""
    (folder / calibration.FILE).unlink(missing_ok=True)
    side = model.config.vision_config.max_position_embeddings * CELL
    copy.deepcopy(model).half().save_pretrained(folder)
    pictures = CLIPImageProcessorPil(
        size={"height": side, "width": side},
        crop_size={"height": side, "width": side},
        do_center_crop=False,
        resample=3,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    pictures.image_seq_length = (side // CELL) ** 2 + 1  # the pooled one
    Florence2Processor(pictures, words).save_pretrained(folder)
