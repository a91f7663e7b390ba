"""The seedling's teacher: what is taught is what transformers runs, and a step changes all of it or nothing."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import AutoModelForImageTextToText

from finetune import forward
from finetune.losses import IGNORE, alignment_loss, answer_loss
from finetune.precision import precision
from seedling import architecture
from seedling.pretrain import Steps
from seedling.pretrainer import ALIGNED, ASKED, MEAN, STD, Teacher, snapshot
from seedling.scenes.batches import Batch
from seedling.stages import Stage

SIDE = 96
LOOK = Stage("look", 2, pictures=1, side=SIDE)
SPEAK = Stage("speak", 3, pictures=1, prompts=2, sigma=(10.0, 2.5), dense=0.3, cooldown=0.3, side=SIDE)


pytestmark = pytest.mark.usefixtures("one_thread")


def teacher_of(seed: int = 0) -> Teacher:
    return Teacher(*architecture.build(seed, picture=SIDE), Accelerator(mixed_precision=precision()))


@pytest.fixture(scope="module")
def reader() -> Teacher:
    """A teacher whose model no test changes."""
    teacher = teacher_of()
    teacher.model.eval()
    return teacher


@pytest.fixture(scope="module")
def batch(reader: Teacher) -> Batch:
    stage = replace(SPEAK, pictures=2, prompts=4)
    return Steps([stage], reader.words, 0)[0]


def losses_of(teacher: Teacher, batch: Batch) -> dict[str, Tensor]:
    with torch.no_grad():
        return teacher.losses(batch, SPEAK, 5.0)


def only(batch: Batch, rows: slice | Tensor) -> Batch:
    """The batch with those prompts alone, in that order."""
    kept = {name: getattr(batch, name)[rows] for name in ("owner", "prompts", "labels", "asked", "looks")}
    return replace(batch, **kept)


def logits_of(teacher: Teacher, batch: Batch) -> list[Tensor]:
    """[length, vocabulary] for each prompt's answer, each asked alone."""
    said: list[Tensor] = []
    hook = teacher.model.lm_head.register_forward_hook(lambda *call: said.append(call[-1].flatten(0, -2)))
    for i in range(len(batch.owner)):
        row = slice(i, i + 1)
        losses_of(teacher, only(batch, row))
    hook.remove()
    taught = (batch.labels != IGNORE).sum(1).tolist()
    return [logits[:length] for logits, length in zip(said, taught, strict=True)]


def test_what_is_taught_is_what_transformers_runs(reader: Teacher, batch: Batch) -> None:
    model = reader.model
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    image = torch.full((len(batch.owner), 1 + (SIDE // architecture.CELL) ** 2), model.config.image_token_id)
    asked = torch.cat([image, batch.prompts], 1)
    with torch.no_grad():
        theirs = model(
            input_ids=asked,
            pixel_values=((batch.pixels / 255 - mean) / deviation)[batch.owner],
            attention_mask=(asked != model.config.pad_token_id).long(),
            labels=batch.labels,
        ).logits
    assert len(set(batch.owner.tolist())) == 2
    assert (batch.prompts == 1).any()
    assert (batch.labels == IGNORE).any()
    for ours, expected, label in zip(logits_of(reader, batch), theirs, batch.labels, strict=True):
        torch.testing.assert_close(ours, expected[label != IGNORE], atol=1e-4, rtol=1e-4)
    rows = torch.arange(len(batch.labels))[:, None].expand_as(batch.labels)
    answer = answer_loss(theirs, batch.labels, rows, reader.words.convert_tokens_to_ids("<loc_0>"), 5.0)
    losses = losses_of(reader, batch)
    for part in ("text", "location", "kind"):
        torch.testing.assert_close(losses[part], getattr(answer, part), atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing(reader: Teacher, batch: Batch) -> None:
    ours, losses = logits_of(reader, batch), losses_of(reader, batch)
    wide = replace(
        batch,
        prompts=F.pad(batch.prompts, (0, 7), value=reader.words.pad_token_id),
        labels=F.pad(batch.labels, (0, 5), value=IGNORE),
        looks=F.pad(batch.looks, (0, 5), value=-1),
    )
    torch.testing.assert_close(logits_of(reader, wide), ours, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses_of(reader, wide), losses, atol=1e-4, rtol=1e-4)
    longer = replace(batch, prompts=F.pad(batch.prompts, (0, 7), value=5))  # seven letters more do change it
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(logits_of(reader, longer), ours, strict=True))


def test_the_order_of_prompts_does_not_matter(reader: Teacher, batch: Batch) -> None:
    order = torch.arange(len(batch.owner)).flip(0)
    torch.testing.assert_close(losses_of(reader, only(batch, order)), losses_of(reader, batch), atol=1e-5, rtol=1e-4)


def test_an_answer_is_predicted_from_what_came_before_it(reader: Teacher, batch: Batch) -> None:
    labels = batch.labels.clone()
    labels[:, 2] = labels[:, 2].where(labels[:, 2] == IGNORE, 5)
    compared = 0
    for ours, other in zip(logits_of(reader, batch), logits_of(reader, replace(batch, labels=labels)), strict=True):
        torch.testing.assert_close(other[:3], ours[:3], atol=1e-5, rtol=1e-4)
        if len(ours) > 3:
            assert (other[3] - ours[3]).abs().max() > 1e-3
            compared += 1
    assert compared >= 2


def test_total_is_the_weighted_sum(reader: Teacher, batch: Batch) -> None:
    with torch.no_grad():
        parts = reader.losses(batch, SPEAK, 5.0)
        looked = reader.losses(batch, LOOK, 5.0)
    dense = sum(
        (parts[name] for name in ("class", "box", "colour", "letter", "order", "sign", "tint")), torch.tensor(0.0)
    )
    answer = ASKED * parts["asked"] + ALIGNED * parts["align"] + parts["text"] + 0.7 * parts["location"] + parts["kind"]
    torch.testing.assert_close(parts["total"], 0.3 * dense + answer)
    with torch.no_grad():
        worded = reader.losses(batch, replace(SPEAK, text=2.5), 5.0)
    torch.testing.assert_close(worded["total"], 0.3 * dense + answer + 1.5 * parts["text"])
    torch.testing.assert_close(looked["total"], dense)


def test_where_the_decoder_looks_is_what_transformers_looks_at(reader: Teacher, batch: Batch) -> None:
    """Of the loss there is left what `alignment_loss` says of the attention that transformers itself gives out."""
    model = AutoModelForImageTextToText.from_config(reader.model.config, attn_implementation="eager").eval()
    model.load_state_dict(reader.model.state_dict())
    pixels = (batch.pixels.float() / 255 - MEAN) / STD
    with torch.no_grad():
        image = model.get_image_features(pixels).pooler_output
        encoded, mask = forward.encode(model, image, batch.owner, batch.prompts)
        start = torch.full_like(batch.labels[:, :1], model.config.text_config.decoder_start_token_id)
        said = torch.cat([start, batch.labels[:, :-1].masked_fill(batch.labels[:, :-1] == IGNORE, 1)], 1)
        theirs = model.model.language_model.decoder(
            input_ids=said, encoder_hidden_states=encoded, encoder_attention_mask=mask, output_attentions=True
        ).cross_attentions[-2][:, 0]
    here = batch.looks >= 0
    assert 0 < int(here.sum()) < int((batch.labels != IGNORE).sum())
    rows = torch.arange(len(here))[:, None].expand_as(here)[here]
    wanted = alignment_loss(theirs[here][:, 1 : image.shape[1]].log(), batch.looked_at[batch.looks[here]], rows)
    torch.testing.assert_close(losses_of(reader, batch)["align"], wanted, atol=1e-4, rtol=1e-3)


def test_each_picture_answers_for_its_own_prompts(reader: Teacher, batch: Batch) -> None:
    pixels = batch.pixels.clone()
    pixels[1] = 255 - pixels[1]
    both = zip(logits_of(reader, batch), logits_of(reader, replace(batch, pixels=pixels)), strict=True)
    for owner, (ours, other) in zip(batch.owner.tolist(), both, strict=True):
        distance = float((ours - other).abs().max())
        assert distance > 1e-3 if owner else distance < 1e-4


def test_after_a_resize_each_weight_has_an_average_of_its_own() -> None:
    teacher = teacher_of()
    teacher.resize(128)
    places = [value.data_ptr() for value in teacher.average.values()]
    assert len(set(places)) == len(places)
    assert {id(p) for group in teacher.groups for p in group["params"]} == {
        id(p) for module in (teacher.model, teacher.heads) for p in module.parameters()
    }


def test_one_step_moves_weights_and_average(batch: Batch) -> None:
    teacher = teacher_of()
    name = "model.language_model.decoder.layers.0.fc1.bias"
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    stage = replace(SPEAK, rate=1e-3, warmup=4)
    parts = teacher.step(batch, stage, 1)
    after = teacher.model.state_dict()
    moved = (after[name] - before[name]).abs()
    # Adam's first step is as long as the rate, wherever there is a gradient; a bias does not decay.
    assert float(moved.max()) == pytest.approx(5e-4, rel=0.05)
    assert {g["lr"] for g in teacher.groups} == {stage.rate_at(1)} == {parts["rate"]}
    kept = 2 / 11
    torch.testing.assert_close(teacher.average[name], kept * before[name] + (1 - kept) * after[name])
    assert teacher.average["lm_head.weight"].equal(teacher.average["model.language_model.shared.weight"])


def test_every_parameter_is_learnt_once(reader: Teacher, batch: Batch) -> None:
    held = [p for group in reader.groups for p in group["params"]]
    every = {id(p) for module in (reader.model, reader.heads) for p in module.parameters()}
    assert len(held) == len(every)
    assert {id(p) for p in held} == every
    table = reader.model.get_input_embeddings().weight
    decayed = [p for g in reader.groups if g["weight_decay"] for p in g["params"]]
    assert decayed
    assert all(p.dim() > 1 and p is not table for p in decayed)


def poisoned_weight(teacher: Teacher) -> None:
    with torch.no_grad():
        teacher.model.lm_head.weight[9] = math.nan


def poisoned_gradient(teacher: Teacher) -> None:
    teacher.model.model.language_model.encoder.layers[0].fc1.weight.register_hook(lambda g: g * math.inf)


@pytest.mark.parametrize("poison", [poisoned_weight, poisoned_gradient])
def test_a_step_that_is_not_finite_is_refused(poison: Callable[[Teacher], None], batch: Batch) -> None:
    teacher = teacher_of()
    poison(teacher)
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="lower the rate"):
        teacher.step(batch, SPEAK, 0)
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_snapshot_holds_the_average_and_leaves_the_model(tmp_path: Path) -> None:
    teacher = teacher_of()
    for value in teacher.average.values():
        value.mul_(0.5)
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    snapshot(teacher, tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(loaded[name], teacher.average[name].half().float()), name
