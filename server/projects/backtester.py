"""Backtests, one at a time: champion and challenger answer the same held-out pictures, on the engine that serves."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from finetune.evaluation import bootstrap
from finetune.tuning.run_record import fingerprint
from finetune.tuning.validation import Judge
from labels.dataset import DatasetError
from server.engine.adapters.registry import AdapterError
from server.engine.engine import Engine
from server.engine.errors import EngineClosedError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.request import Request
from server.projects import project_dataset
from server.projects.ensemble_handle import EnsembleHandle
from server.projects.ensembles import Ensemble, EnsembleBuilder, alone, loaded
from server.projects.forgetting import ForgettingNotMeasurableError, probe_for
from server.projects.image_store import ImageStore
from server.projects.queue_worker import QueueWorker
from server.store import StoreAway
from server.store.projects.records import Backtest, BacktestImage, BacktestResult, BaseMismatchError, Project, RunState
from server.store.projects.registry import Registry

logger = logging.getLogger(__name__)


class BacktestNotPossibleError(Exception):  # noqa: N818
    """A backtest that cannot be made; the message says what is missing."""


class Backtester:
    """Works on the backtests of a registry, in the order in which they came. Its prompts give way to interactive
    ones. `folder`: where the projects' folders are."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry, self.folder, self._panels = registry, folder, EnsembleBuilder(registry, folder)
        self.worker = QueueWorker("backtests", self._work)
        self._engine: Engine | None = None
        self._known: dict[int, dict[str, float]] = {}  # scenes → what the base knows of so many

    def start(self, engine: Engine) -> None:
        """Begins to work, with what another process left undone."""
        self._engine = engine
        self.worker.start()

    def close(self) -> None:
        """Stops; the backtest under way is made after the next start."""
        self.worker.close()

    def _work(self) -> bool:
        if (found := self.registry.next_backtest()) is None:
            return False
        project, test = found
        try:
            self._test(project, test)
        except (EngineClosedError, StoreAway):
            raise
        except (BacktestNotPossibleError, AdapterError, OSError) as error:
            logger.error("backtest %d of %s failed: %s", test.id, project.name, error)
            self.registry.end_backtest(test, RunState.FAILED, str(error))
        except Exception as error:
            logger.exception("backtest %d of %s failed", test.id, project.name)
            self.registry.end_backtest(test, RunState.FAILED, f"the server failed: {error}")
        return True

    def _test(self, project: Project, test: Backtest) -> None:
        engine = self._engine
        assert engine is not None
        if project.base != engine.checkpoint.sha256:
            raise BacktestNotPossibleError(str(BaseMismatchError(project.name, project.base, engine.checkpoint.sha256)))
        task = self.registry.model(project, test.challenger).task
        known = project_dataset.of(
            project, self.registry.projects.newest(project), ImageStore(self.folder / project.folder / "pictures")
        )
        judge = Judge(known.held, known.labels, [task])
        if not any(judge.questions):
            raise BacktestNotPossibleError(
                f"no held-out picture has labels that tell how good the answers to {task} are"
            )
        with self._seated(engine, project, test.champion) as panel:
            champion = judge.tallies(self._patient(engine, panel))
        with self._seated(engine, project, test.challenger) as panel:
            challenger = judge.tallies(self._patient(engine, panel))
            try:
                found = bootstrap.corrections(champion, challenger)
            except ValueError as error:
                raise BacktestNotPossibleError(f"{error}: correct more pictures") from error
            forgetting = self._forgotten(engine, project, test, panel)
        figures = BacktestResult(found.champion, found.challenger, found.low, found.high, found.better)
        seen = [
            BacktestImage(example.name, astuple(a), astuple(b))
            for example, a, b in zip(known.held, champion, challenger, strict=True)
        ]
        self.registry.end_backtest(
            test, RunState.DONE, data=fingerprint(known.held), tallies=seen, figures=figures, forgetting=forgetting
        )
        logger.info("backtest %d of %s: %s", test.id, project.name, figures)

    def _forgotten(self, engine: Engine, project: Project, test: Backtest, panel: Ensemble) -> dict[str, Any]:
        """What the challenger, a panel that is loaded, has lost of what the base knows of its own world, or the
        `reason` why nothing tells it; nothing where it was not asked for. Of several adapters the mean, for all that is
        asked here no two of them answer together."""
        most = test.forgetting.get("probe") or test.forgetting.get("scenes")  # as it was called before
        if not most:
            return {}
        try:
            probe = probe_for(engine, self.registry, project, self.registry.model(project, test.challenger), most)
            scenes = probe.about.get("scenes", 0)  # a dataset may change, the seedling's scenes do not
            known = self._known.get(scenes) or probe.ask(self._patient(engine, alone(None)), None)
            if scenes:
                self._known[scenes] = known
            lost = [probe.lost(known, probe.ask(self._patient(engine, one), None)) for one in panel.apart()]
            return {**probe.about, "lost": {task: fmean(each[task] for each in lost) for task in lost[0]}}
        except (EngineClosedError, StoreAway):
            raise
        except (ForgettingNotMeasurableError, DatasetError) as error:
            return {"reason": f"there is nothing to probe by: {error}"}
        except Exception as error:  # the figures by which the model is promoted stay all the same
            logger.exception("backtest %d of %s: what was forgotten cannot be told", test.id, project.name)
            return {"reason": f"the probe failed: {error}"}

    @contextmanager
    def _seated(self, engine: Engine, project: Project, number: int | None) -> Iterator[Ensemble]:
        """Who answers for a model (None: the base alone), loaded by names of their own: the champions may change
        meanwhile."""
        if number is None:
            yield alone(None)
            return
        found = self._panels.of(project, self.registry.model(project, number))
        panel = found.renamed("backtest")
        with loaded(engine, [panel]):
            yield panel

    def _patient(self, engine: Engine, panel: Ensemble) -> Engine:
        return cast(Engine, _Patient(engine, panel, self.worker.closing))


class _Patient:
    """The engine as a judge sees it: whatever it is asked, a panel answers. It gives way to interactive prompts, and
    waits where too many wait already."""

    def __init__(self, engine: Engine, panel: Ensemble, closing: threading.Event) -> None:
        self._engine, self._panel, self._closing = engine, panel, closing
        self.prepare = engine.prepare
        self.max_waiting = max(2, engine.max_waiting // len(panel.members))

    def submit(self, request: Request) -> Handle | EnsembleHandle:
        return self._panel.ask(self._submit, replace(request, client="backtests", interactive=False))

    def _submit(self, request: Request) -> Handle:
        try:
            return self._engine.submit_when_room(request, self._closing)
        except RequestCancelledError as error:
            raise EngineClosedError("the server stops") from error
