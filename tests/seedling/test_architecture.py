"""The seedling before training: tokenizer, initial weights, and the folder that transformers loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Florence2ForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from prompts.special_tokens import ADDED_TOKENS, BOS, EOS, IMAGE
from prompts.tasks import FLORENCE_TASKS, InputKind
from prompts.vocabulary import Vocabulary, find_special_token, tokenize_answer
from seedling import architecture
from seedling.initialization import InitScheme, initialize_layer
from seedling.scenes.batches import to_pixels
from seedling.scenes.descriptions import WORDS
from server.engine.adapters.class_list import read_class_list
from server.engine.checkpoints.sources import SEEDLING_FOLDER

GRID = architecture.IMAGE_SIDE // architecture.CELL_SIDE
quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)


@pytest.fixture(scope="module")
def model() -> Florence2ForConditionalGeneration:
    return architecture.build_model(0)[0].eval()


@pytest.fixture(scope="module")
def table(model: Florence2ForConditionalGeneration) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()


@pytest.fixture(scope="module")
def folder(
    model: Florence2ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("seedling")
    architecture.save_checkpoint(model, tokenizer, path)
    return path


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    return Vocabulary(tokenizer.get_vocab(), tokenizer.get_added_vocab())


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@quick
@given(text=st.text())
def test_any_text_is_decoded_unchanged(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assume(find_special_token(text) is None)
    assert tokenizer.decode(encode(tokenizer, text)) == text


@quick
@given(parts=st.lists(st.sampled_from([*ADDED_TOKENS, "cat", " two dogs.", "é", "\n", "🙂"]), max_size=8))
def test_the_grammar_reads_ids_and_text_alike(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, parts: list[str]
) -> None:
    read: list[object] = []
    for token in (vocabulary[i] for i in encode(tokenizer, "".join(parts))):
        if token.text_bytes is not None and read and isinstance(read[-1], bytes):
            read[-1] += token.text_bytes
        else:
            read.append(token if token.text_bytes is None else token.text_bytes)
    assert read == [t if t.text_bytes is None else t.text_bytes for t in tokenize_answer("".join(parts))]


def test_control_tokens_have_barts_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_added_tokens_come_last_and_in_order(tokenizer: PreTrainedTokenizerBase) -> None:
    first = tokenizer.convert_tokens_to_ids(ADDED_TOKENS[0])
    assert tuple(tokenizer.convert_ids_to_tokens(list(range(first, len(tokenizer))))) == ADDED_TOKENS
    assert len(tokenizer) == 1585  # a trained seedling depends on its ids


def test_each_word_is_one_token_with_and_without_a_leading_space(tokenizer: PreTrainedTokenizerBase) -> None:
    for word in WORDS:
        assert len(encode(tokenizer, word)) == len(encode(tokenizer, " " + word)) == 1, word


def test_other_text_is_split_into_bytes(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(encode(tokenizer, "STOP")) == 4
    assert len(encode(tokenizer, "catz")) == 4
    assert len(encode(tokenizer, "é")) == 2


def test_shapes(model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
    assert sum(p.numel() for p in model.parameters()) == 7_913_472
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids(IMAGE)
    side = architecture.IMAGE_SIDE
    with torch.no_grad():
        image = model.get_image_features(torch.zeros(1, 3, side, side)).pooler_output
    assert image.shape == (1, 1 + GRID**2, model.config.text_config.d_model)


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two, other = (architecture.build_model(seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_weights_are_finite_and_no_matrix_is_almost_zero(model: Florence2ForConditionalGeneration) -> None:
    for name, value in model.named_parameters():
        assert value.isfinite().all(), name
        assert value.dim() < 2 or value.std() > 1e-3, name


def test_word_embeddings_have_unit_length_and_padding_is_zero(
    table: torch.Tensor, tokenizer: PreTrainedTokenizerBase
) -> None:
    lengths = table.norm(dim=-1)
    assert lengths[tokenizer.pad_token_id] == 0
    lengths[tokenizer.pad_token_id] = 1
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_a_leading_space_hardly_changes_a_word_embedding(
    table: torch.Tensor, tokenizer: PreTrainedTokenizerBase
) -> None:
    for word in ("cat", "dogs", "background", "a"):
        alone, spaced, other = (table[tokenizer.convert_tokens_to_ids(t)] for t in (word, "Ġ" + word, "Ġthe"))
        assert alone @ spaced > 0.7
        assert abs(alone @ other) < 0.4


def test_location_embeddings_are_ordered(table: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    first = tokenizer.convert_tokens_to_ids("<loc_0>")
    locations = table[first : first + 1000]
    similarity = locations @ locations.T
    mean = [float(similarity.diagonal(gap).mean()) for gap in (1, 3, 10, 30, 100, 300)]
    assert mean == sorted(mean, reverse=True)
    assert mean[0] > 0.99
    assert mean[-1] < 0.5
    assert torch.equal(similarity.argmax(-1), torch.arange(1000))  # no two are equal


def test_image_tokens_follow_the_pooled_one_row_by_row(model: Florence2ForConditionalGeneration) -> None:
    """A change in one cell affects most the token of that cell and those around it."""
    side, cell = architecture.IMAGE_SIDE, architecture.CELL_SIDE
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    changed_cells = [(2, 9), (8, 1)]
    images = [noise.clone(), noise.clone(), noise]
    for image, (row, column) in zip(images, changed_cells, strict=False):
        image[:, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] *= -1
    with torch.no_grad():
        *changed, plain = model.get_image_features(torch.stack(images)).pooler_output
    for tokens, (row, column) in zip(changed, changed_cells, strict=True):
        most = (tokens - plain).norm(dim=-1)[1:].topk(4).indices
        assert (most // GRID).float().mean().item() == pytest.approx(row, abs=1.5)
        assert (most % GRID).float().mean().item() == pytest.approx(column, abs=1.5)


def test_transformers_loads_the_saved_folder(
    folder: Path, model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
) -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert isinstance(loaded, Florence2ForConditionalGeneration)
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value.half()), name
    assert loaded.generation_config.num_beams == 1
    assert loaded.generation_config.no_repeat_ngram_size == 0
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_a_saved_folder_names_the_classes_as_the_committed_one_does(folder: Path) -> None:
    for each in (folder, SEEDLING_FOLDER):
        assert read_class_list(each) == architecture.KNOWN_CLASSES


def test_saving_keeps_the_model_in_fp32(folder: Path, model: Florence2ForConditionalGeneration) -> None:
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.dtype != torch.float16


def test_saved_weights_are_fp16(folder: Path) -> None:
    assert sum(f.stat().st_size for f in folder.iterdir()) < 20_000_000
    assert {v.dtype for v in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "florence2"


def test_the_saved_processor_prepares_inputs_as_training_does(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    noise = np.random.default_rng(0).integers(0, 256, (131, 257, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    inputs = {
        InputKind.NOTHING: ("", None, None),
        InputKind.TEXT: ("a cat", "a cat", None),
        InputKind.REGION: ("<loc_0><loc_0><loc_499><loc_999>", None, (0, 0, 128.4, 131)),
    }
    for task in FLORENCE_TASKS.values():
        suffix, text, region = inputs[task.input_kind]
        encoded = processor(text=task.token + suffix, images=image, return_tensors="pt")
        prompt = encode(tokenizer, BOS + task.build_prompt(text, region, image.size) + EOS)
        image_ids = [tokenizer.convert_tokens_to_ids(IMAGE)] * (1 + GRID**2)
        assert encoded["input_ids"].tolist() == [image_ids + prompt]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = (to_pixels(image, architecture.IMAGE_SIDE) / 255 - mean) / deviation
    torch.testing.assert_close(encoded["pixel_values"][0], pixels)


def list_matrices(model: Florence2ForConditionalGeneration) -> list[torch.nn.Linear | torch.nn.Conv2d]:
    kinds = torch.nn.Linear | torch.nn.Conv2d
    return [m for n, m in model.named_modules() if isinstance(m, kinds) and n != "lm_head"]


@pytest.mark.parametrize("scheme", InitScheme)
def test_variances_follow_the_papers(scheme: InitScheme) -> None:
    kinds = set[type]()
    for layer in list_matrices(architecture.build_model(0, scheme)[0]):
        weight = layer.weight.detach()
        taps = weight[0, 0].numel()
        depthwise = isinstance(layer, torch.nn.Conv2d) and layer.groups > 1
        fan_in, fan_out = (taps, taps) if depthwise else (weight.shape[1] * taps, weight.shape[0] * taps)
        expected = 2 / fan_in if scheme is InitScheme.HE else 2 / (fan_in + fan_out)
        # With n values the relative error of the variance is about √(2/n), that of the mean σ/√n.
        assert weight.var().item() == pytest.approx(expected, rel=6 * (2 / weight.numel()) ** 0.5)
        assert abs(weight.mean().item()) < 6 * (expected / weight.numel()) ** 0.5
        assert layer.bias is None or not layer.bias.any()
        kinds.add(type(layer))
    assert len(kinds) == 2


def test_he_preserves_the_variance_behind_rectifiers() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(256, 256) for _ in range(8)]
    variances = {}
    for scheme in InitScheme:
        activations = torch.randn(512, 256)
        for layer in layers:
            initialize_layer(layer, scheme)
            activations = layer(activations.relu())
        variances[scheme] = activations.var().item()
    assert 0.5 < variances[InitScheme.HE] < 2
    assert variances[InitScheme.XAVIER] < 0.02  # each layer loses half of it


def test_order_of_positions_is_optional(tokenizer: PreTrainedTokenizerBase) -> None:
    similarity = {}
    for ordered in (True, False):
        model, _ = architecture.build_model(0, ordered=ordered)
        first = tokenizer.convert_tokens_to_ids("<loc_0>")
        position_embed = model.model.multi_modal_projector.image_position_embed
        for name, rows in (
            ("bins", model.get_input_embeddings().weight[first : first + 1000]),
            ("rows", position_embed.row_embeddings.weight),
        ):
            assert torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-5)
            similarity[name, ordered] = (rows[:-1] * rows[1:]).sum(-1).mean().item()
    assert similarity["bins", True] > 0.99
    assert similarity["rows", True] > 0.5
    assert abs(similarity["bins", False]) < 0.05
    assert abs(similarity["rows", False]) < 0.2


def test_the_defaults_are_those_of_the_committed_seedling() -> None:
    default, explicit = (
        model.state_dict()
        for model, _ in (architecture.build_model(3), architecture.build_model(3, InitScheme.XAVIER, ordered=True))
    )
    assert all(torch.equal(value, explicit[name]) for name, value in default.items())
