"""Test linear evaluation: the closed-form gradient, and training compared with torch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rr.evaluate.linear import set_cross_entropy_gradient, train_and_predict
from rr.params import LinearConfig


@pytest.mark.parametrize(("num_images", "num_features", "num_classes"), [(1, 3, 2), (7, 64, 10), (128, 20, 100)])
def test_gradient_equals_that_of_autograd(num_images: int, num_features: int, num_classes: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(num_features, num_classes).double()
    features = torch.randn(num_images, num_features, dtype=torch.float64)
    labels = torch.randint(num_classes, (num_images,))
    F.cross_entropy(layer(features), labels).backward()
    expected = [parameter.grad for parameter in layer.parameters()]
    set_cross_entropy_gradient(layer, features, labels)
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-15)


def test_gradient_of_large_logits_is_finite() -> None:
    layer = nn.Linear(2, 3)
    nn.init.constant_(layer.weight, 1e4)
    set_cross_entropy_gradient(layer, torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_training_equals_a_loop_with_autograd() -> None:
    """The last mini-batch of an epoch is smaller than the others."""
    config = LinearConfig(kind="linear", label_fraction=1.0, epochs=5, batch_size=32, learning_rate=0.001)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 100)
    features = torch.from_numpy(rng.normal(size=(100, 8)) + 2 * np.eye(4, 8)[labels]).float()
    probabilities, metrics = train_and_predict(features, labels, features, labels, config, num_classes=4, seed=3)
    torch.manual_seed(3)
    layer = nn.Linear(8, 4)
    optimizer = torch.optim.Adam(layer.parameters(), config.learning_rate)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        for rows in torch.randperm(100, generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(layer(features[rows]), torch.from_numpy(labels)[rows]).backward()
            optimizer.step()
    assert probabilities == pytest.approx(layer(features).double().softmax(1).detach().numpy(), abs=1e-6)
    assert metrics["loss"] == pytest.approx(F.cross_entropy(layer(features), torch.from_numpy(labels)).item(), rel=1e-5)
