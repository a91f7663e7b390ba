"""The loop of a fine-tune run: steps, looks at held-out pictures, the best kept, and going on after a stop."""

import errno
import json
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from tensorboardX import SummaryWriter
from torch.utils.data import DataLoader

from finetune import memory
from finetune.evaluation.corrections import Tally
from finetune.losses import class_weights
from finetune.precision import precision
from finetune.tuning import run_record as runs
from finetune.tuning.batches import Lesson, Lessons
from finetune.tuning.best_checkpoint import Best
from finetune.tuning.config import NOTHING_TO_REPLAY, Anchor, Method, TuneConfig
from finetune.tuning.frozen_features import Features
from finetune.tuning.replay import Replay
from finetune.tuning.run_record import Source
from finetune.tuning.trainer import Trainer
from finetune.tuning.validation import Interrupted, Judge, main_tasks
from labels import unusable
from labels.labeled_image import LabeledImage
from server.engine.config import EngineConfig
from server.engine.engine import Engine

ASKED = "asked to"  # why it stopped, where `stop` said so
_HELD_LESSONS = 8  # batches that the held-out loss is a mean of
T = TypeVar("T")


class TuneError(RuntimeError):
    """A run that cannot begin or go on; the message says what to do. What was kept before stays good."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run made. `folder`: the adapter's or checkpoint's, the best; `before` and `best`: the held-out metric of
    what it started from (the base, or the adapter that `start` names) and of that, None without held-out pictures;
    `stopped`: why it ended before its last step."""

    folder: Path
    steps: int
    before: float | None
    best: float | None
    best_step: int
    seconds: float
    stopped: str = ""


class Diverged(TuneError):  # noqa: N818
    """The loss or its gradient was no number: `where`. `kept`: the run as it was when it was last good, of which the
    folder holds the adapter or checkpoint; its `best_step` is 0 where that is what it started from."""

    def __init__(self, where: str, kept: Outcome) -> None:
        super().__init__(
            f"{where} and take another folder. What was good at step {kept.best_step} is kept in {kept.folder}"
        )
        self.where, self.kept = where, kept


def tune(
    config: TuneConfig, train: Sequence[LabeledImage], out: Path, *, held: Sequence[LabeledImage] = (),
    labels: Sequence[str] = (), replay: Replay | None = None, workers: int = 1,
    told: Callable[[dict[str, Any]], None] = lambda line: None, stop: Callable[[], bool] = lambda: False,
    source: Source = Source(),
) -> Outcome:  # fmt: skip
    """Fine-tunes `config.base` on `train` into the folder `out`; called again after a stop, it goes on bit for bit.

    `held`: pictures that are never taught, by which the best is chosen; `labels`: of the whole dataset, which came from
    `source`. `told` hears each line of the log; `stop`, once true, ends the run before the next step or within a look,
    and what was done is kept, to be gone on with. From here on the process's malloc keeps what is freed
    (`finetune.memory`). Raises TuneError, Diverged of them where the loss is no number, and CheckpointError for a base
    that cannot be loaded.
    """
    try:
        return _Run(config, train, out, held, labels, replay, told, stop, source).run(workers)
    except (OSError, SafetensorError) as error:
        where, why = (getattr(error, name, None) for name in ("filename", "strerror"))
        raise TuneError(f"{where or out}: {why or error}; once that is mended, the same command goes on") from error


class _Run:
    def __init__(
        self, config: TuneConfig, train: Sequence[LabeledImage], out: Path, held: Sequence[LabeledImage],
        labels: Sequence[str], replay: Replay | None, told: Callable[[dict[str, Any]], None], stop: Callable[[], bool],
        source: Source,
    ) -> None:  # fmt: skip
        self.config, self.out, self.told, self.stop, self.source = config, out, told, stop, source
        if config.anchor is Anchor.KL and replay is None:
            raise TuneError(NOTHING_TO_REPLAY)
        memory.keep()
        self.accelerator = Accelerator(mixed_precision=precision())
        self.trainer = Trainer(config, self.accelerator)
        files = self.trainer.base.files
        try:
            self.lessons = Lessons(files, train, labels, config, replay if config.replay else None)
            tame = config.model_copy(update={"augment": 0.0, "replay": 0.0, "seed": 0})
            self.held_lessons = Lessons(files, held, labels, tame) if held and config.metric == "loss" else None
        except ValueError as error:
            raise TuneError(str(error)) from error
        weights = class_weights(self.lessons.label_tokens(), config.balance)
        self.trainer.loss = replace(self.trainer.loss, weights=weights)
        self.judge = (
            Judge(held, labels, main_tasks(held, config.tasks)) if held and config.metric == "corrections" else None
        )
        if self.judge is not None and not self.judge.labels:
            raise TuneError(
                "the held-out pictures have no label that could tell which step is the best: hold out others, or none"
            )
        self.about = runs.described(
            config, self.trainer.base.sha256, train, held, labels,
            replayed=bool(config.replay and replay), processes=self.accelerator.num_processes,
        )  # fmt: skip
        self.kept = Best(out / ("adapter" if config.method is Method.LORA else "checkpoint"))
        self.begin, self.seconds = 0, 0.0
        self.before: float | None = None
        self.best: tuple[float, int] | None = None
        self.poorer = 0  # looks since the best
        self.seen: dict[str, list[float]] = defaultdict(list)  # since the last line of the log
        self.due: dict[str, float] | None = None  # the line of a look that was broken off
        self.saved = 0  # the step whose state is kept
        self.good = 0  # the step whose weights are
        self.board: SummaryWriter | None = None

    def run(self, workers: int) -> Outcome:
        self.out.mkdir(parents=True, exist_ok=True)
        self._take_up()
        if self.accelerator.is_main_process:
            unusable.write(self.out, self.source.unusable)
        self.board = SummaryWriter(str(self.out / "tensorboard"), write_to_disk=self.accelerator.is_main_process)
        config, clock, stopped, step = self.config, time.monotonic(), "", self.begin
        try:
            if (step == 0 or self.due is not None) and not self._looked(step, self.due or {}):
                stopped = ASKED
            elif self._enough():
                stopped = f"no better for {self.poorer} looks"
            clock = time.monotonic()
            for lessons in self._batches(workers) if not stopped else ():
                if self._agreed(self.stop()):
                    stopped = ASKED
                    break
                try:
                    parts = self.trainer.step(lessons, step)
                except FloatingPointError as error:
                    best = self.best[0] if self.best else None
                    kept = Outcome(self.kept.folder, step, self.before, best, self.good, self.seconds, str(error))
                    raise Diverged(f"step {step + 1}: {error}; lower the rate ({config.rate:g})", kept) from error
                step += 1
                for name, value in parts.items():
                    self.seen[name].append(value)
                looking = step % config.evaluate == 0 or step == config.steps
                if not (step % 10 == 0 or looking):
                    continue
                if step % memory.EVERY == 0:
                    memory.give_back()
                line = {name: sum(values) / len(values) for name, values in self.seen.items()}
                self.seen.clear()
                self.seconds += time.monotonic() - clock
                if not looking:
                    self._log({"step": step, **line})
                elif not self._looked(step, line):
                    stopped = ASKED
                    break
                elif self._enough():
                    stopped = f"no better for {self.poorer} looks"
                    break
                clock = time.monotonic()
            if stopped == ASKED and step > self.saved:
                self.seconds += time.monotonic() - clock if self.due is None else 0.0
                self._keep(step)
        except (TuneError, OSError, SafetensorError) as error:
            self.kept.dismiss()  # a full disk has room again
            with suppress(OSError):
                self._told_in_file("failed", str(error))
            raise
        finally:
            self.board.close()
        done = stopped != ASKED
        self._told_in_file("done" if done else "stopped", stopped)
        if self.accelerator.is_main_process:
            runs.draw_curves(self.out, config.metric)
        score, at = self.best if self.best else (None, step)
        return Outcome(self.kept.folder, step, self.before, score, at, self.seconds, stopped)

    def _batches(self, workers: int) -> Iterator[list[Lesson]]:
        """The lessons of each step that is left, for this process."""
        world, rank, parts = self.accelerator.num_processes, self.accelerator.process_index, self.config.accumulation
        first, last = self.begin * parts, self.config.steps * parts
        if first >= last:
            return
        loader = DataLoader(
            self.lessons, batch_size=None, sampler=[number * world + rank for number in range(first, last)],
            num_workers=workers, prefetch_factor=4 if workers else None, worker_init_fn=_deaf,
            generator=torch.Generator(),  # the loader's own: it would take a number from what dropout goes on with
        )  # fmt: skip
        own: list[Lesson] = []
        for lesson in loader:
            own.append(lesson)
            if len(own) == parts:
                yield own
                own = []

    def _enough(self) -> bool:
        """Whether it has got no better for as long as patience lasts."""
        return bool(self.config.patience) and self._agreed(self.poorer >= self.config.patience)

    def _agreed(self, here: T) -> T:
        """What the main process says, in all of them."""
        if self.accelerator.num_processes == 1:
            return here
        said = [here]
        broadcast_object_list(said)
        return said[0]

    def _looked(self, step: int, line: dict[str, float]) -> bool:
        """Measures the average of the weights on the held-out pictures, keeps it if it is the best, and then the state;
        False where it was asked to stop meanwhile: the look is then due when the run goes on."""
        self.due, looked = None, True
        if self.accelerator.is_main_process:
            try:
                self._look(step, line)
            except Interrupted:
                looked = False
        self.accelerator.wait_for_everyone()
        known = (looked, self.good, self.best, self.before)  # each process may have to tell where it was last good
        looked, self.good, self.best, self.before = self._agreed(known)
        if not looked:
            self.due = line
        elif step:
            self._keep(step)
        return self.due is None

    def _look(self, step: int, line: dict[str, float]) -> None:
        """In the main process. Raises Interrupted."""
        candidate = self.kept.candidate()
        self.trainer.learner.save(candidate, self.trainer.average)
        score = self._score(candidate)
        if step == 0:
            self.before = score
        if score is None or self.best is None or score < self.best[0]:
            self.best, self.poorer = (score, step) if score is not None else None, 0
            self.kept.take()
            self.good = step
        else:
            self.poorer += 1
            self.kept.dismiss()
        self._log({"step": step, **line, **({} if score is None else {"held": score})})

    def _score(self, candidate: Path) -> float | None:
        """The held-out metric, lower is better; None without held-out pictures. Raises Interrupted."""
        config = self.config
        if self.judge is not None:
            lora = config.method is Method.LORA
            with Engine.load(
                EngineConfig(config.base if lora else str(candidate), device=str(self.accelerator.device))
            ) as engine:
                name = engine.load_adapter("candidate", candidate).name if lora else None
                return sum(self.judge.tallies(engine, name, stop=self.stop), Tally()).per_hundred
        if self.held_lessons is None:
            return None
        trainer, losses = self.trainer, []
        kept, trainer.features = trainer.features, Features()  # views are numbered anew there
        try:
            with torch.no_grad(), trainer.learner.resting(), trainer.learner.holding(trainer.average):
                for number in range(_HELD_LESSONS):
                    if self.stop():
                        raise Interrupted
                    losses.append(trainer.losses(self.held_lessons[number], anchored=False)["total"].item())
        finally:
            trainer.features = kept
        return sum(losses) / len(losses)

    def _log(self, line: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        told = {k: round(v, 5) if isinstance(v, float) and k != "rate" else v for k, v in line.items()}
        told["seconds"] = round(self.seconds, 1)
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(told) + "\n")
        for name, value in line.items():
            if self.board and name != "step":
                self.board.add_scalar(name, value, line["step"])
        self.told({**told, "steps": self.config.steps})

    def _keep(self, step: int) -> None:
        """The state, last: a kill before it is whole leaves the old one, and going on from that writes all anew."""
        if self.accelerator.is_main_process:
            partial = self.out / "state.partial"
            held = {"before": self.before, "best": self.best, "poorer": self.poorer, "seconds": self.seconds}
            about = {"step": step, "good": self.good, "due": self.due, "seen": dict(self.seen), **held}
            try:
                torch.save({**about, "trainer": self.trainer.state()}, partial)
            except (OSError, RuntimeError) as error:
                partial.unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise
                # Which is how torch says that the disk is full.
                raise OSError(errno.EIO, f"it cannot be written, the disk may be full ({error})", partial) from error
            partial.replace(self.out / "state.pt")
            self._told_in_file("running", "")
        self.saved = step

    def _take_up(self) -> None:
        """Goes on where the folder's run stopped. Raises TuneError when it holds another run."""
        path = self.out / "run.json"
        if path.exists():
            try:
                changed = runs.changes(path, self.about)
            except ValueError as error:
                raise TuneError(f"{error}; take another folder") from error
            if changed:
                raise TuneError(f"{self.out} holds another run; take another folder. Changed: {'; '.join(changed[:6])}")
            if (self.out / "state.pt").exists():
                saved = torch.load(self.out / "state.pt", map_location="cpu", weights_only=True)
                self.trainer.restore(saved["trainer"])
                self.begin, self.before, self.seconds = saved["step"], saved["before"], saved["seconds"]
                self.best, self.poorer = saved["best"] and tuple(saved["best"]), saved["poorer"]
                self.due, self.saved, self.good = saved.get("due"), self.begin, saved.get("good", 0)
                self.seen.update(saved.get("seen", {}))
        elif any(self.out.iterdir()):
            raise TuneError(f"{self.out} holds other files; take an empty folder")
        self.accelerator.wait_for_everyone()  # all have seen the folder as it was
        if self.accelerator.is_main_process:
            self.kept.recover()
            if self.begin == 0:
                (self.out / "log.jsonl").unlink(missing_ok=True)
        self._told_in_file("running", "")

    def _told_in_file(self, state: str, reason: str) -> None:
        if self.accelerator.is_main_process:
            made = {
                "run": self.about, "source": {**self.source.told(), "start": self.config.start},
                "state": state, "reason": reason, "before": self.before,
                "best": self.best and {"held": self.best[0], "step": self.best[1]},
                "seconds": round(self.seconds, 1), "surroundings": runs.surroundings(),
            }  # fmt: skip
            partial = self.out / "run.partial"
            partial.write_text(json.dumps(made, indent=2))
            partial.replace(self.out / "run.json")


def _deaf(worker: int) -> None:
    """A loader's process leaves it to the main one when to stop: signals often go to a whole group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
