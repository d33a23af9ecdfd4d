"""The written-out gradient of the smoothed loss, against autograd through ``F.cross_entropy``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgewise.models.loss import ROWS, smoothed_cross_entropy


@pytest.mark.parametrize("rows", [1, 130, ROWS, 2 * ROWS + 77])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_autograd(rows: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 12, generator=generator, requires_grad=True)
    weight = torch.randn(31, 12, generator=generator, requires_grad=True)
    bias = torch.randn(31, generator=generator, requires_grad=True)
    labels = torch.randint(0, 31, (rows,), generator=generator)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), labels, label_smoothing=smoothing)
    expected.backward()  # type: ignore[no-untyped-call]
    ours = [weight.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()]
    loss, gradient = smoothed_cross_entropy(hidden.detach(), ours[0], ours[1], labels, smoothing)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for got, want in ((gradient, hidden.grad), (ours[0].grad, weight.grad), (ours[1].grad, bias.grad)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_gradients_are_added_to_those_already_there() -> None:
    weight, bias = torch.ones(5, 3, requires_grad=True), torch.zeros(5, requires_grad=True)
    hidden, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 3])
    smoothed_cross_entropy(hidden, weight, bias, labels, 0.1)
    assert weight.grad is not None
    once = weight.grad.clone()
    smoothed_cross_entropy(hidden, weight, bias, labels, 0.1)
    torch.testing.assert_close(weight.grad, 2 * once)


def test_bfloat16_is_near() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(200, 16, generator=generator), torch.randn(40, 16, generator=generator) / 4
    labels, bias = torch.randint(0, 40, (200,), generator=generator), torch.zeros(40)
    exact = smoothed_cross_entropy(hidden, weight.clone(), bias.clone(), labels, 0.1)
    rough = smoothed_cross_entropy(hidden, weight.clone(), bias.clone(), labels, 0.1, low_precision=True)
    assert rough[0] == pytest.approx(exact[0], rel=0.01)
    torch.testing.assert_close(rough[1], exact[1], rtol=0.1, atol=1e-3)
