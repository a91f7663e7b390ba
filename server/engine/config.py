"""All options of the engine. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How `Engine.load` loads a model and how the engine runs it.

    `model`: `seedling`, a folder, or a hub id.
    `device`: auto, cpu, cuda, cuda:1, … A list separated by commas creates one worker per entry (`cuda:0,cuda:1`;
    `cpu,cpu` splits the cores). auto uses a GPU if there is one; on a CPU, a small model gets several workers.
    `dtype`: auto, float32, bfloat16 or float16.
    `max_batch`: requests that each worker decodes together.
    `max_waiting`: requests in the queue; more are rejected with OverloadedError.
    `feature_cache_bytes`: image features cached on each device. The default holds about 280 images of Florence-2-base
    in fp32.
    `max_adapter_bytes`: total size of the loaded adapters. The default holds about 300 adapters of Florence-2-base's
    attention layers at rank 8 in fp32.
    """

    model: str = "seedling"
    device: str = "auto"
    dtype: str = "auto"
    max_batch: int = 16
    max_waiting: int = 256
    feature_cache_bytes: int = 256 << 20
    max_adapter_bytes: int = 1 << 30
