"""Tests of Deep InfoMax: pairs, loss and gradients against a direct implementation, and the prior."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr import backbones, params
from rr.methods.infomax import InfoMax, reverse_gradient
from rr.methods.local_discriminator import LocalDiscriminator, jsd_loss
from rr.views.augmentation import Augmentation


class Stub(nn.Module):
    """A small backbone with local feature maps."""

    def __init__(self, num_features: int = 6, local_channels: int = 4) -> None:
        super().__init__()
        self.num_features, self.local_channels = num_features, local_channels
        self.first, self.last = nn.Conv2d(3, local_channels, 3, padding=1), nn.Linear(local_channels, num_features)

    def forward_with_local_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.first(images).relu()
        return self.last(maps.mean((2, 3))), maps


def make_config() -> params.InfoMaxConfig:
    return params.InfoMaxConfig(
        kind="infomax", views=1, prior_weight=0.1, augmentation=Augmentation(), batch_size=5, epochs=1,
        learning_rate=0.0001,
    )  # fmt: skip


def build() -> tuple[InfoMax, Tensor, tuple[Tensor, ...]]:
    """Return a float64 method, 5 images and samples of the prior."""
    torch.manual_seed(0)
    method = InfoMax(make_config(), Stub()).double()
    random_inputs = method.sample_random_inputs(5, torch.Generator().manual_seed(2))
    return method, torch.randn(5, 3, 4, 3, dtype=torch.float64), tuple(tensor.double() for tensor in random_inputs)


def convolve(discriminator: LocalDiscriminator, x: Tensor) -> Tensor:
    for layer in (discriminator.first_layer, discriminator.layers[1], discriminator.layers[3]):
        x = F.conv2d(x if layer is discriminator.first_layer else x.relu(), layer.weight[:, :, None, None], layer.bias)
    return x.squeeze(1)


def direct_loss(method: InfoMax, views: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return local loss, prior loss and number of correct answers, computed as in the paper's code."""
    y, maps = method.backbone.forward_with_local_maps(views)
    tiled = y[:, :, None, None].expand(-1, -1, *maps.shape[2:])
    positive = convolve(method.local_discriminator, torch.cat((tiled, maps), 1))
    negative = convolve(method.local_discriminator, torch.cat((tiled, torch.cat((maps[1:], maps[:1]))), 1))
    local = F.softplus(-positive).mean() + F.softplus(negative).mean()
    prior_prob, encoder_prob = method.prior_discriminator(uniform).sigmoid(), method.prior_discriminator(y).sigmoid()
    return (
        local,
        -(prior_prob.log().mean() + (1 - encoder_prob).log().mean()),
        int((positive > 0).sum() + (negative <= 0).sum()),
    )


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    parameters = list(module.parameters())
    grads = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return [gradient.clone() for gradient in grads]


def test_loss_and_gradients_equal_the_direct_implementation() -> None:
    method, views, (uniform,) = build()
    loss, statistics = method.loss(views, torch.full((5,), -1), (uniform,))
    local, prior, correct = direct_loss(method, views, uniform)
    torch.testing.assert_close(loss, local + 0.1 * prior, rtol=1e-12, atol=1e-12)
    assert (int(statistics["accuracy"][0]), statistics["accuracy"][1]) == (correct, 2 * 5 * 4 * 3)
    for module in (method.local_discriminator, method.prior_discriminator):
        torch.testing.assert_close(
            gradients(loss, module), gradients(local + 0.1 * prior, module), rtol=1e-12, atol=1e-12
        )
    # The encoder minimizes the local loss and maximizes the prior discriminator's loss.
    torch.testing.assert_close(
        gradients(loss, method.backbone), gradients(local - 0.1 * prior, method.backbone), rtol=1e-12, atol=1e-12
    )


def test_local_discriminator_pairs_by_hand() -> None:
    """With logits |y - map|, a positive has y and the map of image m; a negative has y of m and the map of m + 1."""
    discriminator = LocalDiscriminator(1, 1)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.zero_()
        discriminator.first_layer.weight[:2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        discriminator.layers[1].weight[0, :2] = 1
        discriminator.layers[3].weight[0, 0] = 1
    maps = torch.tensor([10.0, 11.0, 20.0, 21.0, 30.0, 31.0]).view(3, 1, 1, 2)
    positive, negative = discriminator(torch.tensor([[100.0], [200.0], [300.0]]), maps)
    assert positive.squeeze(1).tolist() == [[90, 89], [180, 179], [270, 269]]
    assert negative.squeeze(1).tolist() == [[290, 289], [80, 79], [170, 169]]  # row m is for the map of image m


def test_jsd_loss_by_hand() -> None:
    logits = torch.tensor([math.log(3.0)])  # a probability of 3/4
    assert jsd_loss(logits, logits).item() == pytest.approx(-math.log(3 / 4) - math.log(1 / 4))
    assert jsd_loss(torch.zeros(2, 2), torch.zeros(3)).item() == pytest.approx(2 * math.log(2))
    extreme = torch.tensor([1e4], requires_grad=True)
    loss = jsd_loss(-extreme, extreme)
    assert loss.item() == 2e4
    assert torch.autograd.grad(loss, extreme)[0].item() == 2


def test_reverse_gradient_keeps_the_value() -> None:
    x = (torch.randn(1000) * 1e3 ** torch.randn(1000)).requires_grad_()
    y = reverse_gradient(x)
    assert torch.equal(x, y)
    assert torch.autograd.grad(y.sum(), x)[0].unique().tolist() == [-1]


@pytest.mark.parametrize(
    ("num_features", "channels", "parameters"), [(64, 8, 183_810), (64, 16, 185_858), (512, 64, 542_210)]
)
def test_num_parameters(num_features: int, channels: int, parameters: int) -> None:
    backbone = Stub(num_features, channels)
    method = InfoMax(make_config(), backbone)
    num_parameters = sum(p.numel() for p in method.parameters()) - sum(p.numel() for p in backbone.parameters())
    assert num_parameters == parameters


def test_prior_samples_are_uniform_and_depend_only_on_the_generator() -> None:
    method = InfoMax(make_config(), Stub(64))
    (uniform,) = method.sample_random_inputs(128, torch.Generator().manual_seed(1))
    assert (uniform.shape, uniform.dtype) == ((128, 64), torch.float32)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(uniform, method.sample_random_inputs(128, torch.Generator().manual_seed(1))[0])


@pytest.mark.parametrize("bfloat16", [False, True])
def test_conv4_learns(bfloat16: bool) -> None:
    torch.manual_seed(0)
    method = InfoMax(make_config(), backbones.build("conv4"))
    optimizer = torch.optim.Adam(method.parameters(), 0.003)
    views = torch.randn(8, 3, 8, 8) + torch.randn(8, 3, 1, 1)
    losses = []
    for step in range(40):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss, statistics = method.loss(
                views, torch.full((8,), -1), method.sample_random_inputs(8, torch.Generator().manual_seed(step))
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.dtype == torch.float32
    assert losses[-1] < losses[0] - 0.3
    correct, total = statistics["accuracy"]
    assert int(correct) / int(total) > 0.7
