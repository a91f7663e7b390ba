"""The seedling before it is taught: words to ids and back, first values, and the folder that transformers loads."""

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

from prompts.tasks import ADDED_TOKENS, BOS, EOS, IMAGE, TASKS, InputKind
from prompts.vocabulary import Vocabulary, find_special_token, tokenize_answer
from seedling import architecture
from seedling.initialization import InitScheme, initialize_layer
from seedling.scenes.batches import pixels_of
from seedling.scenes.samples import WORDS

GRID = architecture.PICTURE // architecture.CELL
quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)


@pytest.fixture(scope="module")
def model() -> Florence2ForConditionalGeneration:
    return architecture.build(0)[0].eval()


@pytest.fixture(scope="module")
def table(model: Florence2ForConditionalGeneration) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()


@pytest.fixture(scope="module")
def folder(
    model: Florence2ForConditionalGeneration, words: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("seedling")
    architecture.save(model, words, path)
    return path


@pytest.fixture(scope="module")
def vocabulary(words: PreTrainedTokenizerBase) -> Vocabulary:
    return Vocabulary(words.get_vocab(), words.get_added_vocab())


def ids(words: PreTrainedTokenizerBase, text: str) -> list[int]:
    return words(text, add_special_tokens=False)["input_ids"]


@quick
@given(text=st.text())
def test_any_text_comes_back(words: PreTrainedTokenizerBase, text: str) -> None:
    assume(find_special_token(text) is None)
    assert words.decode(ids(words, text)) == text


@quick
@given(parts=st.lists(st.sampled_from([*ADDED_TOKENS, "cat", " two dogs.", "é", "\n", "🙂"]), max_size=8))
def test_ids_mean_to_the_grammar_what_the_text_means(
    words: PreTrainedTokenizerBase, vocabulary: Vocabulary, parts: list[str]
) -> None:
    read: list[object] = []
    for token in (vocabulary[i] for i in ids(words, "".join(parts))):
        if token.letters is not None and read and isinstance(read[-1], bytes):
            read[-1] += token.letters
        else:
            read.append(token if token.letters is None else token.letters)
    assert read == [t if t.letters is None else t.letters for t in tokenize_answer("".join(parts))]


def test_control_tokens_stand_where_bart_has_them(words: PreTrainedTokenizerBase) -> None:
    assert words.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert (words.bos_token_id, words.pad_token_id, words.eos_token_id) == (0, 1, 2)


def test_added_tokens_are_last_and_in_order(words: PreTrainedTokenizerBase) -> None:
    first = words.convert_tokens_to_ids(ADDED_TOKENS[0])
    assert tuple(words.convert_ids_to_tokens(list(range(first, len(words))))) == ADDED_TOKENS
    assert len(words) == 1585  # ids are what a trained seedling knows: another word is another seedling


def test_each_word_is_one_token_alone_and_after_a_space(words: PreTrainedTokenizerBase) -> None:
    for word in WORDS:
        assert len(ids(words, word)) == len(ids(words, " " + word)) == 1, word


def test_other_text_is_spelled_byte_by_byte(words: PreTrainedTokenizerBase) -> None:
    assert len(ids(words, "STOP")) == 4
    assert len(ids(words, "catz")) == 4
    assert len(ids(words, "é")) == 2


def test_shape(model: Florence2ForConditionalGeneration, words: PreTrainedTokenizerBase) -> None:
    assert sum(p.numel() for p in model.parameters()) == 7_913_472
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.image_token_id == words.convert_tokens_to_ids(IMAGE)
    side = architecture.PICTURE
    with torch.no_grad():
        image = model.get_image_features(torch.zeros(1, 3, side, side)).pooler_output
    assert image.shape == (1, 1 + GRID**2, model.config.text_config.d_model)


def test_a_larger_picture_is_seen_as_the_smaller_one_was(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """A place of the picture means what it did, and so does each token of the prompt."""
    model = architecture.build(0, picture=192)[0].eval()
    torch.manual_seed(0)
    place = model.model.multi_modal_projector.image_position_embed
    positions = model.model.language_model.encoder.embed_positions
    with torch.no_grad():
        for axis in (place.row_embeddings, place.column_embeddings):
            axis.weight += torch.linspace(-1, 1, 12)[:, None]  # what teaching did, plainly by place
        down, across = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
        positions.weight[3 : 3 + 144] = (3 * down + across).flatten()[:, None].expand(-1, 192)
    before = positions.weight.clone()
    architecture.resize(model, 256)
    vision = model.config.vision_config
    assert (vision.max_position_embeddings, vision.window_size) == (16, 16)
    # Cell 4 of 16 looks where cell 3 of 12 did: at a quarter of the side, but for half a pixel's part.
    taught = place.row_embeddings.weight.detach() - architecture.fourier(architecture.middles(16), 96)
    for new, old in ((0, 0), (4, 3), (8, 6), (12, 9)):
        assert taught[new, 0] == pytest.approx(-1 + 2 * old / 11, abs=2e-3)
    assert taught[15, 0] == pytest.approx(1)  # beyond the last of 12: as that
    cells = positions.weight.detach()[3 : 3 + 256].view(16, 16, 192)[..., 0]
    assert cells[4, 8] == pytest.approx(3 * 3 + 6, abs=0.04)
    assert torch.equal(positions.weight[:3], before[:3])
    assert torch.equal(positions.weight[3 + 256 :], before[3 + 144 : -(256 - 144)])
    assert positions.weight.shape == before.shape
    noise = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = model.get_image_features(noise).pooler_output
    assert image.shape == (1, 257, 192)
    architecture.save(model, words, tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.size == {"height": 256, "width": 256}
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.model.vision_tower.blocks[0][0].spatial_block.window_attn.window_size == 16
    with torch.no_grad():  # what it sees is what another sees that was made of that size
        again = loaded.float().eval().get_image_features(noise).pooler_output
    torch.testing.assert_close(again, image, rtol=0.01, atol=0.01)


def test_a_smaller_picture_keeps_its_places_and_frees_those_beyond() -> None:
    model = architecture.build(0, picture=192)[0]
    place = model.model.multi_modal_projector.image_position_embed
    positions = model.model.language_model.encoder.embed_positions
    before = positions.weight.detach().clone()
    architecture.resize(model, 96)
    torch.testing.assert_close(place.row_embeddings.weight.detach(), architecture.fourier(architecture.middles(6), 96))
    behind = before[3 + 144 :]
    assert torch.equal(positions.weight[3 + 36 : 3 + 36 + len(behind)], behind)
    assert torch.equal(positions.weight[3 + 36 + len(behind) :], behind[-1:].expand(144 - 36, -1))


def test_places_without_order_are_interpolated_as_they_are() -> None:
    model = architecture.build(0, ordered=False, picture=192)[0]
    axis = model.model.multi_modal_projector.image_position_embed.row_embeddings
    before = axis.weight.detach().clone()
    share = architecture.interpolation(architecture.middles(12), architecture.middles(16))
    architecture.resize(model, 256, ordered=False)
    torch.testing.assert_close(axis.weight.detach(), share @ before)
    assert axis.weight.norm(dim=-1).max() <= 1 + 1e-5


@pytest.mark.parametrize("side", [0, -16, 100, 416])
def test_a_side_of_broken_or_too_many_cells_is_refused(side: int) -> None:
    model = architecture.build(0, picture=96)[0]
    for make in (lambda: architecture.resize(model, side), lambda: architecture.build(0, picture=side)):
        with pytest.raises(ValueError, match="take a multiple of 16, up to 400"):
            make()


def test_a_picture_of_the_same_size_changes_nothing(model: Florence2ForConditionalGeneration) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    architecture.resize(model, architecture.PICTURE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_fewer_blocks_and_positions_answers_as_it_did(
    words: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(architecture, "DEPTHS", (1, 1, 2, 1))
        patch.setattr(architecture, "POSITIONS", 512)
        model = architecture.build(0, picture=96)[0].eval()
    noise = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    asked = torch.tensor([[model.config.image_token_id] * 37 + words("What does the image describe?")["input_ids"]])
    told = {"input_ids": asked, "pixel_values": noise, "decoder_input_ids": torch.tensor([[2, 0, 5]])}
    with torch.no_grad():
        before = model(**told).logits
    own = {name: value.clone() for name, value in model.state_dict().items()}
    architecture.grow(model)
    whole = architecture.build(0, picture=96)[0].state_dict()
    assert {name: value.shape for name, value in model.state_dict().items()} == {k: v.shape for k, v in whole.items()}
    for name, value in own.items():  # what was there is there, and further positions are as the last
        now = model.state_dict()[name]
        assert torch.equal(now[: len(value)], value), name
        assert torch.equal(now[len(value) :], value[-1:].expand_as(now[len(value) :])), name
    architecture.save(model, words, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["max_position_embeddings"] == 640
    model.requires_grad_(True)
    after = model(**told).logits
    torch.testing.assert_close(after.detach(), before)
    after.square().mean().backward()
    new = model.model.vision_tower.blocks[1][1]
    for half, attention in ((new.spatial_block, "window_attn"), (new.channel_block, "channel_attn")):
        assert all(m.weight.grad.abs().max() > 0 for m in (half.conv1, half.ffn.fc2, getattr(half, attention).proj))


def test_same_seed_same_values() -> None:
    one, two, other = (architecture.build(seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_every_value_is_finite_and_no_matrix_is_mute(model: Florence2ForConditionalGeneration) -> None:
    for name, value in model.named_parameters():
        assert value.isfinite().all(), name
        assert value.dim() < 2 or value.std() > 1e-3, name


def test_words_are_of_unit_length_and_padding_is_nothing(table: torch.Tensor, words: PreTrainedTokenizerBase) -> None:
    lengths = table.norm(dim=-1)
    assert lengths[words.pad_token_id] == 0
    lengths[words.pad_token_id] = 1
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_a_word_is_nearly_itself_after_a_space(table: torch.Tensor, words: PreTrainedTokenizerBase) -> None:
    for word in ("cat", "dogs", "background", "a"):
        alone, spaced, other = (table[words.convert_tokens_to_ids(t)] for t in (word, "Ġ" + word, "Ġthe"))
        assert alone @ spaced > 0.7
        assert abs(alone @ other) < 0.4


def test_locations_are_ordered(table: torch.Tensor, words: PreTrainedTokenizerBase) -> None:
    first = words.convert_tokens_to_ids("<loc_0>")
    places = table[first : first + 1000]
    likeness = places @ places.T
    mean = [float(likeness.diagonal(gap).mean()) for gap in (1, 3, 10, 30, 100, 300)]
    assert mean == sorted(mean, reverse=True)
    assert mean[0] > 0.99
    assert mean[-1] < 0.5
    assert torch.equal(likeness.argmax(-1), torch.arange(1000))  # each is most like itself: none is another's double


def test_image_tokens_run_row_by_row_after_the_pooled_one(model: Florence2ForConditionalGeneration) -> None:
    """What stands in a cell of the picture shows most in that cell's own token, which the dense heads teach, and in
    those around it."""
    side, cell = architecture.PICTURE, architecture.CELL
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    spots = [(2, 9), (8, 1)]
    pictures = [noise.clone(), noise.clone(), noise]
    for picture, (row, column) in zip(pictures, spots, strict=False):
        picture[:, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] *= -1
    with torch.no_grad():
        *spotted, plain = model.get_image_features(torch.stack(pictures)).pooler_output
    for tokens, (row, column) in zip(spotted, spots, strict=True):
        most = (tokens - plain).norm(dim=-1)[1:].topk(4).indices
        assert (most // GRID).float().mean().item() == pytest.approx(row, abs=1.5)
        assert (most % GRID).float().mean().item() == pytest.approx(column, abs=1.5)


def test_transformers_loads_the_saved_folder(
    folder: Path, model: Florence2ForConditionalGeneration, words: PreTrainedTokenizerBase
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
    assert processor.tokenizer.get_vocab() == words.get_vocab()


def test_saving_leaves_the_model_in_full_precision(folder: Path, model: Florence2ForConditionalGeneration) -> None:
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.dtype != torch.float16


def test_saved_weights_are_halves_and_small(folder: Path) -> None:
    assert sum(f.stat().st_size for f in folder.iterdir()) < 20_000_000
    assert {v.dtype for v in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "florence2"


def test_saved_processor_asks_and_sees_as_training_does(folder: Path, words: PreTrainedTokenizerBase) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    noise = np.random.default_rng(0).integers(0, 256, (131, 257, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    inputs = {
        InputKind.NOTHING: ("", None, None),
        InputKind.TEXT: ("a cat", "a cat", None),
        InputKind.REGION: ("<loc_0><loc_0><loc_499><loc_999>", None, (0, 0, 128.4, 131)),
    }
    for task in TASKS.values():
        said, text, region = inputs[task.input_kind]
        encoded = processor(text=task.token + said, images=picture, return_tensors="pt")
        asked = ids(words, BOS + task.build_prompt(text, region, picture.size) + EOS)
        image = [words.convert_tokens_to_ids(IMAGE)] * (1 + GRID**2)
        assert encoded["input_ids"].tolist() == [image + asked]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    seen = (pixels_of(picture, architecture.PICTURE) / 255 - mean) / deviation
    torch.testing.assert_close(encoded["pixel_values"][0], seen)


def matrices(model: Florence2ForConditionalGeneration) -> list[torch.nn.Linear | torch.nn.Conv2d]:
    kinds = torch.nn.Linear | torch.nn.Conv2d
    return [m for n, m in model.named_modules() if isinstance(m, kinds) and n != "lm_head"]


@pytest.mark.parametrize("how", InitScheme)
def test_variances_are_what_the_papers_say(how: InitScheme) -> None:
    kinds = set[type]()
    for layer in matrices(architecture.build(0, how)[0]):
        weight = layer.weight.detach()
        taps = weight[0, 0].numel()
        depthwise = isinstance(layer, torch.nn.Conv2d) and layer.groups > 1
        fan_in, fan_out = (taps, taps) if depthwise else (weight.shape[1] * taps, weight.shape[0] * taps)
        wanted = 2 / fan_in if how is InitScheme.HE else 2 / (fan_in + fan_out)
        # Of n values drawn the variance is off by some √(2/n) of itself, and the mean by σ/√n.
        assert weight.var().item() == pytest.approx(wanted, rel=6 * (2 / weight.numel()) ** 0.5)
        assert abs(weight.mean().item()) < 6 * (wanted / weight.numel()) ** 0.5
        assert layer.bias is None or not layer.bias.any()
        kinds.add(type(layer))
    assert len(kinds) == 2


def test_he_keeps_the_variance_of_what_a_rectifier_lets_through() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(256, 256) for _ in range(8)]
    ends = {}
    for how in InitScheme:
        passed = torch.randn(512, 256)
        for layer in layers:
            initialize_layer(layer, how)
            passed = layer(passed.relu())
        ends[how] = passed.var().item()
    assert 0.5 < ends[InitScheme.HE] < 2
    assert ends[InitScheme.XAVIER] < 0.02  # half of it is lost in each layer


def test_locations_are_ordered_or_not(words: PreTrainedTokenizerBase) -> None:
    near = {}
    for ordered in (True, False):
        model, _ = architecture.build(0, ordered=ordered)
        first = words.convert_tokens_to_ids("<loc_0>")
        place = model.model.multi_modal_projector.image_position_embed
        for name, rows in (
            ("bins", model.get_input_embeddings().weight[first : first + 1000]), ("rows", place.row_embeddings.weight),
        ):  # fmt: skip
            assert torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-5)
            near[name, ordered] = (rows[:-1] * rows[1:]).sum(-1).mean().item()
    assert near["bins", True] > 0.99
    assert near["rows", True] > 0.5
    assert abs(near["bins", False]) < 0.05
    assert abs(near["rows", False]) < 0.2


def test_the_committed_way_is_the_default() -> None:
    plain, said = (
        model.state_dict()
        for model, _ in (architecture.build(3), architecture.build(3, InitScheme.XAVIER, ordered=True))
    )
    assert all(torch.equal(value, said[name]) for name, value in plain.items())
