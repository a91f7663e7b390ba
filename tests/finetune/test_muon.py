"""Muon's matrices are nearly orthogonal, its steps of AdamW's size, and it goes downhill."""

import pytest
import torch

from finetune.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix)
    values = torch.diagonal(u.T @ found @ v.T)
    assert found.shape == shape
    assert values.min() > 0.5
    assert values.max() < 1.3
    torch.testing.assert_close(found, u @ torch.diag(values) @ v, atol=1e-4, rtol=0)


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
