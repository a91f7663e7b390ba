"""Measures what this machine can do, and runs the systems of a comparison without interference."""

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

MATRIX_SIDE = 2048
COPY_BYTES = 256 << 20  # many times the size of the caches
ROUNDS = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """P, the `operations` per second of a large matrix product, and BW, the `bytes` per second of a large copy."""

    operations: float
    bytes: float


def run_in_thread(work: Callable[[], T]) -> T:
    """Calls `work` in a new thread that ends afterwards, and returns its result.

    OpenMP keeps helper threads for every thread that computes, and more of them than cores slow each other down. This
    way each system of a comparison has the cores for itself.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def measure_machine(dtype: torch.dtype) -> MachineSpeed:
    """Measures P in this type, and BW. Takes the best of several rounds, since a roofline must not be exceeded."""
    return run_in_thread(lambda: _measure_machine(dtype))


def _measure_machine(dtype: torch.dtype) -> MachineSpeed:
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.ones(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    multiply = min(measure_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(ROUNDS))
    copy = min(measure_seconds(lambda: target.copy_(source)) for _ in range(ROUNDS))
    return MachineSpeed(2 * MATRIX_SIDE**3 / multiply, 2 * COPY_BYTES / copy)


def measure_seconds(work: Callable[[], object]) -> float:
    """Returns the wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_cpu_seconds(work: Callable[[], object]) -> float:
    """Returns the CPU seconds of this process, over all threads, during one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def time_call(work: Callable[[], T]) -> tuple[float, T]:
    """Returns the wall-clock seconds of one call in its own thread, and its result."""

    def run() -> tuple[float, T]:
        start = time.perf_counter()
        result = work()
        return time.perf_counter() - start, result

    return run_in_thread(run)


def describe_machine() -> str:
    """Returns one line with the processor, the number of cores and the version of torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{_processor_name()}, {cores} cores ({instructions}), torch {torch.__version__}"


def _processor_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
