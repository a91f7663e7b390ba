"""What `florist tune` does: loads the datasets, trains, measures forgetting, and calibrates the scores.

The seedling's drawn scenes come together with the fine-tuning here; `finetune` itself does not know them.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.markup import escape

from finetune.calibration import calibrate_adapter, calibrate_checkpoint
from finetune.datasets.samples import SEARCH_TASKS, has_known_negatives
from finetune.evaluation.report import make_evaluation_samples
from finetune.forgetting import DatasetForgetting, ForgettingEvaluation
from finetune.tuning.best_checkpoint import BestCheckpoint
from finetune.tuning.class_facts import choose_class_list, count_classes
from finetune.tuning.config import ConfigError, Method, load_config
from finetune.tuning.gain import format_metric
from finetune.tuning.loop import tune
from finetune.tuning.replay import ReplayData, load_replay
from finetune.tuning.result import TuneError, TuneResult
from finetune.tuning.run_record import RunSource, TuneData
from finetune.tuning.time_estimate import format_duration
from finetune.tuning.training_log import PLOT_FILE
from labels.dataset import Dataset, DatasetError, UnusableEntry
from labels.labeled_image import LabeledImage
from labels.opening import open_dataset
from labels.split import hash_content, split_images
from labels.unusable_entries import FILE_NAME, print_unusable
from labels.verification import keep_readable
from seedling.forgetting import SceneForgetting
from seedling.replay import find_replay
from server.cli.console import console, error_console, print_line
from server.cli.tune_display import METRICS, TuneDisplay
from server.engine.adapters.errors import AdapterError
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine

_SHOWN_EXAMPLES = 5
_SHOWN_CLASSES = 50
EXPECTED_ERRORS = (ConfigError, DatasetError, CheckpointError, AdapterError, TuneError, OSError)
"""Errors whose message says what to do."""


class TuneRunner:
    """One call of the command."""

    def __init__(
        self, config: Path | None, options: dict[str, Any], out: Path, opener: Callable[[str], Dataset] | None
    ) -> None:
        """`opener` opens datasets by name; None: files only. Raises ConfigError."""
        self._config, self._out, self._open = load_config(config, **options), out, opener or open_dataset
        self._start = time.monotonic()
        self._data = TuneData(())
        self._replay: ReplayData | None = None

    def load_data(self, dataset: str, holdout: str | None, holdout_share: float) -> None:
        """Loads the training images, the holdout and the replay. Raises DatasetError."""
        main = self._load_dataset(dataset)
        unusable = [*main.unusable]
        if holdout is not None:
            other = self._load_dataset(holdout)
            unusable += other.unusable
            train, kept = main.training_images, other.evaluation_images
            hashes = set(map(hash_content, train))
            if shared := sum(hash_content(image) in hashes for image in kept):
                error_console.print(
                    f"{shared} images of the holdout are training images too: it cannot select a checkpoint"
                )
        elif main.holdout:
            train, kept = main.training_images, main.evaluation_images
        else:
            train, kept = split_images(main.images, holdout_share, seed=self._config.seed)
        if kept and not train:
            raise DatasetError(f"all {len(kept)} images are in the holdout, and none is left for training: add images")
        self._replay = load_replay(self._config, find_replay(self._config.base), self._open)
        if self._replay is not None:
            unusable += self._replay.unusable
            self._print_unusable(self._replay.unusable)
        elif self._config.replay_share:
            message = "nothing is replayed: set --replay-dataset to a dataset of the base's own domain"
            error_console.print(message, soft_wrap=True)
        source = self._replay.source if self._replay else None
        run_source = RunSource(dataset, holdout, unusable)
        self._data = TuneData(train, kept, main.classes, source, run_source)
        self._print_data()
        self._warn_without_negatives(train, main.classes)

    def train(self, should_stop: Callable[[], bool]) -> TuneResult:
        """Fine-tunes, with progress on the terminal. Raises TuneError and the errors of the base."""
        with TuneDisplay(self._config, error_console) as display:
            return tune(
                self._config, self._data, self._out, should_stop=should_stop, on_left_out=self._print_left_out,
                on_start=display.show_classes, on_progress=display.show,
            )  # fmt: skip

    def report(self, result: TuneResult, *, forgetting: bool, keep: bool) -> bool:
        """Prints the result; measures forgetting and calibrates, in the main process.

        A result without a gain is dropped, unless `keep`. Returns False for a run without a gain.
        """
        has_gained = result.gain is None or result.gain.gained
        is_kept, trained = has_gained or keep, time.monotonic()
        if PartialState().is_main_process:
            self._print_result(result)
            checkpoint = BestCheckpoint(result.folder)
            if is_kept:
                checkpoint.restore()
                with error_console.status("measuring forgetting and calibrating scores …"):
                    self._evaluate(result.folder, forgetting=forgetting)
            else:
                checkpoint.drop()
                kind = "adapter" if self._config.method is Method.LORA else "checkpoint"
                print_line(f"no {kind} is kept; the same command with --keep keeps that of step {result.best_step}")
            self._print_time(result, trained)
        curves = f"curves: {self._out / PLOT_FILE}"
        print_line(f"{result.folder}; {curves}" if is_kept else curves)
        return has_gained

    def _print_data(self) -> None:
        """Prints the numbers of images, and how many show each class."""
        data = self._data
        print_line(f"{len(data.train)} training images, {len(data.holdout)} in the holdout")
        if facts := count_classes(data.train, data.classes):
            shown = ", ".join(f"{each.name} ({each.images})" for each in facts[:_SHOWN_CLASSES])
            more = f" and {len(facts) - _SHOWN_CLASSES} more" if len(facts) > _SHOWN_CLASSES else ""
            print_line(f"{len(facts)} classes (training images): {shown}{more}")
        class_list = choose_class_list(data.classes, self._config.start_adapter)
        if class_list is not None and class_list.warning and not self._config.any_class:
            error_console.print(escape(class_list.warning), soft_wrap=True, highlight=False)

    def _print_result(self, result: TuneResult) -> None:
        metric = METRICS[self._config.metric]
        if result.best is not None and result.before is not None and result.gain is not None:
            before = f"{format_metric(result.before)} {self._config.start_adapter or 'before'}"
            line = f"holdout {metric}: {before}, {format_metric(result.best)} at step {result.best_step}"
            if result.gain.gained:
                sure = f"; {result.gain.describe_confidence()} that this is no luck"
                print_line(line if result.gain.confidence is None else f"{line}{sure}")
            else:
                print_line(f"no gain: {line}{'; ' + result.gain.describe_doubt() if result.gain.value > 0 else ''}")
                print_line("what to try:")
                for advice in result.gain.advice:
                    print_line(f"  - {advice}")
        elif not self._data.holdout:
            print_line("without a holdout nobody knows whether this is a gain: evaluate it on other images")
        if result.left_out:
            print_line(f"left out {result.left_out} times: samples that are too long for the model, such as")
            for example in result.left_out_examples[:_SHOWN_EXAMPLES]:
                print_line(f"  {example}")

    def _print_time(self, result: TuneResult, trained: float) -> None:
        """Prints the total time. A run that was stopped in between counts completely."""
        evaluation = time.monotonic() - trained
        total = max(time.monotonic() - self._start, result.seconds + result.validation_seconds + evaluation)
        parts = (
            f"{format_duration(seconds, exact=True)} of {what}"
            for seconds, what in (
                (result.seconds, "training"), (result.validation_seconds, "validation"),
                (evaluation, "forgetting and calibration"),
            )
            if seconds >= 0.5
        )  # fmt: skip
        print_line(f"total time: {format_duration(total, exact=True)} ({', '.join(parts) or 'nothing was left to do'})")

    def _load_dataset(self, name: str) -> Dataset:
        dataset = keep_readable(self._open(name))
        self._print_unusable(dataset.unusable)
        return dataset

    def _print_left_out(self, entries: Sequence[UnusableEntry]) -> None:
        if PartialState().is_main_process:
            self._print_unusable(entries)

    def _print_unusable(self, entries: Sequence[UnusableEntry]) -> None:
        print_unusable(entries, error_console, f"{self._out / FILE_NAME} will list all of them")

    def _warn_without_negatives(self, train: tuple[LabeledImage, ...], classes: tuple[str, ...]) -> None:
        is_main = os.environ.get("RANK", "0") == "0"  # the processes are not connected yet
        searches = set(SEARCH_TASKS) & set(self._config.tasks or SEARCH_TASKS)
        if is_main and searches and classes and not has_known_negatives(train, classes):
            what = repr(classes[0]) if len(classes) == 1 else "any class"
            message = f"every search finds something: no training image is known to lack {what}; add images without it"
            error_console.print(
                escape(f"{message}, so that the model learns to find nothing"), soft_wrap=True, highlight=False
            )

    def _evaluate(self, folder: Path, *, forgetting: bool) -> None:
        """Measures forgetting (`forgetting.json`), and calibrates on the holdout."""
        config, data = self._config, self._data
        with ExitStack() as stack:
            base = tuned = stack.enter_context(Engine.load(EngineConfig(config.base)))
            adapter = base.load_adapter("tuned", folder).name if config.method is Method.LORA else None
            if adapter is None:
                tuned = stack.enter_context(Engine.load(EngineConfig(str(folder))))
            evaluation = self._select_forgetting() if forgetting else None
            if evaluation is not None:
                self._measure_forgetting(evaluation, base, tuned, adapter)
            if data.holdout:
                samples = make_evaluation_samples(data.holdout, config.tasks or None, classes=data.classes)
                results = (
                    calibrate_adapter(base, adapter, folder, samples)
                    if adapter
                    else calibrate_checkpoint(folder, samples)
                )
                for token, result in results.items():
                    before, after = result.ece
                    console.print(f"scores of {token} calibrated: error {before:.3f} before, {after:.3f} after")

    def _select_forgetting(self) -> ForgettingEvaluation | None:
        if self._config.base == SEEDLING:
            return SceneForgetting()
        if self._replay is not None and self._replay.holdout:
            return DatasetForgetting(self._replay.holdout, self._replay.classes, self._config.replay_dataset)
        return None

    def _measure_forgetting(
        self, evaluation: ForgettingEvaluation, base: Engine, tuned: Engine, adapter: str | None
    ) -> None:
        before, after = evaluation.evaluate(base), evaluation.evaluate(tuned, adapter)
        lost, description = evaluation.compute_loss(before, after), evaluation.description
        content = {**description, "before": before, "after": after, "lost": lost}
        (self._out / "forgetting.json").write_text(json.dumps(content, indent=1))
        worst = sorted(((value, task) for task, value in lost.items() if task != "mean"), reverse=True)[:3]
        most = ", ".join(f"{task} {value:+.1f}" for value, task in worst)
        console.print(f"forgetting, {description['metric']}: mean {lost['mean']:.1f}; most: {most}", soft_wrap=True)
