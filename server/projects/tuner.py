"""Fine-tunes, one at a time, each in a process of its own that gives way to serving (`server.projects.fine_tune_process`)."""

import hashlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.engine.adapters import lora
from server.engine.engine import Engine
from server.projects import fine_tune_process
from server.projects.queue_worker import QueueWorker
from server.store import StoreAway
from server.store.projects.records import BaseMismatchError, Project, Run, RunState
from server.store.projects.registry import Registry

LOG = "process.log"
NICENESS = 19  # the lowest priority: it gets what serving leaves
_LOOK = 0.2  # seconds between two looks at the process
_TAIL = 300  # characters of what a process said before it died
logger = logging.getLogger(__name__)


class Tuner:
    """Works on the runs of a registry, in the order in which they came. `folder`: where the projects' folders are."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry, self.folder = registry, folder
        self.worker = QueueWorker("runs", self._work)
        self._engine: Engine | None = None
        self._current: int | None = None
        self._drop = threading.Event()  # the run under way
        self._dropped = threading.Condition()

    def start(self, engine: Engine) -> None:
        """Begins to work, with what another process left undone."""
        self._engine = engine
        self.worker.start()

    def close(self) -> None:
        """Stops; the run under way is gone on with after the next start."""
        self.worker.close()

    def drop(self, run: Run) -> None:
        """Ends the process of a run that was cancelled, and returns when it is no more."""
        with self._dropped:
            if self._current == run.id:
                self._drop.set()
                self._dropped.wait_for(lambda: self._current != run.id, timeout=30)

    def of(self, project: Project, run: Run) -> Path:
        """The run's folder."""
        return self.folder / project.folder / run.folder

    def progress(self, project: Project, run: Run) -> dict[str, Any] | None:
        """The newest line of the run's log: its step, its losses, the held-out metric; None before there is one."""
        from finetune.tuning.run_record import read_log

        try:
            lines = read_log(self.of(project, run) / fine_tune_process.RUN)
        except (OSError, ValueError):  # it is being written, or gone
            return None
        return {key: _number(value) for key, value in lines[-1].items()} if lines else None

    # In the thread

    def _work(self) -> bool:
        if (found := self.registry.next_run()) is None:
            return False
        project, run = found
        with self._dropped:
            self._current, self._drop = run.id, threading.Event()
        try:
            self._run(project, run)
        except StoreAway:
            raise
        except Exception as error:
            logger.exception("run %d of %s failed", run.id, project.name)
            self._fail(run, f"the server failed: {error}")
        finally:
            with self._dropped:
                self._current = None
                self._dropped.notify_all()
        return True

    def _run(self, project: Project, run: Run) -> None:
        assert self._engine is not None
        if project.base != (served := self._engine.checkpoint.sha256):
            self._fail(run, str(BaseMismatchError(project.name, project.base, served)))
            return
        if not self.registry.turn_run(run, RunState.RUNNING, (RunState.QUEUED, RunState.RUNNING)):
            return  # cancelled meanwhile
        folder = self.of(project, run)
        (folder / fine_tune_process.OUTCOME).unlink(missing_ok=True)
        logger.info("run %d of %s: %d pictures taught, %d held out", run.id, project.name, run.taught, run.held)
        code = self._watched(folder, folder.parents[1] / "pictures")
        if code is None:
            return
        outcome = _outcome(folder, code)
        if reason := outcome.get("error", ""):
            logger.error("run %d of %s failed: %s", run.id, project.name, reason)
        if "folder" not in outcome:
            self._fail(run, reason)
            return
        metrics = {
            key: _number(outcome[key]) for key in ("before", "best", "best_step", "steps", "seconds", "stopped")
        }  # fmt: skip
        with (folder / fine_tune_process.ADAPTER / lora.WEIGHTS[0]).open("rb") as weights:
            sha256 = hashlib.file_digest(weights, "sha256").hexdigest()
        if self.registry.finish(project, run, metrics, sha256, run.config["tasks"], reason):
            logger.info("run %d of %s made models: %s", run.id, project.name, metrics)
        # Twice the weights, for going on; only now, since where that could not be written the run is gone on with.
        (folder / fine_tune_process.RUN / "state.pt").unlink(missing_ok=True)

    def _watched(self, folder: Path, pictures: Path) -> int | None:
        """The exit code of the run's process; None where it was ended."""
        assert self._engine is not None
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(fine_tune_process.threads()),
            "TOKENIZERS_PARALLELISM": "false",
        }
        if self._engine.device.type == "cpu":
            environment["ACCELERATE_USE_CPU"] = "true"
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "server.projects.fine_tune_process", str(folder), str(pictures), str(NICENESS)],
                # Its own session: the signals of a terminal are the server's, which ends it.
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        try:
            while not (self.worker.closing.is_set() or self._drop.is_set()):
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_LOOK)
            if not self._drop.is_set():  # what it did is kept for the next start
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(fine_tune_process.GRACE)
            return None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # its loader of pictures too
            process.wait()
            if process.stdin:
                process.stdin.close()

    def _fail(self, run: Run, reason: str) -> None:
        self.registry.turn_run(run, RunState.FAILED, (RunState.QUEUED, RunState.RUNNING), reason)


def prepare(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Makes a run's folder. Raises OSError, and then nothing is left."""
    folder.mkdir(parents=True)
    try:
        (folder / fine_tune_process.WANTED).write_text(json.dumps(wanted))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _outcome(folder: Path, code: int) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / fine_tune_process.OUTCOME).read_text()))
    said = (folder / LOG).read_text(errors="replace").strip()
    died = f"by signal {-code}" if code < 0 else f"with code {code}"
    memory = "; perhaps there was too little memory: teach fewer pictures a step" if code == -signal.SIGKILL else ""
    return {"error": f"its process ended {died}{memory}. It said last: …{said[-_TAIL:]}"}


def _number(value: Any) -> Any:
    """JSON has no nan."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
