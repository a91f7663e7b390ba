"""Executes fine-tune runs, one at a time, each in a process of its own (`server.projects.fine_tune_process`)."""

import hashlib
import json
import logging
import math
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from finetune.tuning.gain import format_metric
from finetune.tuning.run_record import RECORD_FILE
from finetune.tuning.run_state import STATE_FILE
from finetune.tuning.training_log import read_last_line
from server.engine.adapters.lora import WEIGHT_FILES
from server.engine.engine import Engine
from server.projects.errors import INTERNAL_REASON, BaseMismatchError, TrainingNotInstalledError
from server.projects.fine_tune_process import GRACE_SECONDS, count_threads
from server.projects.project_files import ProjectFiles, RunFolder
from server.projects.queue_worker import QueueWorker
from server.projects.training_packages import check_training
from server.store import StoreUnavailableError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import OPEN_STATES, ExecutionState, Project, Run
from server.store.text import hide_folders

NICENESS = 19  # the lowest priority: the process gets the time that serving leaves
_POLL_SECONDS = 0.2  # interval between two checks of the process
_CANCEL_SECONDS = 30.0  # how long `stop_run` waits
_OUTPUT_TAIL = 3000  # characters of the output of a crashed process that are logged
_METRICS = (
    "before", "best", "best_step", "steps", "seconds", "validation_seconds", "stopped", "left_out", "left_out_examples",
)  # fmt: skip
logger = logging.getLogger(__name__)


class Tuner:
    """Works on the queued runs of a store, oldest first.

    `command` starts the process of a run. The run's folder and the niceness are appended to it.
    """

    def __init__(self, store: ProjectStore, files: ProjectFiles, command: Sequence[str]) -> None:
        self._store, self._files, self._command = store, files, list(command)
        self._worker = QueueWorker("runs", self._work_once)
        self._engine: Engine | None = None
        self._current: int | None = None  # id of the run that is executed
        self._stop_current = threading.Event()
        self._current_changed = threading.Condition()

    def start(self, engine: Engine) -> None:
        """Starts to work, first on the run that was running when the server stopped."""
        self._engine = engine
        self._worker.start()

    def wake(self) -> None:
        """Tells the worker that a run was queued."""
        self._worker.wake()

    def close(self) -> None:
        """Stops. A running run continues after the next start."""
        self._worker.close()

    def stop_run(self, run: Run) -> None:
        """Ends the process of a cancelled run and waits for its end."""
        with self._current_changed:
            if self._current == run.id:
                self._stop_current.set()
                self._current_changed.wait_for(lambda: self._current != run.id, timeout=_CANCEL_SECONDS)

    def read_progress(self, project: Project, run: Run) -> dict[str, Any] | None:
        """Returns the newest line of a run's log: its step, losses and validation metric; None if there is none yet."""
        try:
            line = read_last_line(self._files.get_run_folder(project, run).training)
        except OSError:  # it was deleted
            return None
        return {key: _to_json_number(value) for key, value in line.items()} if line else None

    def read_classes(self, project: Project, run: Run) -> list[dict[str, Any]]:
        """Returns what a run knows of its classes (`ClassFacts`); empty before it has read its images."""
        try:
            record = json.loads((self._files.get_run_folder(project, run).training / RECORD_FILE).read_text())
        except (OSError, ValueError):  # it was deleted
            return []
        return list(record.get("classes", []))  # runs of older versions have none

    # In the worker's thread

    def _work_once(self) -> bool:
        if (found := self._store.find_open_run()) is None:
            return False
        project, run = found
        with self._current_changed:
            self._current, self._stop_current = run.id, threading.Event()
        try:
            self._execute(project, run)
        except StoreUnavailableError:
            raise
        except Exception:
            logger.exception("run %d of %s failed", run.id, project.name)
            self._fail(run, INTERNAL_REASON)
        finally:
            with self._current_changed:
                self._current = None
                self._current_changed.notify_all()
        return True

    def _execute(self, project: Project, run: Run) -> None:
        assert self._engine is not None
        if project.base_sha256 != (served := self._engine.checkpoint.sha256):
            self._fail(run, str(BaseMismatchError(project.name, project.base_sha256, served)))
            return
        try:
            check_training()  # it was queued by a server that had the packages
        except TrainingNotInstalledError as error:
            self._fail(run, str(error))
            return
        if not self._store.runs.change_state(run, ExecutionState.RUNNING, OPEN_STATES):
            return  # cancelled in the meantime
        folder = self._files.get_run_folder(project, run)
        folder.outcome.unlink(missing_ok=True)
        logger.info(
            "run %d of %s: %d training images, %d holdout images", run.id, project.name, run.train_images,
            run.holdout_images,
        )  # fmt: skip
        if (code := self._run_process(folder)) is None:
            return
        outcome = _read_outcome(folder, code)
        if reason := outcome.get("error", ""):
            logger.error("run %d of %s failed: %s", run.id, project.name, outcome.get("output", reason))
            reason = hide_folders(reason, keep=run.config.get("replay_dataset", ""))
        if "folder" not in outcome:
            self._fail(run, reason)
            return
        metrics = {key: _to_json_number(outcome[key]) for key in _METRICS}
        if gain := outcome.get("gain"):
            metrics["gain"] = {key: _to_json_number(gain[key]) for key in ("value", "confidence", "gained")}
        state, tasks, sha256 = None, run.config["tasks"], ""
        if gain and not gain["gained"]:
            state, reason = ExecutionState.NO_GAIN, describe_no_gain(gain, metrics)
        if folder.adapter.exists():
            with (folder.adapter / WEIGHT_FILES[0]).open("rb") as weights:
                sha256 = hashlib.file_digest(weights, "sha256").hexdigest()
        else:
            tasks = ()
        if self._store.runs.finish_run(project, run, metrics, sha256, tasks, reason, state):
            made = f"made {len(tasks)} models" if tasks else "gained nothing and made no model"
            logger.info("run %d of %s %s: %s", run.id, project.name, made, metrics)
        # The state is twice as large as the weights. It is needed until the result is stored.
        (folder.training / STATE_FILE).unlink(missing_ok=True)

    def _run_process(self, folder: RunFolder) -> int | None:
        """Returns the exit code of the run's process; None if it was stopped."""
        assert self._engine is not None
        environment = {**os.environ, "OMP_NUM_THREADS": str(count_threads()), "TOKENIZERS_PARALLELISM": "false"}
        if self._engine.device.type == "cpu":
            environment["ACCELERATE_USE_CPU"] = "true"
        with folder.log.open("ab") as log:
            process = subprocess.Popen(
                [*self._command, str(folder.path), str(NICENESS)],
                # Its own session: a terminal's signals go to the server, which then stops the process.
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        try:
            while not (self._worker.closing.is_set() or self._stop_current.is_set()):
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_POLL_SECONDS)
            if not self._stop_current.is_set():  # let it save its state for the next start
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_SECONDS)
            return None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # with its data loader
            process.wait()
            if process.stdin:
                process.stdin.close()

    def _fail(self, run: Run, reason: str) -> None:
        self._store.runs.change_state(run, ExecutionState.FAILED, OPEN_STATES, reason)


def describe_no_gain(gain: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Returns the reason of a run without a gain, with what to try."""
    numbers = (
        f"{format_metric(metrics['before'])} before, {format_metric(metrics['best'])} at step {metrics['best_step']}"
    )
    doubt = ""
    if gain["value"] > 0 and gain["confidence"] is not None:
        doubt = f" (only {100 * gain['confidence']:.0f} % sure that this is no luck)"
    return f"no gain on the validation images: {numbers}{doubt}. What to try: {'; '.join(gain['advice'])}"


def _read_outcome(folder: RunFolder, code: int) -> dict[str, Any]:
    """Returns the outcome of a process; if it crashed, an error and the end of its output."""
    with suppress(OSError, ValueError):
        return dict(json.loads(folder.outcome.read_text()))
    output = folder.log.read_text(errors="replace").strip()
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    out_of_memory = "; it may be out of memory: use fewer images per step" if code == -signal.SIGKILL else ""
    reason = f"the process crashed ({ended}){out_of_memory}; the server's log contains its last output"
    return {"error": reason, "output": f"the process crashed ({ended}). Its last output: …{output[-_OUTPUT_TAIL:]}"}


def _to_json_number(value: Any) -> Any:
    """Replaces NaN and Inf, which JSON does not have, by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
