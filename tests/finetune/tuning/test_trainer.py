"""One update: what the loss is made of, and what keeping features and anchors change."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from finetune.losses import IGNORE, class_weights
from finetune.tuning import replay
from finetune.tuning.batches import Lesson, Lessons
from finetune.tuning.config import Anchor, Method, TuneConfig
from finetune.tuning.frozen_features import Features
from finetune.tuning.micro_batches import shares
from finetune.tuning.trainer import Trainer
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Text
from prompts.special_tokens import BOS, EOS
from prompts.tasks import find_task

LABELS = ("cat", "dog", "tree")


def start(base: str, examples: list[LabeledImage], **given: Any) -> tuple[Trainer, Lessons]:
    config = TuneConfig(**{"base": base, "pictures": 2, "prompts": 2, "replay": 0.5, "rank": 4, "alpha": 8, **given})
    trainer = Trainer(config, Accelerator(mixed_precision="no"))
    return trainer, Lessons(trainer.base.files, examples, LABELS, config, replay.scenes)


def with_replay(lessons: Lessons) -> Lesson:
    return next(lesson for i in range(20) if (lesson := lessons[i]).replayed.any() and not lesson.replayed.all())


@pytest.mark.parametrize("stages", [1, 3, 4])
def test_kept_features_change_nothing(base: str, examples: list[LabeledImage], stages: int) -> None:
    trainer, lessons = start(base, examples, frozen_stages=stages, drop_path=0.5 if stages == 4 else 0.0)
    lesson = lessons[0]
    with torch.no_grad():
        first, again = trainer.losses(lesson), trainer.losses(lesson)
        assert trainer.features.kept.keys() == set(lesson.views.tolist())
        trainer.features = Features(most=0)
        anew = trainer.losses(lesson)
        plain = trainer.model.model.get_image_features(trainer._normalised(lesson.pixels)).pooler_output
        torch.testing.assert_close(trainer._image(lesson), plain, atol=1e-4, rtol=1e-4)  # others beside it
    assert first == again == anew
    assert not trainer.features.kept  # no room: computed each time


def test_the_longest_prompt_and_answer_that_fit_are_taught(base: str, examples: list[LabeledImage]) -> None:
    trainer, plain = start(base, examples, replay=0.0)
    room, positions = plain.room, plain.positions
    task = find_task("<VQA>")
    used = len(plain._ids(BOS + task.build_prompt("", None, (9, 9)) + EOS))
    words = next(  # its prompt takes all of the room, its answer more than there are places
        words for count in range(1, 4 * room) if len(plain._ids(words := "a" * count)) == room - used
    )
    question = Sample(task, (Text(label="a b " * positions),), text=words)
    example = replace(examples[0], annotations=(), complete=frozenset(), samples=(question,))
    trainer, lessons = start(base, [example], replay=0.0, pictures=1, augment=0.0)
    lesson = lessons[0]
    assert (lesson.prompts.shape[1], lesson.labels.shape[1]) == (room, positions)
    assert trainer.step([lesson], 0)["total"] > 0


def test_accumulated_lessons_weigh_alike(base: str, examples: list[LabeledImage]) -> None:
    trainer, lessons = start(base, examples, ema=0.0)
    parts = [{k: v.item() for k, v in trainer.losses(lessons[i]).items()} for i in range(2)]
    both = trainer.step([lessons[0], lessons[1]], 0)
    for name in ("text", "location", "total"):
        assert both[name] == pytest.approx((parts[0][name] + parts[1][name]) / 2, rel=1e-4)
    # Without an average the newest weights are what is kept.
    assert all(torch.equal(trainer.average[n], p) for n, p in trainer.learner.learned.items())


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_kl_anchor_is_nothing_at_first_and_grows(base: str, examples: list[LabeledImage], method: Method) -> None:
    trainer, lessons = start(base, examples, anchor=Anchor.KL, strength=1.0, method=method, rate=0.01, steps=4)
    lesson = with_replay(lessons)
    first = trainer.losses(lesson)["anchor"].item()
    assert first == pytest.approx(0, abs=1e-5)
    for step in range(3):
        trainer.step([lesson], step)
    after = trainer.losses(lesson)
    assert after["anchor"].item() > 10 * abs(first) + 1e-4
    plain = after["text"] + 0.7 * after["location"] + after["kind"]
    assert after["total"].item() == pytest.approx(plain.item() + after["anchor"].item(), rel=1e-4)


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_kl_anchors_base_answers_without_dropout_and_leaves_chance_alone(
    base: str, examples: list[LabeledImage], method: Method
) -> None:
    trainer, lessons = start(
        base, examples, anchor=Anchor.KL, method=method, dropout=0.3, drop_path=0.3, lora_dropout=0.3
    )
    lesson = with_replay(lessons)
    ends = []
    for anchored in (False, True):
        torch.manual_seed(0)
        parts = trainer.losses(lesson, anchored=anchored)
        ends.append((parts["text"], parts["location"], torch.get_rng_state()))
    assert all(map(torch.equal, *ends))
    assert trainer.model.training
    # A model that is the base, and rests as the base does, says the same.
    with trainer.learner.resting():
        assert trainer.losses(lesson)["anchor"].item() == pytest.approx(0, abs=1e-5)
    assert parts["anchor"].item() > 1e-3


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_in_16_bit_the_model_answers_after_its_base_with_its_own_weights(
    base: str, examples: list[LabeledImage], method: Method
) -> None:
    trainer, lessons = start(base, examples, anchor=Anchor.KL, method=method, rate=0.02, steps=4, warmup=0.0)
    trainer.threads = 1
    lesson = with_replay(lessons)
    for step in range(3):
        trainer.step([lesson], step)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        alone = trainer.losses(lesson, anchored=False)
    with torch.autocast("cpu", torch.bfloat16):  # with gradients: autocast keeps the casts of what learns
        held = trainer.losses(lesson)
    assert held["anchor"].item() > 0.01
    for name in ("text", "location", "kind"):
        assert held[name].item() == pytest.approx(alone[name].item(), rel=1e-3)


@pytest.mark.parametrize("given", [{"dropout": 0.3}, {"lora_dropout": 0.3}])
def test_chance_is_the_steps_and_the_processs_own(
    base: str, examples: list[LabeledImage], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, lessons = start(base, examples, rate=1e-12, **given)
    with torch.no_grad():  # LoRA begins as nothing, and nothing is dropped of that
        for parameter in trainer.learner.learned.values():
            parameter.add_(0.01)

    def loss(step: int) -> float:
        return trainer.step([lessons[0]], step)["total"]

    first, second = loss(0), loss(1)
    assert first != second
    torch.rand(3)  # whatever happens in between
    assert loss(1) == pytest.approx(second, rel=1e-6)
    monkeypatch.setattr(Accelerator, "process_index", 1)
    assert loss(1) != pytest.approx(second, rel=1e-6)


def test_the_anchors_hold(base: str, examples: list[LabeledImage]) -> None:
    ends = []
    for strength in (0.0, 30.0):
        trainer, lessons = start(
            base, examples, anchor=Anchor.L2SP, strength=strength, method=Method.FULL, rate=0.003, steps=6, clip=1e9
        )
        for step in range(6):
            trainer.step([lessons[step]], step)
        ends.append(trainer.learner.distance().item())
    assert ends[1] < 0.8 * ends[0]


def test_a_lesson_without_questions_is_no_fault(base: str, examples: list[LabeledImage]) -> None:
    trainer, lessons = start(base, examples)
    empty = Lesson(lessons[0].pixels, lessons[0].views, *[torch.zeros(0, dtype=torch.long)] * 4)
    parts = trainer.step([empty], 0)
    assert parts["total"] == 0


@pytest.mark.parametrize(
    "given", [{}, {"frozen_stages": 2}, {"frozen_stages": 4}, {"method": Method.FULL, "balance": 0.5}]
)
def test_shares_of_a_lesson_teach_what_the_whole_does(
    base: str, examples: list[LabeledImage], given: dict[str, Any]
) -> None:
    grads, losses, ends = [], [], []
    for threads in (1, 2, 3):
        trainer, lessons = start(base, examples, pictures=4, warmup=0.0, **given)
        trainer.threads = threads
        trainer.loss = replace(trainer.loss, weights=class_weights(lessons.label_tokens(), trainer.config.balance))
        taught = [lessons[0], lessons[1]]
        losses.append(trainer.step(taught, 0))
        grads.append({n: p.grad.clone() for n, p in trainer.learner.learned.items() if p.grad is not None})
        ends.append({n: p.detach().clone() for n, p in trainer.learner.learned.items()})
        # The first step of AdamW is the gradient's sign: weights and gradients that are laid out apart would show here.
        for name in trainer.learner.learned:
            sure = grads[-1][name].abs() > 1e-4 * grads[-1][name].abs().max().clamp(min=1e-3)
            torch.testing.assert_close(ends[-1][name][sure], ends[0][name][sure], atol=2e-4, rtol=0)
    for other, found in zip(grads[1:], losses[1:], strict=True):
        assert found == pytest.approx(losses[0], rel=1e-4)
        assert other.keys() == grads[0].keys()
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, grads[0][name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("given", [{}, {"frozen_stages": 3}, {"frozen_stages": 4}, {"method": Method.FULL}])
def test_shares_are_held_by_the_kl_anchor_as_the_whole_is(
    base: str, examples: list[LabeledImage], given: dict[str, Any]
) -> None:
    grads, losses = [], []
    for threads in (1, 2):
        trainer, lessons = start(base, examples, pictures=4, anchor=Anchor.KL, strength=3.0, clip=1e9, **given)
        trainer.threads = threads
        chance = torch.Generator().manual_seed(0)
        with torch.no_grad():  # away from the base, where it pulls
            for parameter in trainer.learner.learned.values():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=chance))
        losses.append(trainer.step([with_replay(lessons)], 0))
        grads.append({n: p.grad.clone() for n, p in trainer.learner.learned.items() if p.grad is not None})
    assert losses[0]["anchor"] > 1e-3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, gradient in grads[1].items():
        torch.testing.assert_close(gradient, grads[0][name], atol=2e-4, rtol=1e-3)


def test_shares_hold_every_prompt_once_and_about_as_much_work(base: str, examples: list[LabeledImage]) -> None:
    trainer, lessons = start(base, examples, pictures=6)
    lesson = lessons[0]
    whole = {
        (int(lesson.views[o]), *p.tolist(), *y.tolist())
        for o, p, y in zip(lesson.owner, lesson.prompts, lesson.labels, strict=True)
    }
    shown = dict(zip(lesson.views.tolist(), lesson.pixels, strict=True))
    assert len(shown) == 6
    parted = shares(lesson, 3, trainer.base.pad, trainer.base.first_location, trainer.loss)
    found = set()
    for share in parted:
        part = share.lesson
        assert all(torch.equal(shown[int(v)], p) for v, p in zip(part.views, part.pixels, strict=True))
        prompts = torch.nn.functional.pad(
            part.prompts, (0, lesson.prompts.shape[1] - part.prompts.shape[1]), value=trainer.base.pad
        )
        labels = torch.nn.functional.pad(part.labels, (0, lesson.labels.shape[1] - part.labels.shape[1]), value=IGNORE)
        found |= {
            (int(part.views[o]), *p.tolist(), *y.tolist()) for o, p, y in zip(part.owner, prompts, labels, strict=True)
        }
    assert found == whole
    assert sum(len(share.lesson.pixels) for share in parted) == len(lesson.owner.unique())
    prompts = [len(share.lesson.prompts) for share in parted]
    assert max(prompts) - min(prompts) <= 4  # a picture's worth of them
    for name in ("text", "location", "kind"):
        assert sum(getattr(share.weights, name) for share in parted).item() == pytest.approx(1)


@pytest.mark.parametrize(
    "given", [{"dropout": 0.1}, {"lora_dropout": 0.1}, {"drop_path": 0.1}, {"anchor": Anchor.L2SP}]
)
def test_chance_and_anchors_keep_a_lesson_whole(
    base: str, examples: list[LabeledImage], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert start(base, examples, **given)[0].threads == 1
    assert start(base, examples)[0].threads == 2
    for cores, pictures, wanted in ((1, 8, 1), (2, 1, 1), (6, 8, 3), (7, 8, 1), (8, 8, 4), (8, 2, 2), (32, 8, 4)):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert start(base, examples, pictures=pictures)[0].threads == wanted


def test_cores_are_shared_out_among_the_threads_and_others_keep_theirs(base: str, examples: list[LabeledImage]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        trainer = start(base, examples)[0]
        assert trainer.threads == 2
        assert {trainer._pool.submit(torch.get_num_threads).result() for _ in range(8)} == {2}
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)
