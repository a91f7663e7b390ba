"""The training loop of a fine-tune run."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from tensorboardX import SummaryWriter

from finetune import memory
from finetune.losses import compute_class_weights
from finetune.precision import select_precision
from finetune.tuning.advice import judge_run
from finetune.tuning.batches import TrainingBatch, TrainingBatches, create_loader
from finetune.tuning.best_checkpoint import BestCheckpoint
from finetune.tuning.class_facts import ClassFacts, add_found, add_start_classes, choose_class_list, count_classes
from finetune.tuning.config import NO_REPLAY_MESSAGE, Anchor, Method, TuneConfig
from finetune.tuning.gain import TuneGain
from finetune.tuning.progress import TuneProgress, create_progress
from finetune.tuning.result import DivergenceError, TuneError, TuneResult
from finetune.tuning.run_record import RECORD_FILE, TuneData, describe_environment, describe_run, find_changes
from finetune.tuning.run_state import RunState
from finetune.tuning.sample_tokens import to_unusable
from finetune.tuning.time_estimate import TimeEstimate
from finetune.tuning.trainer import Trainer
from finetune.tuning.training_log import LOG_FILE, append_to_log, plot_curves, read_log
from finetune.tuning.validation import ValidationStoppedError
from finetune.tuning.validator import Validator
from labels.dataset import UnusableEntry
from labels.unusable_entries import write_unusable
from server.engine.adapters.class_list import read_class_list, write_class_list

STOP_REQUESTED = "stop requested"
"""The reason of a run that `should_stop` ended."""
_LOG_EVERY = 10  # steps
_SMOOTHING = 0.9  # of the losses that are shown
T = TypeVar("T")


def tune(
    config: TuneConfig, data: TuneData, out: Path, *, workers: int = 1,
    on_log: Callable[[dict[str, Any]], None] = lambda line: None, should_stop: Callable[[], bool] = lambda: False,
    on_left_out: Callable[[Sequence[UnusableEntry]], None] = lambda entries: None,
    on_start: Callable[[Sequence[ClassFacts]], None] = lambda classes: None,
    on_progress: Callable[[TuneProgress], None] = lambda progress: None,
) -> TuneResult:  # fmt: skip
    """Fine-tunes `config.base` on `data` into the folder `out`. After a stop the same call continues, bit for bit.

    `workers`: processes that load images; `on_log` receives each line of the log; `should_stop` is called before each
    step and during validation: when it returns True, the run ends and can be continued; `on_left_out` receives the
    samples that are too long for the model; `on_start` receives what is known of the classes before the first step,
    and `on_progress` the progress after each step and during validations, both in the main process. Freed memory stays
    with this process from now on (`finetune.memory`). Raises TuneError, DivergenceError if the loss becomes NaN or Inf,
    CheckpointError if the base cannot be loaded, and AdapterError if the start adapter cannot.
    """
    try:
        run = _Run(config, data, out, on_log, should_stop, on_progress)
        on_left_out(run.long_samples)
        return run.train(workers, on_start)
    except (OSError, SafetensorError) as error:
        path, reason = (getattr(error, name, None) for name in ("filename", "strerror"))
        raise TuneError(f"{path or out}: {reason or error}; fix this, then run the same command again") from error


class _Run:
    def __init__(
        self, config: TuneConfig, data: TuneData, out: Path, on_log: Callable[[dict[str, Any]], None],
        should_stop: Callable[[], bool], on_progress: Callable[[TuneProgress], None],
    ) -> None:  # fmt: skip
        if config.anchor is Anchor.KL and data.replay is None:
            raise TuneError(NO_REPLAY_MESSAGE)
        self.config, self.data, self.out, self.on_log, self.should_stop = config, data, out, on_log, should_stop
        self.on_progress = on_progress
        memory.retain_freed_memory()
        self.accelerator = Accelerator(mixed_precision=select_precision())
        self.trainer = Trainer(config, self.accelerator)
        pretrained = self.trainer.pretrained
        try:
            replay = data.replay if config.replay_share else None
            self.batches = TrainingBatches(pretrained.files, data.train, data.classes, config, replay)
            self.class_list = choose_class_list(data.classes, config.start_adapter)
            held = None if config.any_class else self.class_list
            self.known = read_class_list(pretrained.files.folder)
            known = add_start_classes(self.known or None, config.start_adapter)
            self.validator = Validator(config, self.trainer, data.holdout, data.classes, held)
        except ValueError as error:
            raise TuneError(str(error)) from error
        self.long_samples = [
            *to_unusable(data.train, self.batches.left_out), *to_unusable(data.holdout, self.validator.left_out)
        ]  # fmt: skip
        class_weights = compute_class_weights(self.batches.count_class_tokens(), config.class_balance)
        self.trainer.loss_config = replace(self.trainer.loss_config, weights=class_weights)
        self.description = describe_run(config, data, pretrained.sha256, self.accelerator.num_processes)
        self.checkpoint = BestCheckpoint(out / ("adapter" if config.method is Method.LORA else "checkpoint"))
        self.state, self.saved_step = RunState(), 0
        self.clock = 0.0  # when the training time was last counted
        self.estimate = TimeEstimate(config)
        self.class_facts = count_classes(data.train, data.classes, known)
        self.losses: dict[str, float] = {}  # the newest ones
        self.metric: float | None = None  # of the newest validation
        self.board: SummaryWriter | None = None

    def train(self, workers: int, on_start: Callable[[Sequence[ClassFacts]], None]) -> TuneResult:
        config, state = self.config, self.open_folder()
        try:
            is_due = state.step == 0 or state.pending is not None
            stopped = (self.validate(state.pending or {}) if is_due else "") or self.check_patience()
            if not stopped and state.step < config.steps and self.accelerator.is_main_process:
                on_start(self.classes)
            self.clock = step_start = time.monotonic()
            for batches in self.load_batches(workers) if not stopped else ():
                if self.agree(self.should_stop()):
                    stopped = STOP_REQUESTED
                    break
                self.train_step(batches)
                self.estimate.add_step(time.monotonic() - step_start)
                is_validated = state.step % config.evaluate_every == 0 or state.step == config.steps
                self.report_progress(0.0 if is_validated else None)
                if state.step % memory.RELEASE_EVERY == 0:
                    memory.release_freed_memory()
                if is_validated:
                    self.count_time()
                    stopped = self.validate(state.take_averages()) or self.check_patience()
                    if stopped:
                        break
                    self.clock = time.monotonic()
                elif state.step % _LOG_EVERY == 0:
                    self.count_time()
                    self.log({"step": state.step, **state.take_averages()})
                step_start = time.monotonic()
            if stopped == STOP_REQUESTED and state.step > self.saved_step:
                if state.pending is None:
                    self.count_time()
                self.save_state()
        except (TuneError, OSError, SafetensorError) as error:
            self.checkpoint.discard()  # makes room if the disk is full
            with suppress(OSError):
                self.write_record("failed", str(error))
            raise
        finally:
            if self.board:
                self.board.close()
        return self.finish(stopped)

    def train_step(self, batches: list[TrainingBatch]) -> None:
        state = self.state
        try:
            parts = self.trainer.step(batches, state.step)
        except FloatingPointError as error:
            result = self.make_result(str(error), self.judge())
            cause = f"step {state.step + 1}: {error}; use a lower learning_rate ({self.config.learning_rate:g})"
            raise DivergenceError(cause, result) from error
        state.step += 1
        state.add_losses(parts)
        self.losses = {n: v + _SMOOTHING * (self.losses.get(n, v) - v) for n, v in parts.items()}
        state.add_left_out(sample for batch in batches for sample in batch.left_out)

    def load_batches(self, workers: int) -> Iterator[list[TrainingBatch]]:
        """Yields the batches of each remaining step, for this process."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = self.config.accumulation_steps
        numbers = range(self.state.step * parts, self.config.steps * parts)
        if not numbers:
            return
        batches: list[TrainingBatch] = []
        for batch in create_loader(self.batches, [number * world + rank for number in numbers], workers):
            batches.append(batch)
            if len(batches) == parts:
                yield batches
                batches = []

    def validate(self, line: dict[str, float]) -> str:
        """Validates the averaged parameters, keeps them if they are the best, and saves the state.

        `line`: the losses for the log. Returns STOP_REQUESTED if a stop interrupted it, else an empty string.
        """
        state, complete, start = self.state, True, time.monotonic()
        state.pending = None
        if self.accelerator.is_main_process:
            try:
                self.validate_candidate(line)
            except ValidationStoppedError:
                complete = False
        self.accelerator.wait_for_everyone()
        # Each process may have to report the best checkpoint.
        shared = self.agree((complete, state.best_step, state.best, state.before))
        complete, state.best_step, state.best, state.before = shared
        seconds = time.monotonic() - start
        state.validation_seconds += seconds
        if not complete:
            state.pending = line
            return STOP_REQUESTED
        state.validations += 1
        self.estimate.add_validation(seconds)
        self.report_progress(None)
        if state.step:
            self.save_state()
        return ""

    def validate_candidate(self, line: dict[str, float]) -> None:
        """Runs in the main process. Raises ValidationStoppedError."""
        state = self.state
        candidate = self.checkpoint.create_candidate()
        self.trainer.trainable.save(candidate, self.trainer.average)
        classes = self.class_list.names if self.class_list else ()
        if classes and self.config.method is not Method.LORA:  # a checkpoint of its own also knows what its base knows
            classes = (*classes, *self.known)
        write_class_list(candidate, classes, (task for tasks in self.batches.tasks for task in tasks))
        result = self.validator.validate(candidate, self.should_stop, self.report_progress)
        self.metric = metric = None if result is None else result.metric
        is_better = metric is None or all(metric < each for each in (state.best, state.before) if each is not None)
        state.without_improvement = 0 if is_better else state.without_improvement + 1
        if result is not None:
            state.errors[state.step], state.weights = result.errors, result.weights
        if state.step == 0:
            state.before, state.found = metric, dict(result.found) if result else {}
            self.checkpoint.accept()  # until the first trained one
        elif metric is None or state.best is None or metric < state.best or math.isnan(state.best):
            self.checkpoint.accept()
            state.best, state.best_step = metric, state.step
        else:
            self.checkpoint.discard()
        self.log({"step": state.step, **line, **({} if metric is None else {"validation": metric})})

    def check_patience(self) -> str:
        """Returns the reason to stop if there was no improvement for too long, else an empty string."""
        count, patience = self.state.without_improvement, self.config.patience
        return f"no improvement in {count} validations" if patience and self.agree(count >= patience) else ""

    def agree(self, value: T) -> T:
        """Returns the main process's value in all processes."""
        if self.accelerator.num_processes == 1:
            return value
        values = [value]
        broadcast_object_list(values)
        return values[0]

    @property
    def classes(self) -> list[ClassFacts]:
        """The classes of the run, with what the start found of them."""
        return add_found(self.class_facts, self.state.found)

    def judge(self) -> TuneGain | None:
        """Returns what the run has gained until now; None if that was not measured."""
        return judge_run(self.config, self.state, read_log(self.out), self.classes, len(self.data.train))

    def report_progress(self, validated: float | None) -> None:
        if self.accelerator.is_main_process:
            step, steps, before = self.state.step, self.config.steps, self.state.before
            self.on_progress(create_progress(step, steps, self.estimate, self.losses, before, self.metric, validated))

    def count_time(self) -> None:
        """Adds the time since `clock` to the training time."""
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now

    def log(self, line: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        rounded = {k: round(v, 5) if isinstance(v, float) and k != "learning_rate" else v for k, v in line.items()}
        rounded["seconds"] = round(self.state.seconds, 1)
        if (left := self.estimate.compute_left(self.state.step)) is not None:
            rounded["seconds_left"] = round(left, 1)
        if self.state.left_out:
            rounded["left_out"] = self.state.left_out
        append_to_log(self.out, rounded)
        for name, value in line.items():
            if self.board and name != "step":
                self.board.add_scalar(name, value, line["step"])
        self.on_log({**rounded, "steps": self.config.steps})

    def open_folder(self) -> RunState:
        """Creates the folder, or restores the state of its run. Raises TuneError if it contains something else."""
        self.out.mkdir(parents=True, exist_ok=True)
        record = self.out / RECORD_FILE
        if record.exists():
            try:
                changes = find_changes(record, self.description)
            except ValueError as error:
                raise TuneError(f"{error}; use another folder") from error
            if changes:
                what = "; ".join(changes[:6])
                raise TuneError(f"{self.out} contains another run; use another folder. Changed: {what}")
            if saved := RunState.load(self.out):
                self.state, trainer_state = saved
                self.trainer.load_state(trainer_state)
                self.saved_step = self.state.step
                if count := self.state.validations:
                    self.estimate.add_validation(self.state.validation_seconds / count)
        elif any(self.out.iterdir()):
            raise TuneError(f"{self.out} contains other files; use an empty folder")
        self.accelerator.wait_for_everyone()  # before the main process changes the folder
        if self.accelerator.is_main_process:
            self.checkpoint.recover()
            if self.state.step == 0:
                (self.out / LOG_FILE).unlink(missing_ok=True)
        self.write_record("running", "")
        if self.accelerator.is_main_process:
            write_unusable(self.out, [*self.data.source.unusable, *self.long_samples])
        self.board = SummaryWriter(str(self.out / "tensorboard"), write_to_disk=self.accelerator.is_main_process)
        return self.state

    def save_state(self) -> None:
        """Saves the state as the last file: after a crash before that, the run repeats the steps since the old one."""
        if self.accelerator.is_main_process:
            self.state.save(self.out, self.trainer.get_state())
            self.write_record("running", "")
        self.saved_step = self.state.step

    def write_record(self, state: str, reason: str, gain: TuneGain | None = None) -> None:
        if self.accelerator.is_main_process:
            record = {
                "run": self.description,
                "source": {**self.data.source.to_json(), "start_adapter": self.config.start_adapter},
                "state": state, "reason": reason, **self.state.to_record(),
                "gain": None if gain is None else asdict(gain),
                "left_out": {
                    "too_long": len(self.long_samples), "in_training": self.state.left_out,
                    "examples": self.state.left_out_examples,
                },
                "classes": [each.to_json() for each in self.classes], "environment": describe_environment(),
            }  # fmt: skip
            partial = self.out / "run.partial"
            partial.write_text(json.dumps(record, indent=2))
            partial.replace(self.out / RECORD_FILE)

    def finish(self, stopped: str) -> TuneResult:
        gain = None
        if stopped != STOP_REQUESTED and self.accelerator.is_main_process:
            gain = self.judge()
        self.write_record("stopped" if stopped == STOP_REQUESTED else "done", stopped, gain)
        if self.accelerator.is_main_process:
            plot_curves(self.out, self.config.metric)
        return self.make_result(stopped, self.agree(gain))

    def make_result(self, stopped: str, gain: TuneGain | None = None) -> TuneResult:
        state = self.state
        return TuneResult(
            self.checkpoint.folder, state.step, state.before, state.best, state.best_step, state.seconds,
            state.validation_seconds, stopped, state.left_out, tuple(state.left_out_examples), gain,
        )  # fmt: skip
