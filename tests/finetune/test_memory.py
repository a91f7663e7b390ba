"""What a step frees, the next one takes up without asking the system; and it can all be given back."""

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
if sys.argv[1] == "kept":
    memory.keep()
def work():
    for _ in range(10):
        torch.ones(16 << 20)  # 64 MB
def held():
    return int(Path("/proc/self/statm").read_text().split()[1])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
before = faults()
work()
after, kept = faults(), held()
memory.give_back()
print(json.dumps({"faults": after - before, "given back": kept - held()}))  # pages
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.skipif(
    HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="a fault is of 2 MB here, not of 4 kB"
)
def test_freed_memory_is_taken_up_again_until_it_is_given_back() -> None:
    plain, kept = (
        json.loads(subprocess.run([sys.executable, "-c", WORK, how], capture_output=True, check=True).stdout)
        for how in ("plain", "kept")
    )
    assert plain["faults"] > 10 * 16_000  # pages of 4 kB
    assert kept["faults"] < plain["faults"] / 100
    assert kept["given back"] > 16_000 > plain["given back"]
