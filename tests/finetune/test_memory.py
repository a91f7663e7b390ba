"""Freed memory is reused without page faults until it is released."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # "always [madvise] never"

WORK = """
import json, resource, sys
from pathlib import Path
import torch
from finetune import memory
if sys.argv[1] == "retained":
    memory.retain_freed_memory()
def work():
    for _ in range(10):
        torch.ones(16 << 20)  # 64 MB
def count_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])
def count_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
before = count_faults()
work()
after, retained = count_faults(), count_pages()
memory.release_freed_memory()
print(json.dumps({"faults": after - before, "released": retained - count_pages()}))  # pages
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
@pytest.mark.skipif(
    HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="page faults are of 2 MB here, not of 4 kB"
)
def test_freed_memory_is_reused_until_it_is_released() -> None:
    plain, retained = (
        json.loads(subprocess.run([sys.executable, "-c", WORK, how], capture_output=True, check=True).stdout)
        for how in ("plain", "retained")
    )
    assert plain["faults"] > 10 * 16_000  # pages of 4 kB
    assert retained["faults"] < plain["faults"] / 100
    assert retained["released"] > 16_000 > plain["released"]
