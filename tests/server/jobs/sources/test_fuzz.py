"""Broken and hostile sources of all kinds, in a process with limits: no crash, no hang, no other error."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


def fuzz(seed: int, count: int, folder: Path, timeout: float) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fuzz_sources.py")), str(seed), str(count), str(folder)]
    ended = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=timeout)
    assert ended.stdout.decode() == ""
    assert ended.returncode == 0, ended.stderr.decode()


def test_broken_sources(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    fuzz(27, 150, tmp_path, 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_broken_sources(tmp_path: Path, seed: int) -> None:
    pytest.importorskip("pyarrow")
    fuzz(seed, 3000, tmp_path, 3600)
