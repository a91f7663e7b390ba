"""Runs backtests, one at a time: champion and challenger answer the same holdout images, on the engine that serves."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from statistics import fmean
from typing import Any, cast

from finetune.evaluation import bootstrap
from finetune.evaluation.corrections import CorrectionCounts
from finetune.tuning.run_record import hash_images
from finetune.tuning.validation import ValidationSet
from labels.dataset import DatasetError
from labels.decoder_pool import DecoderClosedError
from prompts.class_lists import ClassList
from server.engine.adapters.errors import AdapterError
from server.engine.answer_handles import AnswerHandle
from server.engine.class_lists import find_adapter_class_list
from server.engine.engine import Engine
from server.engine.errors import EngineClosedError, ModelOverflowError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.request import Request
from server.projects.ensembles import Ensemble, EnsembleBuilder, load_adapters
from server.projects.errors import (
    INTERNAL_REASON,
    BacktestNotPossibleError,
    BaseMismatchError,
    ForgettingNotMeasurableError,
)
from server.projects.forgetting import SceneEvaluation, find_evaluation
from server.projects.project_dataset import build_dataset
from server.projects.project_files import ProjectFiles
from server.projects.queue_worker import QueueWorker
from server.store import StoreUnavailableError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Backtest, ExecutionState, ImageCounts, PairedComparison, Project
from server.store.text import hide_folders

logger = logging.getLogger(__name__)


class Backtester:
    """Works on the queued backtests of a store, oldest first. Its prompts have a lower priority than interactive ones.

    `scene_evaluation`: how the forgetting of the seedling is measured; None: it is not.
    """

    def __init__(
        self, store: ProjectStore, files: ProjectFiles, scene_evaluation: SceneEvaluation | None = None
    ) -> None:
        self._store, self._files, self._scene_evaluation = store, files, scene_evaluation
        self._ensembles = EnsembleBuilder(store, files)
        self._worker = QueueWorker("backtests", self._work_once)
        self._engine: Engine | None = None
        self._base_results: dict[int, dict[str, float]] = {}  # number of scenes → results of the base model
        self._progress: BacktestProgress | None = None  # of the current backtest, once it has started to answer

    def start(self, engine: Engine) -> None:
        """Starts to work, first on the backtest that was running when the server stopped."""
        self._engine = engine
        self._worker.start()

    def wake(self) -> None:
        """Tells the worker that a backtest was queued."""
        self._worker.wake()

    def close(self) -> None:
        """Stops. A running backtest is repeated after the next start."""
        self._worker.close()

    def get_progress(self, backtest: Backtest) -> tuple[int, int] | None:
        """Returns how many images of a running backtest have been answered, of how many: each counts once for the
        champion and once for the challenger. None if it is not running here, or has just started."""
        progress = self._progress
        is_current = progress is not None and progress.backtest_id == backtest.id
        return (progress.done, progress.total) if progress is not None and is_current else None

    def _work_once(self) -> bool:
        if (found := self._store.find_open_backtest()) is None:
            return False
        project, backtest = found
        self._store.backtests.start_backtest(backtest)
        try:
            self._run_backtest(project, backtest)
        except (EngineClosedError, DecoderClosedError, StoreUnavailableError):
            raise
        except (BacktestNotPossibleError, AdapterError, ModelOverflowError, OSError) as error:
            logger.error("backtest %d of %s failed: %s", backtest.id, project.name, error)
            reason = _hide_adapter_names(hide_folders(str(error)))
            self._store.backtests.end_backtest(backtest, ExecutionState.FAILED, reason)
        except Exception:
            logger.exception("backtest %d of %s failed", backtest.id, project.name)
            self._store.backtests.end_backtest(backtest, ExecutionState.FAILED, INTERNAL_REASON)
        finally:
            self._progress = None
        return True

    def _run_backtest(self, project: Project, backtest: Backtest) -> None:
        engine = self._engine
        assert engine is not None
        if project.base_sha256 != engine.checkpoint.sha256:
            raise BacktestNotPossibleError(
                str(BaseMismatchError(project.name, project.base_sha256, engine.checkpoint.sha256))
            )
        task = self._store.models.get_model(project, backtest.challenger_id).task
        corrections = self._store.corrections.list_current(project)
        dataset = build_dataset(project, corrections, self._files.get_image_store(project))
        holdout = ValidationSet(dataset.holdout, dataset.classes, [task])
        if not any(holdout.samples):
            raise BacktestNotPossibleError(f"no holdout image has labels to evaluate {task}")
        progress = self._progress = BacktestProgress(backtest.id, 2 * len(dataset.holdout))

        def count_corrections(ensemble: Ensemble) -> list[CorrectionCounts]:
            held = self._wrap_engine(engine, ensemble, project)
            return holdout.count_corrections(held, on_image=progress.count)

        with self._load_ensemble(engine, project, backtest.champion_id) as ensemble:
            champion = count_corrections(ensemble)
        with self._load_ensemble(engine, project, backtest.challenger_id) as ensemble:
            challenger = count_corrections(ensemble)
            try:
                result = bootstrap.compare_corrections(champion, challenger)
            except ValueError as error:
                raise BacktestNotPossibleError(f"{error}: correct more images") from error
            forgetting = self._measure_forgetting(engine, project, backtest, ensemble)
        comparison = PairedComparison(result.champion, result.challenger, result.low, result.high, result.better)
        counts = [
            ImageCounts(image.name, astuple(a), astuple(b))
            for image, a, b in zip(dataset.holdout, champion, challenger, strict=True)
        ]
        self._store.backtests.end_backtest(
            backtest, ExecutionState.DONE, dataset_hash=hash_images(dataset.holdout), image_counts=counts,
            comparison=comparison, forgetting=forgetting,
        )  # fmt: skip
        logger.info("backtest %d of %s: %s", backtest.id, project.name, comparison)

    def _measure_forgetting(
        self, engine: Engine, project: Project, backtest: Backtest, ensemble: Ensemble
    ) -> dict[str, Any]:
        """Returns what the challenger, which is loaded, has forgotten of the base model's own domain, or the `reason`
        why this cannot be measured; nothing if it was not requested.

        For several adapters, it is the mean: they do not answer together on all tasks that are measured here.
        """
        max_images = backtest.forgetting.get("forgetting_images")
        if not max_images:
            return {}
        try:
            challenger = self._store.models.get_model(project, backtest.challenger_id)
            evaluation = find_evaluation(engine, self._store, project, challenger, max_images, self._scene_evaluation)
            scenes = evaluation.description.get("scenes", 0)  # a dataset can change, the drawn scenes do not
            base = Ensemble.of_one(None)
            before = self._base_results.get(scenes) or evaluation.evaluate(self._wrap_engine(engine, base))
            if scenes:
                self._base_results[scenes] = before
            lost = [
                evaluation.compute_loss(before, evaluation.evaluate(self._wrap_engine(engine, member)))
                for member in ensemble.split()
            ]
            return {**evaluation.description, "lost": {task: fmean(each[task] for each in lost) for task in lost[0]}}
        except (EngineClosedError, DecoderClosedError, StoreUnavailableError):
            raise
        except (ForgettingNotMeasurableError, DatasetError) as error:
            return {"reason": hide_folders(f"there are no images to measure forgetting on: {error}")}
        except Exception:  # the comparison, which decides about promotion, remains valid
            logger.exception("the forgetting evaluation of backtest %d of %s failed", backtest.id, project.name)
            return {"reason": f"the forgetting evaluation failed: {INTERNAL_REASON}"}

    @contextmanager
    def _load_ensemble(self, engine: Engine, project: Project, model_id: int | None) -> Iterator[Ensemble]:
        """Loads a model (None: the base model) under its own names: the champions may change during the backtest."""
        if model_id is None:
            yield Ensemble.of_one(None)
            return
        model = self._store.models.get_model(project, model_id)
        ensemble = self._ensembles.build(project, model).with_suffix("backtest")
        with load_adapters(engine, [ensemble]):
            yield ensemble

    def _wrap_engine(self, engine: Engine, ensemble: Ensemble, project: Project | None = None) -> Engine:
        """Returns an engine that answers with an ensemble: as in `project`, held to its class list or that of the
        adapters; None: with any class."""
        declared = project.class_list if project else None
        class_list = declared or (find_adapter_class_list(engine, ensemble.members) if project else None)
        return cast(Engine, _EnsembleEngine(engine, ensemble, class_list, self._worker.closing))


@dataclass(slots=True)
class BacktestProgress:
    """How many images of a backtest have been answered, of how many."""

    backtest_id: int
    total: int
    done: int = 0

    def count(self) -> None:
        """Counts one more answered image."""
        self.done += 1


def _hide_adapter_names(reason: str) -> str:
    """Returns a reason without the names of adapters that only this process knows."""
    return re.sub(r"projects/[^/\s]+/(model|run)-(\d+)/backtest\b", r"of \1 \2", reason)


class _EnsembleEngine:
    """An engine whose requests an ensemble answers, held to a class list, with low priority. Waits while the queue is
    full."""

    def __init__(
        self, engine: Engine, ensemble: Ensemble, class_list: ClassList | None, closing: threading.Event
    ) -> None:
        self._engine, self._ensemble, self._closing = engine, ensemble, closing
        self._class_list, self._known = class_list, ensemble.list_known_classes(engine)
        self.prepare = engine.prepare
        self.config = replace(engine.config, max_waiting=max(2, engine.config.max_waiting // len(ensemble.members)))

    def submit(self, request: Request) -> AnswerHandle:
        request = replace(request, client="backtests", interactive=False)
        return self._ensemble.submit_held(self._submit_one, request, self._class_list, self._known)

    def _submit_one(self, request: Request) -> Handle:
        try:
            return self._engine.submit_blocking(request, self._closing)
        except RequestCancelledError as error:
            raise EngineClosedError("the server is stopping") from error
