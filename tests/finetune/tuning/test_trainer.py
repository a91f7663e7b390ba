"""The training step: its loss, cached features, anchors and micro-batches."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from finetune.losses import IGNORE, compute_class_weights
from finetune.tuning.batches import TrainingBatch, TrainingBatches
from finetune.tuning.config import Anchor, Method, TuneConfig
from finetune.tuning.frozen_features import FrozenFeatureCache
from finetune.tuning.micro_batches import split_batch
from finetune.tuning.trainer import Trainer
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Text
from prompts.special_tokens import BOS, EOS
from prompts.tasks import find_task
from seedling.replay import SceneReplay

CLASSES = ("cat", "dog", "tree")


def make_trainer(base: str, images: list[LabeledImage], **settings: Any) -> tuple[Trainer, TrainingBatches]:
    small = {"batch_size": 2, "prompts_per_image": 2, "replay_share": 0.5, "lora_rank": 4, "lora_alpha": 8}
    config = TuneConfig(**{"base": base, **small, **settings})
    trainer = Trainer(config, Accelerator(mixed_precision="no"))
    return trainer, TrainingBatches(trainer.pretrained.files, images, CLASSES, config, SceneReplay())


def find_mixed_batch(batches: TrainingBatches) -> TrainingBatch:
    return next(batch for i in range(20) if (batch := batches[i]).replayed.any() and not batch.replayed.all())


@pytest.mark.parametrize("stages", [1, 3, 4])
def test_cached_features_change_nothing(base: str, images: list[LabeledImage], stages: int) -> None:
    trainer, batches = make_trainer(base, images, frozen_stages=stages, drop_path=0.5 if stages == 4 else 0.0)
    batch = batches[0]
    with torch.no_grad():
        first, again = trainer.compute_losses(batch), trainer.compute_losses(batch)
        assert trainer.feature_cache.entries.keys() == set(batch.views.tolist())
        trainer.feature_cache = FrozenFeatureCache(max_bytes=0)
        uncached = trainer.compute_losses(batch)
        plain = trainer.model.model.get_image_features(trainer.normalize(batch.pixels)).pooler_output
        torch.testing.assert_close(
            trainer.encode_images(batch), plain, atol=1e-4, rtol=1e-4
        )  # with other images beside it
    assert first == again == uncached
    assert not trainer.feature_cache.entries  # no room


def test_the_longest_prompt_and_answer_are_trained(base: str, images: list[LabeledImage]) -> None:
    trainer, plain = make_trainer(base, images, replay_share=0.0)
    room, positions, tokenize = plain.tokenizer.max_prompt, plain.tokenizer.max_positions, plain.tokenizer.tokenize
    task = find_task("<VQA>")
    used = len(tokenize(BOS + task.build_prompt("", None, (9, 9)) + EOS))
    words = next(  # prompt and answer have the maximum length
        words for count in range(1, 4 * room) if len(tokenize(words := "a" * count)) == room - used
    )
    answer = next(
        text for count in range(1, 4 * positions) if len(tokenize(BOS + (text := "a" * count) + EOS)) == positions
    )
    sample = Sample(task, (Text(label=answer),), text=words)
    image = replace(images[0], annotations=(), complete=frozenset(), samples=(sample,))
    trainer, batches = make_trainer(base, [image], replay_share=0.0, batch_size=1, augmentation=0.0)
    batch = batches[0]
    assert (batch.prompts.shape[1], batch.labels.shape[1]) == (room, positions)
    assert trainer.step([batch], 0)["loss"] > 0


def test_accumulated_batches_have_equal_weights(base: str, images: list[LabeledImage]) -> None:
    trainer, batches = make_trainer(base, images, ema_decay=0.0)
    parts = [{k: v.item() for k, v in trainer.compute_losses(batches[i]).items()} for i in range(2)]
    both = trainer.step([batches[0], batches[1]], 0)
    for name in ("text_loss", "location_loss", "loss"):
        assert both[name] == pytest.approx((parts[0][name] + parts[1][name]) / 2, rel=1e-4)
    # Without averaging the current parameters are saved.
    assert all(torch.equal(trainer.average[n], p) for n, p in trainer.trainable.parameters.items())


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_kl_anchor_is_zero_at_first_and_grows(base: str, images: list[LabeledImage], method: Method) -> None:
    trainer, batches = make_trainer(
        base, images, anchor=Anchor.KL, anchor_weight=1.0, method=method, learning_rate=0.01, steps=4
    )
    batch = find_mixed_batch(batches)
    first = trainer.compute_losses(batch)["anchor_loss"].item()
    assert first == pytest.approx(0, abs=1e-5)
    for step in range(3):
        trainer.step([batch], step)
    after = trainer.compute_losses(batch)
    assert after["anchor_loss"].item() > 10 * abs(first) + 1e-4
    plain = after["text_loss"] + 0.7 * after["location_loss"] + after["kind_loss"]
    assert after["loss"].item() == pytest.approx(plain.item() + after["anchor_loss"].item(), rel=1e-4)


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_base_of_the_kl_anchor_uses_no_dropout_and_no_random_numbers(
    base: str, images: list[LabeledImage], method: Method
) -> None:
    trainer, batches = make_trainer(
        base, images, anchor=Anchor.KL, method=method, dropout=0.3, drop_path=0.3, lora_dropout=0.3
    )
    batch = find_mixed_batch(batches)
    results = []
    for anchored in (False, True):
        torch.manual_seed(0)
        parts = trainer.compute_losses(batch, anchored=anchored)
        results.append((parts["text_loss"], parts["location_loss"], torch.get_rng_state()))
    assert all(map(torch.equal, *results))
    assert trainer.model.training
    # The untrained model in evaluation mode equals the base.
    with trainer.trainable.eval_mode():
        assert trainer.compute_losses(batch)["anchor_loss"].item() == pytest.approx(0, abs=1e-5)
    assert parts["anchor_loss"].item() > 1e-3


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_in_16_bits_the_model_keeps_its_own_weights_after_the_base_ran(
    base: str, images: list[LabeledImage], method: Method
) -> None:
    trainer, batches = make_trainer(
        base, images, anchor=Anchor.KL, method=method, learning_rate=0.02, steps=4, warmup_share=0.0
    )
    trainer.threads = 1
    batch = find_mixed_batch(batches)
    for step in range(3):
        trainer.step([batch], step)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        alone = trainer.compute_losses(batch, anchored=False)
    with torch.autocast("cpu", torch.bfloat16):  # with gradients: autocast caches the casts of trained weights
        anchored_losses = trainer.compute_losses(batch)
    assert anchored_losses["anchor_loss"].item() > 0.01
    for name in ("text_loss", "location_loss", "kind_loss"):
        assert anchored_losses[name].item() == pytest.approx(alone[name].item(), rel=1e-3)


@pytest.mark.parametrize("settings", [{"dropout": 0.3}, {"lora_dropout": 0.3}])
def test_dropout_depends_on_step_and_process(
    base: str, images: list[LabeledImage], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, batches = make_trainer(base, images, learning_rate=1e-12, **settings)
    with torch.no_grad():  # LoRA is zero at first, so that dropout would have no effect
        for parameter in trainer.trainable.parameters.values():
            parameter.add_(0.01)

    def loss(step: int) -> float:
        return trainer.step([batches[0]], step)["loss"]

    first, second = loss(0), loss(1)
    assert first != second
    torch.rand(3)  # changes the global random state
    assert loss(1) == pytest.approx(second, rel=1e-6)
    monkeypatch.setattr(Accelerator, "process_index", 1)
    assert loss(1) != pytest.approx(second, rel=1e-6)


def test_the_l2sp_anchor_limits_the_distance(base: str, images: list[LabeledImage]) -> None:
    ends = []
    for weight in (0.0, 30.0):
        trainer, batches = make_trainer(
            base,
            images,
            anchor=Anchor.L2SP,
            anchor_weight=weight,
            method=Method.FULL,
            learning_rate=0.003,
            steps=6,
            max_grad_norm=1e6,
        )
        for step in range(6):
            trainer.step([batches[step]], step)
        ends.append(trainer.trainable.compute_distance().item())
    assert ends[1] < 0.8 * ends[0]


def test_a_batch_without_prompts_has_zero_loss(base: str, images: list[LabeledImage]) -> None:
    trainer, batches = make_trainer(base, images)
    empty = TrainingBatch(batches[0].pixels, batches[0].views, *[torch.zeros(0, dtype=torch.long)] * 4)
    parts = trainer.step([empty], 0)
    assert parts["loss"] == 0


@pytest.mark.parametrize(
    "settings", [{}, {"frozen_stages": 2}, {"frozen_stages": 4}, {"method": Method.FULL, "class_balance": 0.5}]
)
def test_micro_batches_have_the_gradient_of_the_batch(
    base: str, images: list[LabeledImage], settings: dict[str, Any]
) -> None:
    grads, losses, ends = [], [], []
    for threads in (1, 2, 3):
        trainer, batches = make_trainer(base, images, batch_size=4, warmup_share=0.0, **settings)
        trainer.threads = threads
        weights = compute_class_weights(batches.count_class_tokens(), trainer.config.class_balance)
        trainer.loss_config = replace(trainer.loss_config, weights=weights)
        losses.append(trainer.step([batches[0], batches[1]], 0))
        grads.append({n: p.grad.clone() for n, p in trainer.trainable.parameters.items() if p.grad is not None})
        ends.append({n: p.detach().clone() for n, p in trainer.trainable.parameters.items()})
        # The first step of AdamW is the gradient's sign: it would show different layouts of weights and gradients.
        for name in trainer.trainable.parameters:
            large = grads[-1][name].abs() > 1e-4 * grads[-1][name].abs().max().clamp(min=1e-3)
            torch.testing.assert_close(ends[-1][name][large], ends[0][name][large], atol=2e-4, rtol=0)
    for other, found in zip(grads[1:], losses[1:], strict=True):
        assert found == pytest.approx(losses[0], rel=1e-4)
        assert other.keys() == grads[0].keys()
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, grads[0][name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"frozen_stages": 3}, {"frozen_stages": 4}, {"method": Method.FULL}])
def test_micro_batches_have_the_kl_anchor_of_the_batch(
    base: str, images: list[LabeledImage], settings: dict[str, Any]
) -> None:
    grads, losses = [], []
    for threads in (1, 2):
        trainer, batches = make_trainer(
            base, images, batch_size=4, anchor=Anchor.KL, anchor_weight=3.0, max_grad_norm=1e6, **settings
        )
        trainer.threads = threads
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():  # away from the base, where the anchor has a gradient
            for parameter in trainer.trainable.parameters.values():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        losses.append(trainer.step([find_mixed_batch(batches)], 0))
        grads.append({n: p.grad.clone() for n, p in trainer.trainable.parameters.items() if p.grad is not None})
    assert losses[0]["anchor_loss"] > 1e-3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, gradient in grads[1].items():
        torch.testing.assert_close(gradient, grads[0][name], atol=2e-4, rtol=1e-3)


def test_micro_batches_have_every_prompt_once_and_similar_work(base: str, images: list[LabeledImage]) -> None:
    trainer, batches = make_trainer(base, images, batch_size=6)
    batch = batches[0]
    expected = {
        (int(batch.views[o]), *p.tolist(), *y.tolist())
        for o, p, y in zip(batch.owner, batch.prompts, batch.labels, strict=True)
    }
    shown = dict(zip(batch.views.tolist(), batch.pixels, strict=True))
    assert len(shown) == 6
    micro_batches = split_batch(
        batch, 3, trainer.pretrained.pad, trainer.pretrained.first_location, trainer.loss_config
    )
    found = set()
    for micro in micro_batches:
        part = micro.batch
        assert all(torch.equal(shown[int(v)], p) for v, p in zip(part.views, part.pixels, strict=True))
        prompts = torch.nn.functional.pad(
            part.prompts, (0, batch.prompts.shape[1] - part.prompts.shape[1]), value=trainer.pretrained.pad
        )
        labels = torch.nn.functional.pad(part.labels, (0, batch.labels.shape[1] - part.labels.shape[1]), value=IGNORE)
        found |= {
            (int(part.views[o]), *p.tolist(), *y.tolist()) for o, p, y in zip(part.owner, prompts, labels, strict=True)
        }
    assert found == expected
    assert sum(len(micro.batch.pixels) for micro in micro_batches) == len(batch.owner.unique())
    prompts = [len(micro.batch.prompts) for micro in micro_batches]
    assert max(prompts) - min(prompts) <= 4  # at most the prompts of one image
    for name in ("text", "location", "kind"):
        assert sum(getattr(micro.weights, name) for micro in micro_batches).item() == pytest.approx(1)


@pytest.mark.parametrize(
    "settings", [{"dropout": 0.1}, {"lora_dropout": 0.1}, {"drop_path": 0.1}, {"anchor": Anchor.L2SP}]
)
def test_dropout_and_the_l2sp_anchor_prevent_micro_batches(
    base: str, images: list[LabeledImage], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert make_trainer(base, images, **settings)[0].threads == 1
    assert make_trainer(base, images)[0].threads == 2
    for cores, batch_size, threads in ((1, 8, 1), (2, 1, 1), (6, 8, 3), (7, 8, 1), (8, 8, 4), (8, 2, 2), (32, 8, 4)):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert make_trainer(base, images, batch_size=batch_size)[0].threads == threads


def test_the_threads_share_the_cores_and_others_keep_theirs(base: str, images: list[LabeledImage]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        trainer = make_trainer(base, images)[0]
        assert trainer.threads == 2
        assert {trainer.pool.submit(torch.get_num_threads).result() for _ in range(8)} == {2}
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)
