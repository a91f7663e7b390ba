"""A process that labels, and begins anew as often as it is told: killed children cost no start of torch.

A line of its input that is a JSON object forks a child that does the work, and is answered by the child's process id;
one that is a process id is answered by how that child ended, once it has.
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
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.runner import compute_model_hash, run_job
from server.jobs.sources import open_source
from server.store import JobSpec, JobStore

RECIPE = {
    "name": "cascade",
    "review_below": 0.5,
    "steps": [
        {"id": "things", "task": "<OD>", "filter": {"nms": 0.7, "class_agnostic_nms": 0.9, "max_count": 2}},
        {"id": "names", "task": "<REGION_TO_CATEGORY>", "for_each": "things"},
    ],
}


def label(checkpoint: Checkpoint, url: str, pictures: str, sole: bool, lease: float) -> None:
    """The same command each time."""
    recipe = validate_recipe(RECIPE)
    with (
        JobStore(url) as store,
        Engine(checkpoint, EngineConfig(max_batch=4)) as engine,
        open_source(pictures) as source,
    ):
        wanted = JobSpec(
            "out", recipe.model_dump_json(), recipe.hash, pictures, source.fingerprint, compute_model_hash(engine)
        )
        job = store.get_or_create_job(wanted, source.names)
        run_job(
            store, job, engine, source, lambda size: execute_recipe(recipe, size), exclusive=sole, lease_seconds=lease
        )


def main() -> None:
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(SEEDLING, device=torch.device("cpu"), dtype=torch.float32)
    for line in sys.stdin:
        order: dict[str, Any] | int = json.loads(line)
        if isinstance(order, int):
            print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)
            continue
        child = os.fork()
        if child == 0:
            code = 1
            try:
                label(checkpoint, **order)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)


if __name__ == "__main__":
    main()
