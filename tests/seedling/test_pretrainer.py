"""The pretraining step: it trains what transformers runs, and changes all weights or none."""

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
from finetune.losses import IGNORE, compute_alignment_loss, compute_answer_loss
from finetune.precision import select_precision
from seedling import architecture
from seedling.pretrain import StageDataset
from seedling.pretrainer import ATTENTION_WEIGHT, MEAN, RELEVANCE_WEIGHT, STD, Pretrainer
from seedling.scenes.batches import SceneBatch
from seedling.stages import Stage

SIDE = 96
DENSE = Stage("dense", 2, images=1, side=SIDE)
ANSWERS = Stage("answers", 3, images=1, prompts=2, sigma=(10.0, 2.5), dense_weight=0.3, cooldown=0.3, side=SIDE)


pytestmark = pytest.mark.usefixtures("one_thread")


def make_trainer(seed: int = 0) -> Pretrainer:
    model, tokenizer = architecture.build_model(seed, image_side=SIDE)
    return Pretrainer(model, tokenizer, Accelerator(mixed_precision=select_precision()))


@pytest.fixture(scope="module")
def frozen() -> Pretrainer:
    """A trainer whose model no test changes."""
    trainer = make_trainer()
    trainer.model.eval()
    return trainer


@pytest.fixture(scope="module")
def batch(frozen: Pretrainer) -> SceneBatch:
    stage = replace(ANSWERS, images=2, prompts=4)
    return StageDataset([stage], frozen.tokenizer, 0)[0]


def compute_losses(trainer: Pretrainer, batch: SceneBatch) -> dict[str, Tensor]:
    with torch.no_grad():
        return trainer.compute_losses(batch, ANSWERS, 5.0)


def select_prompts(batch: SceneBatch, rows: slice | Tensor) -> SceneBatch:
    """Returns the batch with these prompts only, in this order."""
    names = ("owner", "prompts", "labels", "relevance", "attention_rows")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})


def compute_logits(trainer: Pretrainer, batch: SceneBatch) -> list[Tensor]:
    """Returns [length, vocabulary] for each prompt's answer, each computed alone."""
    logits: list[Tensor] = []
    hook = trainer.model.lm_head.register_forward_hook(lambda *call: logits.append(call[-1].flatten(0, -2)))
    for i in range(len(batch.owner)):
        compute_losses(trainer, select_prompts(batch, slice(i, i + 1)))
    hook.remove()
    lengths = (batch.labels != IGNORE).sum(1).tolist()
    return [own[:length] for own, length in zip(logits, lengths, strict=True)]


def test_training_computes_what_transformers_computes(frozen: Pretrainer, batch: SceneBatch) -> None:
    model = frozen.model
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    image = torch.full((len(batch.owner), 1 + (SIDE // architecture.CELL_SIDE) ** 2), model.config.image_token_id)
    input_ids = torch.cat([image, batch.prompts], 1)
    with torch.no_grad():
        theirs = model(
            input_ids=input_ids,
            pixel_values=((batch.pixels / 255 - mean) / deviation)[batch.owner],
            attention_mask=(input_ids != model.config.pad_token_id).long(),
            labels=batch.labels,
        ).logits
    assert len(set(batch.owner.tolist())) == 2
    assert (batch.prompts == 1).any()
    assert (batch.labels == IGNORE).any()
    for ours, expected, label in zip(compute_logits(frozen, batch), theirs, batch.labels, strict=True):
        torch.testing.assert_close(ours, expected[label != IGNORE], atol=1e-4, rtol=1e-4)
    rows = torch.arange(len(batch.labels))[:, None].expand_as(batch.labels)
    answer = compute_answer_loss(theirs, batch.labels, rows, frozen.tokenizer.convert_tokens_to_ids("<loc_0>"), 5.0)
    losses = compute_losses(frozen, batch)
    for part in ("text", "location", "kind"):
        torch.testing.assert_close(losses[part], getattr(answer, part), atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing(frozen: Pretrainer, batch: SceneBatch) -> None:
    logits, losses = compute_logits(frozen, batch), compute_losses(frozen, batch)
    padded = replace(
        batch,
        prompts=F.pad(batch.prompts, (0, 7), value=frozen.tokenizer.pad_token_id),
        labels=F.pad(batch.labels, (0, 5), value=IGNORE),
        attention_rows=F.pad(batch.attention_rows, (0, 5), value=-1),
    )
    torch.testing.assert_close(compute_logits(frozen, padded), logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(compute_losses(frozen, padded), losses, atol=1e-4, rtol=1e-4)
    longer = replace(batch, prompts=F.pad(batch.prompts, (0, 7), value=5))  # seven more letters do change it
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(compute_logits(frozen, longer), logits, strict=True))


def test_the_order_of_prompts_does_not_matter(frozen: Pretrainer, batch: SceneBatch) -> None:
    order = torch.arange(len(batch.owner)).flip(0)
    reordered = compute_losses(frozen, select_prompts(batch, order))
    torch.testing.assert_close(reordered, compute_losses(frozen, batch), atol=1e-5, rtol=1e-4)


def test_a_token_is_predicted_from_earlier_tokens_only(frozen: Pretrainer, batch: SceneBatch) -> None:
    labels = batch.labels.clone()
    labels[:, 2] = labels[:, 2].where(labels[:, 2] == IGNORE, 5)
    compared = 0
    changed = compute_logits(frozen, replace(batch, labels=labels))
    for ours, other in zip(compute_logits(frozen, batch), changed, strict=True):
        torch.testing.assert_close(other[:3], ours[:3], atol=1e-5, rtol=1e-4)
        if len(ours) > 3:
            assert (other[3] - ours[3]).abs().max() > 1e-3
            compared += 1
    assert compared >= 2


def test_total_is_the_weighted_sum(frozen: Pretrainer, batch: SceneBatch) -> None:
    with torch.no_grad():
        parts = frozen.compute_losses(batch, ANSWERS, 5.0)
        dense_only = frozen.compute_losses(batch, DENSE, 5.0)
    names = ("class", "box", "color", "letter", "letter_index", "early_letter", "early_color")
    dense = sum((parts[name] for name in names), torch.tensor(0.0))
    answer = RELEVANCE_WEIGHT * parts["relevance"] + ATTENTION_WEIGHT * parts["attention"]
    answer = answer + parts["text"] + 0.7 * parts["location"] + parts["kind"]
    torch.testing.assert_close(parts["total"], 0.3 * dense + answer)
    with torch.no_grad():
        more_text = frozen.compute_losses(batch, replace(ANSWERS, text_weight=2.5), 5.0)
    torch.testing.assert_close(more_text["total"], 0.3 * dense + answer + 1.5 * parts["text"])
    torch.testing.assert_close(dense_only["total"], dense)


def test_the_attention_loss_is_of_the_attention_that_transformers_computes(
    frozen: Pretrainer, batch: SceneBatch
) -> None:
    """The loss equals `compute_alignment_loss` of the attention weights that transformers returns."""
    model = AutoModelForImageTextToText.from_config(frozen.model.config, attn_implementation="eager").eval()
    model.load_state_dict(frozen.model.state_dict())
    pixels = (batch.pixels.float() / 255 - MEAN) / STD
    with torch.no_grad():
        image = model.get_image_features(pixels).pooler_output
        encoded, mask = forward.encode_prompts(model, image, batch.owner, batch.prompts)
        start = torch.full_like(batch.labels[:, :1], model.config.text_config.decoder_start_token_id)
        tokens = torch.cat([start, batch.labels[:, :-1].masked_fill(batch.labels[:, :-1] == IGNORE, 1)], 1)
        theirs = model.model.language_model.decoder(
            input_ids=tokens, encoder_hidden_states=encoded, encoder_attention_mask=mask, output_attentions=True
        ).cross_attentions[-2][:, 0]
    targeted = batch.attention_rows >= 0
    assert 0 < int(targeted.sum()) < int((batch.labels != IGNORE).sum())
    answers = torch.arange(len(targeted))[:, None].expand_as(targeted)[targeted]
    targets = batch.attention_targets[batch.attention_rows[targeted]]
    expected = compute_alignment_loss(theirs[targeted][:, 1 : image.shape[1]].log(), targets, answers)
    torch.testing.assert_close(compute_losses(frozen, batch)["attention"], expected, atol=1e-4, rtol=1e-3)


def test_each_prompt_depends_on_its_own_image_only(frozen: Pretrainer, batch: SceneBatch) -> None:
    pixels = batch.pixels.clone()
    pixels[1] = 255 - pixels[1]
    both = zip(compute_logits(frozen, batch), compute_logits(frozen, replace(batch, pixels=pixels)), strict=True)
    for owner, (ours, other) in zip(batch.owner.tolist(), both, strict=True):
        distance = float((ours - other).abs().max())
        assert distance > 1e-3 if owner else distance < 1e-4


def test_after_a_resize_the_average_has_its_own_memory() -> None:
    trainer = make_trainer()
    trainer.resize_input(128)
    pointers = [value.data_ptr() for value in trainer.average.values()]
    assert len(set(pointers)) == len(pointers)
    assert {id(p) for group in trainer.groups for p in group["params"]} == {
        id(p) for module in (trainer.model, trainer.heads) for p in module.parameters()
    }


def test_one_step_moves_weights_and_average(batch: SceneBatch) -> None:
    trainer = make_trainer()
    name = "model.language_model.decoder.layers.0.fc1.bias"
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    stage = replace(ANSWERS, learning_rate=1e-3, warmup=4)
    parts = trainer.train_step(batch, stage, 1)
    after = trainer.model.state_dict()
    moved = (after[name] - before[name]).abs()
    # Adam's first step is as long as the learning rate, wherever there is a gradient; a bias does not decay.
    assert float(moved.max()) == pytest.approx(5e-4, rel=0.05)
    assert {g["lr"] for g in trainer.groups} == {stage.compute_learning_rate(1)} == {parts["learning_rate"]}
    decay = 2 / 11
    torch.testing.assert_close(trainer.average[name], decay * before[name] + (1 - decay) * after[name])
    assert trainer.average["lm_head.weight"].equal(trainer.average["model.language_model.shared.weight"])


def test_every_parameter_is_trained_by_one_optimizer(frozen: Pretrainer, batch: SceneBatch) -> None:
    optimized = [p for group in frozen.groups for p in group["params"]]
    every = {id(p) for module in (frozen.model, frozen.heads) for p in module.parameters()}
    assert len(optimized) == len(every)
    assert {id(p) for p in optimized} == every
    table = frozen.model.get_input_embeddings().weight
    decayed = [p for g in frozen.groups if g["weight_decay"] for p in g["params"]]
    assert decayed
    assert all(p.dim() > 1 and p is not table for p in decayed)


def break_weight(trainer: Pretrainer) -> None:
    with torch.no_grad():
        trainer.model.lm_head.weight[9] = math.nan


def break_gradient(trainer: Pretrainer) -> None:
    trainer.model.model.language_model.encoder.layers[0].fc1.weight.register_hook(lambda g: g * math.inf)


@pytest.mark.parametrize("break_trainer", [break_weight, break_gradient])
def test_a_step_that_is_not_finite_is_rejected(break_trainer: Callable[[Pretrainer], None], batch: SceneBatch) -> None:
    trainer = make_trainer()
    break_trainer(trainer)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="lower the rate"):
        trainer.train_step(batch, ANSWERS, 0)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_a_saved_average_leaves_the_model_unchanged(tmp_path: Path) -> None:
    trainer = make_trainer()
    for value in trainer.average.values():
        value.mul_(0.5)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.save_average(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(loaded[name], trainer.average[name].half().float()), name
