"""What a step frees, the next one takes up without asking the system."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from finetune import memory
if sys.argv[1] == "kept":
    memory.keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(10):
        torch.ones(16 << 20)  # 64 MB
work()
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_taken_up_again() -> None:
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("plain", "kept")
    )
    assert plain > 10 * 16_000  # pages of 4 kB
    assert kept < plain / 100
