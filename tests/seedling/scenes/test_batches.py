"""Batches by step: repeatable, never the report's scenes, and true to the scenes that they are made of."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from finetune.datasets.task_weights import TASK_WEIGHTS
from finetune.losses import IGNORE
from prompts import locations
from prompts.annotations import Box
from prompts.parsing import parse_answer
from prompts.special_tokens import BOS, EOS
from prompts.tasks import FLORENCE_TASKS, TASKS
from prompts.vocabulary import tokenize_answer
from seedling.scenes import batches, out_of_distribution
from seedling.scenes.batches import TRAINING_SEEDS, SceneBatch, SceneBatchDataset, choose_samples, to_pixels
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.out_of_distribution import draw_unrelated_scene
from seedling.scenes.scene import Scene

SIDE, GRID = 96, 12


def make_dataset(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> SceneBatchDataset:
    settings = {"side": SIDE, "grid": GRID, "images": 3, "prompts": 4, "seed": 0}
    return SceneBatchDataset(tokenizer, **(settings | changes))


def list_tensors(batch: SceneBatch) -> list[torch.Tensor]:
    d = batch.dense
    dense = [d.classes, d.boxes, d.colors, d.letters, d.letter_indices, d.early_letters, d.early_colors]
    attention = [batch.attention_rows, batch.attention_targets]
    return [batch.pixels, *dense, batch.owner, batch.prompts, batch.labels, batch.relevance, *attention]


def strip(text: str) -> str:
    return text.removeprefix(BOS).removesuffix(EOS)


@pytest.fixture
def drawn_seeds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The seeds of the scenes drawn so far."""
    seeds: list[int] = []
    for module in batches, out_of_distribution:
        monkeypatch.setattr(module, "draw_scene", lambda seed, **kinds: seeds.append(seed) or draw_scene(seed, **kinds))
    monkeypatch.setattr(batches, "draw_unrelated_scene", lambda seed: seeds.append(seed) or draw_unrelated_scene(seed))
    return seeds


def test_a_step_always_has_the_same_batch(tokenizer: PreTrainedTokenizerBase) -> None:
    one, again = make_dataset(tokenizer)[7], make_dataset(tokenizer)[7]
    for a, b in zip(list_tensors(one), list_tensors(again), strict=True):
        assert torch.equal(a, b)
    for other in (make_dataset(tokenizer)[8], make_dataset(tokenizer, seed=1)[7]):
        assert not torch.equal(one.pixels, other.pixels)


def test_training_never_draws_the_reports_scenes_nor_a_scene_twice(
    tokenizer: PreTrainedTokenizerBase, drawn_seeds: list[int]
) -> None:
    for seed in (0, 1, 11):
        for step in (0, 1, 2):
            make_dataset(tokenizer, seed=seed, prompts=0)[step]
    assert len(drawn_seeds) == len(set(drawn_seeds)) >= 27  # more when an image holds several scenes
    assert min(drawn_seeds) >= TRAINING_SEEDS


def test_objects_are_listed_roughly_from_left_to_right(tokenizer: PreTrainedTokenizerBase) -> None:
    dataset = make_dataset(tokenizer, images=12, prompts=1, objects=(5, 6), task_weights={"<OD>": 1.0}, wide_share=0.0)
    left_edges = []
    for row in dataset[0].labels.tolist():
        text = strip(tokenizer.decode([token for token in row if token != IGNORE]))
        boxes = parse_answer(TASKS["<OD>"], tokenize_answer(text), (1000, 1000)).annotations
        left_edges.append([box.box[0] for box in boxes if isinstance(box, Box)])
    assert max(map(len, left_edges)) >= 5
    assert any(edges != sorted(edges) for edges in left_edges)  # `draw_scene` sorts them
    assert all(here - after < 200 for edges in left_edges for here, after in pairwise(edges))


def test_shapes_and_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = make_dataset(tokenizer)[0]
    assert batch.pixels.shape == (3, 3, SIDE, SIDE)
    assert batch.pixels.dtype == torch.uint8
    assert (batch.dense.classes.shape, batch.dense.boxes.shape) == ((3, GRID**2), (3, GRID**2, 4))
    assert batch.dense.letters.shape == batch.dense.letter_indices.shape == (3, GRID**2, 2)
    assert batch.relevance.shape == (len(batch.owner), GRID**2, 16)
    assert batch.relevance.dtype == torch.bool
    assert batch.owner.tolist() == sorted(batch.owner.tolist())
    assert len(batch.owner) == len(batch.prompts) == len(batch.labels)
    assert set(batch.owner.tolist()) == {0, 1, 2}
    for rows, filler in ((batch.prompts, tokenizer.pad_token_id), (batch.labels, IGNORE)):
        assert (rows == filler).any()
        for row in rows.tolist():
            length = row.index(tokenizer.eos_token_id) + 1
            assert row[0] == tokenizer.bos_token_id
            assert filler not in row[:length]
            assert set(row[length:]) <= {filler}
    assert tokenizer.pad_token_id not in batch.labels


def test_prompts_and_answers_belong_together(tokenizer: PreTrainedTokenizerBase) -> None:
    """Every answer is well-formed for the task of its prompt, and detects what its image shows."""
    batch = make_dataset(tokenizer, images=4)[3]
    tasks = {
        task.template.split("{input}")[0].strip(): task for task in FLORENCE_TASKS.values() if "{" not in task.template
    }
    detections = 0
    for owner, prompt, label in zip(batch.owner, batch.prompts, batch.labels, strict=True):
        prompt_text = strip(tokenizer.decode(prompt[prompt != tokenizer.pad_token_id]))
        answer_text = strip(tokenizer.decode(label[label != IGNORE]))
        task = tasks.get(prompt_text)
        if task is None:
            continue
        answer = parse_answer(task, tokenize_answer(answer_text), (1000, 1000))
        assert not answer.dropped
        if task.token == "<OD>":
            detections += 1
            shown = {CATEGORIES[k - 1] for k in batch.dense.classes[owner].unique().tolist() if k}
            assert {annotation.label for annotation in answer.annotations} == shown
    assert detections


def test_each_prompt_has_its_relevance_mask(tokenizer: PreTrainedTokenizerBase) -> None:
    """For detection it covers the objects, which fill a part of their boxes, and little outside the boxes."""
    batch = make_dataset(tokenizer, images=12)[3]
    wanted = TASKS["<OD>"].template
    checked = 0
    for owner, prompt, mask in zip(batch.owner, batch.prompts, batch.relevance, strict=True):
        if strip(tokenizer.decode(prompt[prompt != tokenizer.pad_token_id])) != wanted:
            continue
        occupied, relevance = batch.dense.classes[owner] > 0, mask.float().mean(1)
        assert relevance[occupied].mean() > 0.2
        assert relevance[~occupied].mean() < 0.1 * relevance[occupied].mean()
        checked += 1
    assert checked >= 3


def test_processes_share_the_images_of_a_batch(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = make_dataset(tokenizer)[2]
    for number in range(2):
        part = SceneBatchDataset(tokenizer, side=SIDE, grid=GRID, images=3, prompts=4, shard=(number, 2))[2]
        assert torch.equal(part.pixels, whole.pixels[number::2])
        assert torch.equal(part.dense.classes, whole.dense.classes[number::2])
        own = torch.isin(whole.owner, torch.arange(3)[number::2])
        assert torch.equal(part.owner, whole.owner[own] // 2)
        assert torch.equal(part.relevance, whole.relevance[own])


def test_some_images_are_empty_and_some_are_wide(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(wide_share: float = 0.0, **shares: float) -> list[Scene]:
        for name in ("EMPTY_SHARE", "UNRELATED_SHARE", "TEXT_PAGE_SHARE"):
            monkeypatch.setattr(batches, name, shares.get(name, 0.0))
        dataset = make_dataset(tokenizer, wide_share=wide_share)
        return [dataset.draw(seed, np.random.default_rng(seed)) for seed in range(8)]

    assert all(scene.objects and max(scene.image.size) <= 2.01 * min(scene.image.size) for scene in draw())
    assert not any(scene.objects for scene in draw(EMPTY_SHARE=1.0))
    assert not any(scene.objects or scene.words for scene in draw(UNRELATED_SHARE=1.0))
    assert sum(len(scene.words) for scene in draw(TEXT_PAGE_SHARE=1.0)) > 8 * 2.5
    wide = draw(wide_share=1.0)
    assert all(scene.objects for scene in wide)
    assert max(max(scene.image.size) / min(scene.image.size) for scene in wide) > 2.4


def test_labels_have_attention_targets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Locations always have one, and those of a box attend around its center; start and end tokens have none."""
    batch = make_dataset(tokenizer, images=6)[1]
    first = tokenizer.convert_tokens_to_ids("<loc_0>")
    assert batch.attention_rows.shape == batch.labels.shape
    assert int(batch.attention_rows.max()) == len(batch.attention_targets) - 1
    assert torch.allclose(batch.attention_targets.sum(1), torch.ones(len(batch.attention_targets)))
    is_location = (batch.labels >= first) & (batch.labels < first + locations.BINS)
    assert (batch.attention_rows[is_location] >= 0).all()
    is_special = torch.isin(batch.labels, torch.tensor([tokenizer.bos_token_id, tokenizer.eos_token_id, IGNORE]))
    assert (batch.attention_rows[is_special] == -1).all()
    boxes = 0
    for labels, rows in zip(batch.labels, batch.attention_rows, strict=True):
        for at in range(labels.shape[0] - 3):
            own = rows[at : at + 4]
            if (labels[at : at + 4] >= first).all() and len(set(own.tolist())) == 1 and own[0] >= 0:
                x1, y1, x2, y2 = (labels[at : at + 4] - first).tolist()
                cells = batch.attention_targets[own[0]].reshape(GRID, GRID)
                centers = torch.arange(GRID) / GRID * 1000
                assert x1 - 60 <= float((cells.sum(0) * centers).sum()) <= x2 + 60
                assert y1 - 60 <= float((cells.sum(1) * centers).sum()) <= y2 + 60
                boxes += 1
    assert boxes


def test_a_batch_without_prompts_has_dense_targets_only(tokenizer: PreTrainedTokenizerBase) -> None:
    full, dense_only = make_dataset(tokenizer)[5], make_dataset(tokenizer, prompts=0)[5]
    assert torch.equal(full.pixels, dense_only.pixels)
    assert torch.equal(full.dense.classes, dense_only.dense.classes)
    assert (dense_only.prompts.shape, dense_only.labels.shape, dense_only.owner.shape) == ((0, 0), (0, 0), (0,))
    assert dense_only.owner.dtype == dense_only.labels.dtype == torch.long


def test_every_task_of_the_seedling_has_a_weight() -> None:
    assert set(TASK_WEIGHTS) == set(FLORENCE_TASKS)
    assert min(TASK_WEIGHTS.values()) > 0


def test_no_sample_is_chosen_twice(scenes: list[Scene]) -> None:
    several_phrases = 0
    for number, scene in enumerate(scenes):
        chosen = choose_samples(scene, 6, np.random.default_rng(number))
        assert len(chosen) == 6
        assert len({(s.task.token, s.text, s.region) for s in chosen}) == 6
        plain = [s.task.token for s in chosen if s.text is None and s.region is None]
        assert len(set(plain)) == len(plain)
        several_phrases += [s.task.token for s in chosen].count("<OPEN_VOCABULARY_DETECTION>") > 1
    assert several_phrases  # two names in the prompts of one image
    empty = Scene(Image.new("RGB", (90, 90)), (), (), "red")
    tokens = {s.task.token for s in choose_samples(empty, 40, np.random.default_rng(0))}
    assert len(tokens) == 10  # the tasks that an empty image allows
    assert choose_samples(empty, 0, np.random.default_rng(0)) == []


@pytest.mark.parametrize("ocr_weight", [1.0, 0.25])
def test_tasks_are_chosen_by_weight(scenes: list[Scene], ocr_weight: float) -> None:
    scene = next(s for s in scenes if s.objects and s.words)
    rng = np.random.default_rng(0)
    tokens = [choose_samples(scene, 1, rng, ocr_weight)[0].task.token for _ in range(1500)]
    weights = {token: weight * (ocr_weight if "OCR" in token else 1) for token, weight in TASK_WEIGHTS.items()}
    total = sum(weights.values())
    for token, weight in weights.items():
        expected = weight / total
        assert tokens.count(token) / 1500 == pytest.approx(expected, abs=4 * (expected / 1500) ** 0.5), token


def test_pixels_are_the_resized_image() -> None:
    ramp = np.zeros((40, 80, 3), np.uint8)
    ramp[:, 40:, 0] = 200  # the right half is red
    ramp[20:, :, 2] = 100  # the lower half is blue
    pixels = to_pixels(Image.fromarray(ramp), 16)
    assert pixels.shape == (3, 16, 16)
    assert [pixels[0, 4, 2], pixels[0, 4, 13]] == [0, 200]
    assert [pixels[2, 2, 4], pixels[2, 13, 4]] == [0, 100]
    assert not pixels[1].any()
