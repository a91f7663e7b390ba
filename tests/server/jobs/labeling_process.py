"""A process that forks children that label, so that a killed child does not cost another import of torch.

For a line of input with a JSON object, it forks a child that works on the job, and prints the child's process ID. For a
line with a process ID, it waits for that child, and prints its exit code.
"""

import json
import os
import sys
from typing import Any

import torch

from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.jobs.model_hash import compute_model_hash
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.store import JobSpec
from server.store.jobs.job_store import JobStore

RECIPE = {
    "name": "cascade",
    "review_below": 0.5,
    "steps": [
        {"id": "things", "task": "<OD>", "filter": {"nms": 0.7, "class_agnostic_nms": 0.9, "max_count": 2}},
        {"id": "names", "task": "<REGION_TO_CATEGORY>", "for_each": "things"},
    ],
}


def label(checkpoint: Checkpoint, url: str, address: str, exclusive: bool, lease_seconds: float) -> None:
    """Starts the job, continues it, or extends it with what is new in the source."""
    recipe = validate_recipe(RECIPE)
    with (
        JobStore(url) as store,
        Engine(checkpoint, EngineConfig(max_batch=4)) as engine,
        open_source(address) as source,
    ):
        spec = JobSpec(
            "out", recipe.model_dump_json(), recipe.hash, address, source.fingerprint, compute_model_hash(engine)
        )
        job = store.find_job("out") or store.get_or_create_job(spec, source.names)
        job, _ = store.update_job(job, spec, source)
        run_job(
            store,
            job,
            engine,
            source,
            lambda size: execute_recipe(recipe, size),
            exclusive=exclusive,
            lease_seconds=lease_seconds,
        )


def main() -> None:
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(SEEDLING, device=torch.device("cpu"), dtype=torch.float32)
    for line in sys.stdin:
        request: dict[str, Any] | int = json.loads(line)
        if isinstance(request, int):
            print(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]), flush=True)
            continue
        child = os.fork()
        if child == 0:
            code = 1
            try:
                label(checkpoint, **request)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)


if __name__ == "__main__":
    main()
