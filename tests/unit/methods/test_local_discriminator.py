"""Tests of the tiled loss of the local discriminator: against autograd, for any number of threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rr.methods.local_discriminator import LocalDiscriminator, jsd_loss


@pytest.fixture(autouse=True)
def keep_num_threads() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def build(num_images: int, height: int, width: int, dtype: torch.dtype) -> tuple[LocalDiscriminator, Tensor, Tensor]:
    """Return a discriminator, representations and feature maps."""
    torch.manual_seed(0)
    discriminator = LocalDiscriminator(6, 4).to(dtype)
    y = torch.randn(num_images, 6, dtype=dtype, requires_grad=True)
    return discriminator, y, torch.randn(num_images, 4, height, width, dtype=dtype, requires_grad=True)


def loss_and_gradients(
    discriminator: LocalDiscriminator, y: Tensor, maps: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    loss, num_correct = discriminator.loss(y, maps)
    # The forward pass computes the gradients of the loss. The factor tests that the backward pass scales them.
    return loss, num_correct, list(torch.autograd.grad(3 * loss, [y, maps, *discriminator.parameters()]))


@pytest.mark.parametrize(
    ("num_images", "height", "width"),
    [
        (1, 1, 1),
        (5, 4, 3),
        (3, 16, 32),  # exactly one tile per image
        (2, 33, 31),  # two tiles per image, of which the second is smaller
        (18, 2, 4),  # more images than groups
    ],
)
def test_tiled_loss_equals_autograd(num_images: int, height: int, width: int) -> None:
    discriminator, y, maps = build(num_images, height, width, torch.float64)
    loss, num_correct, gradients = loss_and_gradients(discriminator, y, maps)
    positive, negative = discriminator(y, maps)
    expected = jsd_loss(positive, negative)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert num_correct == (positive > 0).sum() + (negative <= 0).sum()
    expected_gradients = torch.autograd.grad(3 * expected, [y, maps, *discriminator.parameters()])
    torch.testing.assert_close(gradients, list(expected_gradients), rtol=1e-10, atol=1e-14)


def test_float32_is_accurate() -> None:
    discriminator, y, maps = build(4, 32, 32, torch.float32)
    loss, _, gradients = loss_and_gradients(discriminator, y, maps)
    y_double, maps_double = (tensor.detach().double().requires_grad_() for tensor in (y, maps))
    expected_loss, _, expected = loss_and_gradients(discriminator.double(), y_double, maps_double)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    for gradient, exact in zip(gradients, expected, strict=True):
        assert (gradient - exact).norm() < 1e-5 * exact.norm()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    discriminator, y, maps = build(20, 33, 32, torch.float32)
    results = []
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        loss, num_correct, gradients = loss_and_gradients(discriminator, y, maps)
        gradients[2] = gradients[2][:, 6:]  # torch computes the other part, which multiplies y, outside of the tiles
        results.append((loss, num_correct, gradients))
        assert torch.get_num_threads() == num_threads
    for loss, num_correct, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert num_correct == results[0][1]
        assert all(map(torch.equal, gradients, results[0][2]))


def test_without_gradients_the_loss_is_the_same() -> None:
    discriminator, y, maps = build(3, 4, 4, torch.float64)
    with torch.no_grad():
        loss, num_correct = discriminator.loss(y, maps)
    expected, expected_correct, _ = loss_and_gradients(discriminator, y, maps)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert num_correct == expected_correct
