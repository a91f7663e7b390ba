"""A process that labels, and begins anew as often as it is told: killed children cost no start of torch.

A line of its input that is a JSON object forks a child that does the work, and is answered by the child's process id;
one that is a process id is answered by how that child ended, once it has.
"""

import json
import os
import sys
from typing import Any

import torch

from server.engine.checkpoints import loading as checkpoints
from server.engine.checkpoints.loading import Checkpoint
from server.engine.engine import Engine
from server.jobs.recipes.execution import annotate
from server.jobs.recipes.parsing import parse
from server.jobs.runner import answerer, run
from server.jobs.sources import open_source
from server.store import Store, Wanted

RECIPE = {
    "name": "cascade",
    "review_below": 0.5,
    "steps": [
        {"id": "things", "task": "<OD>", "filter": {"nms": 0.7, "duplicates": 0.9, "count": 2}},
        {"id": "names", "task": "<REGION_TO_CATEGORY>", "each": "things"},
    ],
}


def label(checkpoint: Checkpoint, url: str, pictures: str, sole: bool, lease: float) -> None:
    """The same command each time."""
    recipe = parse(RECIPE)
    with Store(url) as store, Engine(checkpoint, max_batch=4) as engine, open_source(pictures) as source:
        wanted = Wanted("out", recipe.model_dump_json(), recipe.hash, pictures, source.fingerprint, answerer(engine))
        job = store.begin(wanted, source.names)
        run(store, job, engine, source, lambda size: annotate(recipe, size), sole=sole, lease=lease)


def main() -> None:
    torch.set_num_threads(1)
    checkpoint = checkpoints.load(checkpoints.SEEDLING, device=torch.device("cpu"), dtype=torch.float32)
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
