"""Batches by step: repeatable, never the report's scenes, and true to the scenes that they are made of."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from finetune.losses import IGNORE
from prompts import locations
from prompts.annotations import Box
from prompts.parsing import parse_answer
from prompts.special_tokens import BOS, EOS
from prompts.tasks import TASKS
from prompts.vocabulary import tokenize_answer
from seedling.dense_heads import LETTERS, DenseTargets
from seedling.scenes import batches as module
from seedling.scenes import out_of_distribution
from seedling.scenes.batches import (
    TASK_WEIGHTS,
    TRAINING_SEEDS,
    Batch,
    SceneBatchDataset,
    choose_samples,
    dense_targets,
    pixels_of,
)
from seedling.scenes.colors import COLOR_NAMES, pure_color_shares
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.out_of_distribution import foreign, widened
from seedling.scenes.scene import Object, Scene, Word

SIDE, GRID = 96, 12


def source(words: PreTrainedTokenizerBase, **changes: Any) -> SceneBatchDataset:
    return SceneBatchDataset(words, **({"side": SIDE, "grid": GRID, "pictures": 3, "prompts": 4, "seed": 0} | changes))


def tensors(batch: Batch) -> list[torch.Tensor]:
    dense = batch.dense
    places = [dense.classes, dense.boxes, dense.colors, dense.letters, dense.orders, dense.signs, dense.tints]
    return [batch.pixels, *places, batch.owner, batch.prompts, batch.labels, batch.asked, batch.looks, batch.looked_at]


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The seeds that are drawn, as they are drawn."""
    drawn: list[int] = []
    for drawing in module, out_of_distribution:
        monkeypatch.setattr(
            drawing, "draw_scene", lambda seed, **kinds: drawn.append(seed) or draw_scene(seed, **kinds)
        )
    monkeypatch.setattr(module, "foreign", lambda seed: drawn.append(seed) or foreign(seed))
    return drawn


def test_a_step_is_one_batch_and_no_other(words: PreTrainedTokenizerBase) -> None:
    one, again = source(words)[7], source(words)[7]
    for a, b in zip(tensors(one), tensors(again), strict=True):
        assert torch.equal(a, b)
    for other in (source(words)[8], source(words, seed=1)[7]):
        assert not torch.equal(one.pixels, other.pixels)


def test_training_never_draws_the_reports_scenes_nor_one_twice(
    words: PreTrainedTokenizerBase, seeds: list[int]
) -> None:
    for seed in (0, 1, 11):
        for step in (0, 1, 2):
            source(words, seed=seed, prompts=0)[step]
    assert len(seeds) == len(set(seeds)) >= 27  # more where a picture is of several scenes
    assert min(seeds) >= TRAINING_SEEDS


def test_things_are_told_in_nearly_their_order_from_left_to_right(words: PreTrainedTokenizerBase) -> None:
    batch = source(words, pictures=12, prompts=1, objects=(5, 6), task_weights={"<OD>": 1.0}, wide=0.0)[0]
    begins = []
    for row in batch.labels.tolist():
        text = words.decode([token for token in row if token != IGNORE]).removeprefix(BOS).removesuffix(EOS)
        boxes = parse_answer(TASKS["<OD>"], tokenize_answer(text), (1000, 1000)).annotations
        begins.append([box.box[0] for box in boxes if isinstance(box, Box)])
    assert max(map(len, begins)) >= 5
    assert any(told != sorted(told) for told in begins)  # `draw` tells them sorted
    assert all(here - after < 200 for told in begins for here, after in pairwise(told))


def test_shapes_and_padding(words: PreTrainedTokenizerBase) -> None:
    batch = source(words)[0]
    assert batch.pixels.shape == (3, 3, SIDE, SIDE)
    assert batch.pixels.dtype == torch.uint8
    assert (batch.dense.classes.shape, batch.dense.boxes.shape) == ((3, GRID**2), (3, GRID**2, 4))
    assert batch.dense.letters.shape == batch.dense.orders.shape == (3, GRID**2, 2)
    assert batch.asked.shape == (len(batch.owner), GRID**2, 16)
    assert batch.asked.dtype == torch.bool
    assert batch.owner.tolist() == sorted(batch.owner.tolist())
    assert len(batch.owner) == len(batch.prompts) == len(batch.labels)
    assert set(batch.owner.tolist()) == {0, 1, 2}
    ends = ((batch.prompts, words.pad_token_id), (batch.labels, IGNORE))
    for rows, filler in ends:
        assert (rows == filler).any()
        for row in rows.tolist():
            length = row.index(words.eos_token_id) + 1
            assert row[0] == words.bos_token_id
            assert filler not in row[:length]
            assert set(row[length:]) <= {filler}
    assert words.pad_token_id not in batch.labels


def test_prompts_and_answers_stay_together(words: PreTrainedTokenizerBase) -> None:
    """Every answer reads without complaint as one to its own prompt's task, and places what its picture holds."""
    batch = source(words, pictures=4)[3]
    wordings = {task.template.split("{input}")[0].strip(): task for task in TASKS.values() if "{" not in task.template}
    detections = 0
    for owner, prompt, label in zip(batch.owner, batch.prompts, batch.labels, strict=True):
        asked = words.decode(prompt[prompt != words.pad_token_id]).removeprefix(BOS).removesuffix(EOS)
        said = words.decode(label[label != IGNORE]).removeprefix(BOS).removesuffix(EOS)
        task = wordings.get(asked)
        if task is None:
            continue
        answer = parse_answer(task, tokenize_answer(said), (1000, 1000))
        assert not answer.dropped
        if task.token == "<OD>":
            detections += 1
            held = {CATEGORIES[k - 1] for k in batch.dense.classes[owner].unique().tolist() if k}
            assert {note.label for note in answer.annotations} == held
    assert detections


def test_what_is_asked_for_is_told_of_each_prompt(words: PreTrainedTokenizerBase) -> None:
    """Of detection: what lies on the objects, which fill a part of their boxes, and little beyond the rims of these."""
    batch = source(words, pictures=12)[3]
    wanted = TASKS["<OD>"].template
    seen = 0
    for owner, prompt, places in zip(batch.owner, batch.prompts, batch.asked, strict=True):
        asked = words.decode(prompt[prompt != words.pad_token_id]).removeprefix(BOS).removesuffix(EOS)
        if asked != wanted:
            continue
        classes, middle = batch.dense.classes[owner] > 0, places.float().mean(1)
        assert middle[classes].mean() > 0.2
        assert middle[~classes].mean() < 0.1 * middle[classes].mean()
        seen += 1
    assert seen >= 3


def test_processes_share_out_the_pictures_of_a_batch(words: PreTrainedTokenizerBase) -> None:
    whole = source(words)[2]
    for number in range(2):
        part = SceneBatchDataset(words, side=SIDE, grid=GRID, pictures=3, prompts=4, share=(number, 2))[2]
        assert torch.equal(part.pixels, whole.pixels[number::2])
        assert torch.equal(part.dense.classes, whole.dense.classes[number::2])
        own = torch.isin(whole.owner, torch.arange(3)[number::2])
        assert torch.equal(part.owner, whole.owner[own] // 2)
        assert torch.equal(part.asked, whole.asked[own])


def test_some_pictures_are_empty_and_some_are_wide(
    words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kinds(wide: float = 0.0, **task_weights: float) -> list[Scene]:
        for name in ("EMPTY", "FOREIGN", "PAGES"):
            monkeypatch.setattr(module, name, task_weights.get(name, 0.0))
        return [source(words, wide=wide).scene(seed, np.random.default_rng(seed)) for seed in range(8)]

    assert all(scene.objects and max(scene.image.size) <= 2.01 * min(scene.image.size) for scene in kinds())
    assert not any(scene.objects for scene in kinds(EMPTY=1.0))
    assert not any(scene.objects or scene.words for scene in kinds(FOREIGN=1.0))
    assert sum(len(scene.words) for scene in kinds(PAGES=1.0)) > 8 * 2.5
    wide = kinds(wide=1.0)
    assert all(scene.objects for scene in wide)
    assert max(max(scene.image.size) / min(scene.image.size) for scene in wide) > 2.4


def test_each_label_knows_where_it_lies(words: PreTrainedTokenizerBase) -> None:
    """Locations always do, and those of boxes around a middle near where they look; beginnings and ends never."""
    batch = source(words, pictures=6)[1]
    first = words.convert_tokens_to_ids("<loc_0>")
    assert batch.looks.shape == batch.labels.shape
    assert int(batch.looks.max()) == len(batch.looked_at) - 1
    assert torch.allclose(batch.looked_at.sum(1), torch.ones(len(batch.looked_at)))
    places = (batch.labels >= first) & (batch.labels < first + locations.BINS)
    assert (batch.looks[places] >= 0).all()
    ends = torch.isin(batch.labels, torch.tensor([words.bos_token_id, words.eos_token_id, IGNORE]))
    assert (batch.looks[ends] == -1).all()
    boxes = 0
    for labels, looks in zip(batch.labels, batch.looks, strict=True):
        for at in range(labels.shape[0] - 3):
            here = looks[at : at + 4]
            if (labels[at : at + 4] >= first).all() and len(set(here.tolist())) == 1 and here[0] >= 0:
                x1, y1, x2, y2 = (labels[at : at + 4] - first).tolist()
                cells = batch.looked_at[here[0]].reshape(GRID, GRID)
                across = torch.arange(GRID) / GRID * 1000
                assert x1 - 60 <= float((cells.sum(0) * across).sum()) <= x2 + 60
                assert y1 - 60 <= float((cells.sum(1) * across).sum()) <= y2 + 60
                boxes += 1
    assert boxes


def test_no_prompts_leave_dense_targets_alone(words: PreTrainedTokenizerBase) -> None:
    asked, bare = source(words)[5], source(words, prompts=0)[5]
    assert torch.equal(asked.pixels, bare.pixels)
    assert torch.equal(asked.dense.classes, bare.dense.classes)
    assert (bare.prompts.shape, bare.labels.shape, bare.owner.shape) == ((0, 0), (0, 0), (0,))
    assert bare.owner.dtype == bare.labels.dtype == torch.long


def test_shares_name_every_task() -> None:
    assert set(TASK_WEIGHTS) == set(TASKS)
    assert min(TASK_WEIGHTS.values()) > 0


def test_no_question_is_chosen_twice(scenes: list[Scene]) -> None:
    phrases = 0
    for number, scene in enumerate(scenes):
        chosen = choose_samples(scene, 6, np.random.default_rng(number))
        assert len(chosen) == 6
        assert len({(q.task.token, q.text, q.region) for q in chosen}) == 6
        plain = [q.task.token for q in chosen if q.text is None and q.region is None]
        assert len(set(plain)) == len(plain)
        phrases += [q.task.token for q in chosen].count("<OPEN_VOCABULARY_DETECTION>") > 1
    assert phrases  # two names asked for in one picture
    bare = Scene(Image.new("RGB", (90, 90)), (), (), "red")
    tokens = {q.task.token for q in choose_samples(bare, 40, np.random.default_rng(0))}
    assert len(tokens) == 10  # what can be asked of an empty picture
    assert choose_samples(bare, 0, np.random.default_rng(0)) == []


@pytest.mark.parametrize("reading", [1.0, 0.25])
def test_tasks_are_asked_by_their_shares(scenes: list[Scene], reading: float) -> None:
    scene = next(s for s in scenes if s.objects and s.words)
    rng = np.random.default_rng(0)
    first = [choose_samples(scene, 1, rng, reading)[0].task.token for _ in range(1500)]
    task_weights = {token: share * (reading if "OCR" in token else 1) for token, share in TASK_WEIGHTS.items()}
    total = sum(task_weights.values())
    for token, share in task_weights.items():
        expected = share / total
        assert first.count(token) / 1500 == pytest.approx(expected, abs=4 * (expected / 1500) ** 0.5), token


def test_pixels_are_the_squashed_picture() -> None:
    ramp = np.zeros((40, 80, 3), np.uint8)
    ramp[:, 40:, 0] = 200  # the right half is red
    ramp[20:, :, 2] = 100  # the lower half is blue
    squashed = pixels_of(Image.fromarray(ramp), 16)
    assert squashed.shape == (3, 16, 16)
    assert [squashed[0, 4, 2], squashed[0, 4, 13]] == [0, 200]
    assert [squashed[2, 2, 4], squashed[2, 13, 4]] == [0, 100]
    assert not squashed[1].any()


def dense_of(scenes: list[Scene]) -> DenseTargets:
    return dense_targets(scenes, torch.stack([pixels_of(scene.image, SIDE) for scene in scenes]), GRID)


def cell_of(x: float, y: float, scene: Scene, grid: int = GRID) -> int:
    """The cell whose middle, a whole multiple of the cell's side, is nearest."""
    row, column = (min(round(share * grid), grid - 1) for share in (y / scene.height, x / scene.width))
    return row * grid + column


def test_the_cells_within_a_lone_object_are_its_own() -> None:
    for seed in range(20):
        scene = draw_scene(seed, objects=(1, 1), words=(0, 0))
        (thing,) = scene.objects
        dense = dense_of([scene])
        covered = {
            row * GRID + column
            for row in range(GRID)
            for column in range(GRID)
            if thing.box[0] <= column * scene.width / GRID <= thing.box[2]
            and thing.box[1] <= row * scene.height / GRID <= thing.box[3]
        }
        assert covered
        assert set(dense.classes[0].nonzero().flatten().tolist()) == covered
        bins = locations.quantize_points(thing.box, scene.width, scene.height)
        for cell in covered:
            assert dense.classes[0, cell] == 1 + CATEGORIES.index(thing.category)
            assert dense.boxes[0, cell].tolist() == bins
            assert dense.colors[0, cell].tolist() == pytest.approx(thing.color_shares)
        assert not dense.letters.any()


def test_a_background_has_a_colour_where_it_has_but_one() -> None:
    scene = draw_scene(3, objects=(1, 1), words=(0, 0))
    told = dense_of([scene, widened(scene, np.random.default_rng(0)), foreign(0)])
    things = told.classes > 0
    free = told.colors[0][~things[0]]
    assert set(free.argmax(-1).tolist()) == {COLOR_NAMES.index(scene.background)}
    assert (free.amax(-1) == 1).all()
    for number in (1, 2):
        assert not told.colors[number][~things[number]].any()
    assert told.colors[1][things[1]].argmax(-1).unique().tolist() == [COLOR_NAMES.index(scene.objects[0].color)]


def test_a_place_halfway_tells_the_colours_around_it() -> None:
    """Red on the left, blue on the right of the 10th of 24 places, which looks at pixel 40."""
    picture = Image.new("RGB", (SIDE, SIDE), "red")
    picture.paste((0, 0, 255), (40, 0, SIDE, SIDE))
    tints = dense_of([Scene(picture, (), (), "red")]).tints[0].reshape(2 * GRID, 2 * GRID, len(COLOR_NAMES))
    red, blue = (tints[..., COLOR_NAMES.index(name)] for name in ("red", "blue"))
    assert (red[:, :10] == 1).all()
    assert (red[:, 10] == 0.5).all()
    assert (blue[:, 10] == 0.5).all()
    assert (blue[:, 11:] == 1).all()


def test_a_middle_belongs_to_the_smallest_object_over_it(scenes: list[Scene]) -> None:
    dense = dense_of(scenes)
    told = 0
    for number, scene in enumerate(scenes):
        for thing in scene.objects:
            cell = cell_of((thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2, scene)
            x, y = (cell % GRID) * scene.width / GRID, (cell // GRID) * scene.height / GRID
            over = [t for t in scene.objects if t.box[0] <= x <= t.box[2] and t.box[1] <= y <= t.box[3]]
            if over:
                least = min(over, key=lambda t: (t.box[2] - t.box[0]) * (t.box[3] - t.box[1]))
                assert dense.classes[number, cell] == 1 + CATEGORIES.index(least.category)
                bins = locations.quantize_points(least.box, scene.width, scene.height)
                assert dense.boxes[number, cell].tolist() == bins
                told += 1
    assert told > 50


def test_the_order_of_objects_does_not_matter() -> None:
    def thing(category: str, box: tuple[float, float, float, float]) -> Object:
        return Object(category, "noto/x", box, [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]], pure_color_shares("red"))

    large, small = thing("cat", (0, 0, 120, 120)), thing("dog", (30, 30, 60, 60))
    pictures = [Scene(Image.new("RGB", (120, 120)), things, (), "red") for things in ((large, small), (small, large))]
    one, two = dense_of(pictures).classes
    assert torch.equal(one, two)
    assert (one.eq(1 + CATEGORIES.index("dog")).sum(), one.eq(0).sum()) == (16, 0)


def test_letters_stand_in_their_half_cells() -> None:
    """Twelve letters in a row, one a half cell, upright and upside down."""
    text = "ABCDEFGHIJ09"
    upright = Word(text, (10, 30, 130, 30, 130, 50, 10, 50), (10, 30, 130, 50))  # halves' middles: 15, 25, 35 …
    turned = Word(text, (230, 150, 110, 150, 110, 130, 230, 130), (110, 130, 230, 150))
    picture = Scene(Image.new("RGB", (240, 240)), (), (upright, turned), "red")
    letters = dense_of([picture]).letters[0].reshape(GRID, GRID * 2)
    read = {row: "".join(LETTERS[k - 1] if k else "." for k in letters[row].tolist()) for row in (2, 7)}
    assert read == {2: ".." + text + "." * 10, 7: "." * 12 + text[::-1]}
    assert letters.count_nonzero() == 24
    orders = dense_of([picture]).orders[0].reshape(GRID, GRID * 2)
    assert orders[2].tolist() == [0, 0, *range(1, 13), *[0] * 10]
    assert orders[7].tolist() == [*[0] * 12, *range(12, 0, -1)]


def test_drawn_letters_stand_where_their_word_is(scenes: list[Scene]) -> None:
    dense = dense_of(scenes)
    for number, scene in enumerate(scenes):
        seen = dense.letters[number].reshape(GRID, GRID * 2)
        signs = [LETTERS.index(letter) + 1 for word in scene.words for letter in word.text]
        assert set(seen[seen > 0].tolist()) <= set(signs)
        # Two in one half: one is lost. A wide or a tall one covers several.
        assert len(signs) * 0.7 <= seen.count_nonzero() <= len(signs) * 6
        for row, half in seen.nonzero().tolist():
            x, y = (half - 0.5) / (2 * GRID) * scene.width, row / GRID * scene.height
            margin = (scene.width / (4 * GRID) + 1, scene.height / (2 * GRID) + 1)
            assert any(
                w.box[0] - margin[0] <= x <= w.box[2] + margin[0] and w.box[1] - margin[1] <= y <= w.box[3] + margin[1]
                for w in scene.words
            )
