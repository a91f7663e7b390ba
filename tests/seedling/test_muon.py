"""Muon's matrices are nearly orthogonal, its steps of AdamW's size, and it goes downhill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seedling import muon
from seedling.muon import Muon, orthogonal


@pytest.mark.parametrize(("kind", "near"), [("no", 1e-4), ("bf16", 0.02)])
@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_singular_values_come_near_one_and_directions_stay(
    shape: tuple[int, int], kind: str, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "precision", lambda device: kind)
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix)
    values = torch.diagonal(u.T @ found @ v.T)
    assert found.shape == shape
    assert values.min() > 0.5
    assert values.max() < 1.3
    torch.testing.assert_close(found, u @ torch.diag(values) @ v, atol=near, rtol=0)
    assert found.dtype == torch.float32


def test_a_step_is_of_adamws_size_whatever_the_gradients() -> None:
    torch.manual_seed(0)
    for scale in (1e-4, 1e4):
        weight = torch.nn.Parameter(torch.zeros(64, 64))
        weight.grad = scale * torch.randn(64, 64)
        Muon([weight], lr=0.1).step()
        assert weight.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.2)  # 0.2 of the rate, as AdamW's


def test_it_solves_a_small_problem_kernels_too() -> None:
    torch.manual_seed(0)
    goal = torch.randn(8, 4, 3, 3) * 0.1
    kernel = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    untouched = torch.nn.Parameter(torch.ones(3, 3))
    muon = Muon([kernel, untouched], lr=0.05, momentum=0.8)
    first = (kernel - goal).square().sum().item()
    for step in range(200):
        muon.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        muon.zero_grad()
        loss = (kernel - goal).square().sum()
        loss.backward()
        muon.step()
    assert loss.item() < 0.01 * first
    assert untouched.eq(1).all()


def test_weight_decay_shrinks_by_the_rate() -> None:
    weight = torch.nn.Parameter(torch.eye(4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.data, 0.95 * torch.eye(4))


SHARED = """
import sys, torch
from torch import distributed
from finetune import muon
from seedling.muon import Muon

distributed.init_process_group("gloo")
torch.manual_seed(0)
weights = [torch.nn.Parameter(torch.randn(8, n)) for n in (4, 12, 6, 16, 3)]
muon = Muon(weights, lr=0.1, weight_decay=0.1)
for _ in range(3):
    for weight in weights:
        weight.grad = torch.randn(weight.shape)
    muon.step()
torch.save([w.data for w in weights], f"{sys.argv[1]}/{distributed.get_rank()}.pt")
distributed.destroy_process_group()
"""


def test_processes_that_share_the_work_end_where_one_does(tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        own = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        subprocess.run([*launched, str(script), str(tmp_path / str(count))], check=True, env=own, timeout=120)
    alone, first, second = (torch.load(tmp_path / name) for name in ("1/0.pt", "2/0.pt", "2/1.pt"))
    for a, b, c in zip(alone, first, second, strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(b, c)
