"""transformers behind LitServe, as in its documentation: waiting requests are answered as one batch.

`python -m benchmarks.litserve_server WORKERS PORT`. Workers share the cores. `benchmarks.http_saturation` starts it.
"""

import io
import os
import sys
from typing import Any

import litserve
import torch
from PIL import Image

from benchmarks.transformers_baseline import TransformersBaseline
from prompts.tasks import TASKS
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.request import Request

MAX_BATCH = 16
WORKERS = int(sys.argv[1]) if len(sys.argv) == 3 else 1
BATCH_TIMEOUT = 0.01  # seconds


class FlorenceAPI(litserve.LitAPI):
    """Maps a form with an image and a task to tokens."""

    def setup(self, device: str) -> None:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // WORKERS))
        self.baseline = TransformersBaseline(load_checkpoint(SEEDLING), torch.float32)
        self.baseline.select_attention([Image.new("RGB", (320, 240))])

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe takes an annotation for a schema
        region = request.get("region")
        return Request(
            Image.open(io.BytesIO(request["image"].file.read())).convert("RGB"),
            TASKS[request["task"]],
            request.get("text"),
            [float(v) for v in region.split(",")] if region else None,
            max_new_tokens=int(request["max_new_tokens"]),
            num_beams=int(request["num_beams"]),
        )

    def predict(self, requests: list[Request]) -> list[list[int]]:
        return self.baseline.generate(requests)

    def encode_response(self, tokens: list[int]) -> dict[str, Any]:
        return {"tokens": tokens}


if __name__ == "__main__":
    server = litserve.LitServer(
        FlorenceAPI(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT),
        accelerator="cpu",
        workers_per_device=WORKERS,
    )
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="error")
