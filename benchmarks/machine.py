"""What this machine can do, measured here and now, and the least time that work can take on it."""

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

SIDE = 2048  # of the matrix product
COPIED = 256 << 20  # bytes; many times what caches hold
ROUNDS = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Machine:
    """P, `operations` a second of a large matrix product; BW, `bytes` a second that a large copy reads and writes."""

    operations: float
    bytes: float


def apart(work: Callable[[], T]) -> T:
    """What `work` returns, done on a thread that then ends.

    OpenMP keeps helpers for every thread that computes, and more of them than cores slow each other down: each side of
    a comparison so has the cores for itself.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def measure(dtype: torch.dtype) -> Machine:
    """P in this type, and BW. The best of several rounds, since a floor is what nothing can beat."""
    return apart(lambda: _measure(dtype))


def _measure(dtype: torch.dtype) -> Machine:
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    multiply = min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(ROUNDS))
    copy = min(seconds(lambda: target.copy_(source)) for _ in range(ROUNDS))
    return Machine(2 * SIDE**3 / multiply, 2 * COPIED / copy)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes, by the clock on the wall."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of one call on a thread of its own, and what it returns."""

    def run() -> tuple[float, T]:
        start = time.perf_counter()
        result = work()
        return time.perf_counter() - start, result

    return apart(run)


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def description() -> str:
    """One line that says where figures come from."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    able = torch.backends.cpu.get_cpu_capability()
    return f"{processor()}, {cores} cores ({able}), torch {torch.__version__}"
