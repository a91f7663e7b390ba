"""A fine-tune in a process of its own: `python -m server.projects.fine_tune_process RUN PICTURES NICENESS`, which a server starts.

It gives way to serving: it has a lower priority by NICENESS, and computes on half of the cores. It ends with the
server, however that ends: its input is a pipe whose other end the server holds. At SIGTERM, and where the server is no
more, it keeps what it did, for which it has GRACE seconds, and goes on from there, bit for bit, when it is started
again.
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from server.projects.image_store import ImageStore

WANTED, OUTCOME, RUN = "wanted.json", "outcome.json", "run"
ADAPTER = f"{RUN}/adapter"
_PATIENCE = 60.0  # seconds
GRACE = 10.0  # seconds from SIGTERM to SIGKILL


def threads() -> int:
    """How many it computes on."""
    return max(1, (os.cpu_count() or 2) // 2)


def main(folder: Path, pictures: Path, niceness: int) -> None:
    """Does what the folder's WANTED says, in its RUN. The OUTCOME is there at the end, also of a failure that people
    can mend."""
    with suppress(OSError):
        os.nice(niceness)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_end_with_parent, args=[stop], name="parent", daemon=True).start()
    try:
        # Of a server that was killed, the child may live for a moment yet.
        with FileLock(folder / ".lock", timeout=_PATIENCE):
            outcome = _tuned(folder, pictures, stop)
    except Exception as error:
        if not _expected(error):
            raise
        outcome = {"error": str(error) or type(error).__name__}
    if outcome is None:
        sys.exit(128 + signal.SIGTERM)
    part = folder / (OUTCOME + ".part")
    part.write_text(json.dumps(outcome))
    part.replace(folder / OUTCOME)


def _tuned(folder: Path, pictures: Path, stop: threading.Event) -> dict[str, Any] | None:
    """The outcome of the fine-tune; with an `error` too where its loss came to no number, but something good is kept.
    None where it was asked to stop."""
    import torch

    from finetune.calibration import calibrate
    from finetune.evaluation.report import questions
    from finetune.tuning import replay
    from finetune.tuning.config import TuneConfig
    from finetune.tuning.loop import ASKED, Diverged, TuneError, tune
    from finetune.tuning.run_record import Source
    from server.engine.config import EngineConfig
    from server.engine.engine import Engine
    from server.projects import project_dataset
    from server.projects.image_store import ImageStore

    torch.set_num_threads(threads())
    wanted = json.loads((folder / WANTED).read_text())
    # Within the project's folder, which may have been moved since.
    start = str(folder.parents[1] / wanted["start"]) if wanted.get("start") else ""
    config = TuneConfig.model_validate({**wanted["config"], "start": start})
    data = project_dataset.read(wanted, ImageStore(pictures))
    world = replay.world(config)
    taught, choosing = data.apart(config.tasks, known(folder, ImageStore(pictures)))
    failed: dict[str, str] = {}
    try:
        found = tune(
            config, taught, folder / RUN, held=choosing, labels=data.labels, replay=world.replay if world else None,
            stop=stop.is_set, source=Source(wanted.get("dataset", ""), unusable=world.unusable if world else ()),
        )  # fmt: skip
    except Diverged as error:
        said = f"{error.where} and tune again"
        if not error.kept.best_step:
            raise TuneError(f"{said}. Before it nothing was kept that is better than its start") from error
        found = error.kept
        failed["error"] = f"{said}. What was good at step {found.best_step} is kept as a model"
    if found.stopped == ASKED:
        return None
    if choosing:
        with Engine.load(EngineConfig(config.base)) as engine:
            calibrate(engine, "tuned", found.folder, questions(choosing, config.tasks, labels=data.labels))
    return {**failed, **{k: str(v) if isinstance(v, Path) else v for k, v in asdict(found).items()}}


def known(folder: Path, pictures: "ImageStore") -> set[str]:
    """The pictures, by SHA-256, that were taught to the model that the run in a folder starts from, or to one that this
    model goes back to."""
    from server.projects import project_dataset

    wanted = json.loads((folder / WANTED).read_text())
    if not wanted.get("start"):
        return set()
    before = (folder.parents[1] / wanted["start"]).parents[1]  # the run that made it
    old = json.loads((before / WANTED).read_text())
    older = known(before, pictures)
    taught, _ = project_dataset.read(old, pictures).apart(old["config"]["tasks"], older)
    return older | {example.name for example in taught}


def _expected(error: Exception) -> bool:
    """Whether the message is for people."""
    from finetune.tuning.loop import TuneError
    from labels.dataset import DatasetError
    from server.engine.adapters.errors import AdapterError
    from server.engine.checkpoints.errors import CheckpointError

    return isinstance(error, DatasetError | TuneError | CheckpointError | AdapterError | OSError)


def _end_with_parent(stop: threading.Event) -> None:
    # Not by sys.stdin: a loader that is forked would wait for its lock for ever.
    while os.read(0, 1):
        pass
    stop.set()
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
