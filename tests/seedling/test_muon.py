"""Muon's steps are nearly orthogonal matrices, as large as AdamW's, and reduce the loss."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seedling import muon
from seedling.muon import Muon, orthogonalize


@pytest.mark.parametrize(("precision", "tolerance"), [("no", 1e-4), ("bf16", 0.02)])
@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_singular_values_are_near_one_and_singular_vectors_stay(
    shape: tuple[int, int], precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "select_precision", lambda device: precision)
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix)
    values = torch.diagonal(u.T @ result @ v.T)
    assert result.shape == shape
    assert values.min() > 0.5
    assert values.max() < 1.3
    torch.testing.assert_close(result, u @ torch.diag(values) @ v, atol=tolerance, rtol=0)
    assert result.dtype == torch.float32


def test_a_step_has_adamws_size_for_any_gradient() -> None:
    torch.manual_seed(0)
    for scale in (1e-4, 1e4):
        weight = torch.nn.Parameter(torch.zeros(64, 64))
        weight.grad = scale * torch.randn(64, 64)
        Muon([weight], lr=0.1).step()
        assert weight.square().mean().sqrt().item() == pytest.approx(
            0.02, rel=0.2
        )  # 0.2 of the learning rate, like AdamW's


def test_it_solves_a_small_problem_with_a_kernel() -> None:
    torch.manual_seed(0)
    target = torch.randn(8, 4, 3, 3) * 0.1
    kernel = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    untouched = torch.nn.Parameter(torch.ones(3, 3))
    muon = Muon([kernel, untouched], lr=0.05, momentum=0.8)
    first = (kernel - target).square().sum().item()
    for step in range(200):
        muon.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        muon.zero_grad()
        loss = (kernel - target).square().sum()
        loss.backward()
        muon.step()
    assert loss.item() < 0.01 * first
    assert untouched.eq(1).all()


def test_weight_decay_is_relative_to_the_learning_rate() -> None:
    weight = torch.nn.Parameter(torch.eye(4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.data, 0.95 * torch.eye(4))


SHARED = """
import sys, torch
from torch import distributed
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


@pytest.mark.slow
def test_several_processes_compute_the_same_step_as_one(tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        subprocess.run([*launcher, str(script), str(tmp_path / str(count))], check=True, env=environment, timeout=120)
    alone, first, second = (torch.load(tmp_path / name) for name in ("1/0.pt", "2/0.pt", "2/1.pt"))
    for a, b, c in zip(alone, first, second, strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(b, c)
