"""A fine-tune run in a process of its own, which a server starts (`server.projects.tuner`).

Serving comes first: the process has a lower priority and computes on half of the cores. It ends with the server,
however that ends: its standard input is a pipe that the server holds open. On SIGTERM, and if the server is gone, it
saves its state within GRACE_SECONDS. When it is started again, it continues exactly where it stopped.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from server.projects.project_files import RunFolder

if TYPE_CHECKING:  # torch
    from finetune.tuning.replay import ReplaySource

FindReplay = Callable[[str], "ReplaySource | None"]
"""Base model → what it replays if the settings name no dataset; None: nothing."""
"""Base model → the classes that it was trained on; None: not known."""

GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL
_LOCK_SECONDS = 60.0


def count_threads() -> int:
    """Returns the number of threads that a run computes with."""
    return max(1, (os.cpu_count() or 2) // 2)


def run_process(folder: RunFolder, niceness: int, find_replay: FindReplay) -> None:
    """Runs what the folder's request describes, and writes the outcome, also for an error that a person can fix.

    `niceness` is added to the priority of the process.
    """
    with suppress(OSError):
        os.nice(niceness)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_stop_with_server, args=[stop], name="server-watch", daemon=True).start()
    try:
        # The process of a server that was killed may still be running for a moment.
        with FileLock(folder.lock, timeout=_LOCK_SECONDS):
            outcome = _fine_tune(folder, stop, find_replay)
    except Exception as error:
        if not _is_user_error(error):
            raise
        outcome = {"error": _describe_error(error)}
    if outcome is None:
        sys.exit(128 + signal.SIGTERM)
    part = folder.outcome.with_suffix(".part")
    part.write_text(json.dumps(outcome))
    part.replace(folder.outcome)


def _fine_tune(folder: RunFolder, stop: threading.Event, find_replay: FindReplay) -> dict[str, Any] | None:
    """Returns the outcome of the run; None if it was stopped.

    A run that diverged after a good checkpoint has an outcome with an `error`.
    """
    import torch

    from finetune.calibration import calibrate_adapter
    from finetune.evaluation.report import make_evaluation_samples
    from finetune.tuning.best_checkpoint import BestCheckpoint
    from finetune.tuning.config import TuneConfig
    from finetune.tuning.loop import STOP_REQUESTED, tune
    from finetune.tuning.replay import load_replay
    from finetune.tuning.result import DivergenceError, TuneError
    from finetune.tuning.run_record import RunSource, TuneData
    from server.engine.config import EngineConfig
    from server.engine.engine import Engine
    from server.projects import project_dataset

    torch.set_num_threads(count_threads())
    request = folder.read_request()
    initial_adapter = request["initial_adapter"]
    start_adapter = str(folder.project / initial_adapter) if initial_adapter else ""
    # Runs that older versions queued were to judge any class.
    config = TuneConfig.model_validate({"any_class": True, **request["config"], "start_adapter": start_adapter})
    dataset = project_dataset.from_json(request, folder.images)
    replay = load_replay(config, find_replay(config.base))
    train, validation = dataset.split_validation(config.tasks, find_trained_images(folder))
    source = RunSource(request["dataset"], unusable=replay.unusable if replay else ())
    data = TuneData(train, validation, dataset.classes, replay.source if replay else None, source)
    failure: dict[str, str] = {}
    try:
        result = tune(config, data, folder.training, should_stop=stop.is_set)
    except DivergenceError as error:
        message = f"{error.cause} and fine-tune again"
        if not error.result.best_step or (error.result.gain and not error.result.gain.gained):
            raise TuneError(f"{message}. No step before it was better than the initial model") from error
        result = error.result
        failure["error"] = f"{message}. The best step before it, {result.best_step}, is saved as a model"
    if result.stopped == STOP_REQUESTED:
        return None
    if result.gain and not result.gain.gained and not request.get("keep"):
        BestCheckpoint(result.folder).delete()
        validation = ()
    if validation:
        with Engine.load(EngineConfig(config.base)) as engine:
            samples = make_evaluation_samples(validation, config.tasks, classes=dataset.classes)
            calibrate_adapter(engine, "tuned", result.folder, samples)
    values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()}
    return {**failure, **values}


def find_trained_images(folder: RunFolder) -> set[str]:
    """Returns the SHA-256 of all images that the initial model of a run, or one of its own initial models, was trained
    on."""
    from server.projects import project_dataset

    initial_adapter = folder.read_request()["initial_adapter"]
    if not initial_adapter:
        return set()
    previous = RunFolder((folder.project / initial_adapter).parents[1])  # the run that trained it
    request, trained_before = previous.read_request(), find_trained_images(previous)
    dataset = project_dataset.from_json(request, folder.images)
    train, _ = dataset.split_validation(request["config"]["tasks"], trained_before)
    return trained_before | {image.name for image in train}


def _is_user_error(error: Exception) -> bool:
    """Returns whether a person can fix the cause. The message then says how."""
    from finetune.tuning.result import TuneError
    from labels.dataset import DatasetError
    from server.engine.adapters.errors import AdapterError
    from server.engine.checkpoints.errors import CheckpointError

    return isinstance(error, DatasetError | TuneError | CheckpointError | AdapterError | OSError)


def _describe_error(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _stop_with_server(stop: threading.Event) -> None:
    # Not through sys.stdin: a forked data loader would wait for its lock forever.
    while os.read(0, 1):
        pass
    stop.set()
    time.sleep(GRACE_SECONDS)
    os._exit(1)
