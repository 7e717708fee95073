"""Deep InfoMax: pairs, loss and gradients against a direct form, the prior's two sides, counts, errors."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr import backbones, params
from rr.compute.device import single_threaded
from rr.methods.infomax import InfoMax, LocalDiscriminator, reverse_gradient, jsd_loss
from rr.views.augmentation import Augmentation


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """One thread: on pictures this small a second one costs more than it saves."""
    with single_threaded():
        yield


class Stub(nn.Module):
    """The smallest backbone with local maps."""

    def __init__(self, features: int = 6, local_channels: int = 4) -> None:
        super().__init__()
        self.features, self.local_channels = features, local_channels
        self.first, self.last = nn.Conv2d(3, local_channels, 3, padding=1), nn.Linear(local_channels, features)

    def forward_local(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.first(images).relu()
        return self.last(maps.mean((2, 3))), maps


def settings(prior: float = 0.1, batch_size: int = 5) -> params.InfoMaxConfig:
    return params.InfoMaxConfig(
        kind="infomax", views=1, prior_weight=prior, augmentation=Augmentation(), batch_size=batch_size, epochs=1,
        learning_rate=0.0001,
    )  # fmt: skip


def build(prior: float = 0.1) -> tuple[InfoMax, Tensor, tuple[Tensor, ...]]:
    """A float64 method, 5 pictures, and samples of the prior."""
    torch.manual_seed(0)
    method = InfoMax(settings(prior), Stub()).double()
    drawn = method.sample_noise(5, torch.Generator().manual_seed(2))
    return method, torch.randn(5, 3, 4, 3, dtype=torch.float64), tuple(numbers.double() for numbers in drawn)


def convolve(discriminator: LocalDiscriminator, x: Tensor) -> Tensor:
    for layer in (discriminator.first_layer, discriminator.layers[1], discriminator.layers[3]):
        x = F.conv2d(x if layer is discriminator.first_layer else x.relu(), layer.weight[:, :, None, None], layer.bias)
    return x.squeeze(1)


def direct_loss(method: InfoMax, views: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, int]:
    """As the authors do it, with tiling, concatenation and sigmoids: local loss, prior's loss, right answers."""
    y, maps = method.backbone.forward_local(views)
    tiled = y[:, :, None, None].expand(-1, -1, *maps.shape[2:])
    positive = convolve(method.local_discriminator, torch.cat((tiled, maps), 1))
    negative = convolve(method.local_discriminator, torch.cat((tiled, torch.cat((maps[1:], maps[:1]))), 1))
    local = F.softplus(-positive).mean() + F.softplus(negative).mean()
    true, false = method.prior_discriminator(uniform).sigmoid(), method.prior_discriminator(y).sigmoid()
    return local, -(true.log().mean() + (1 - false).log().mean()), int((positive > 0).sum() + (negative <= 0).sum())


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return [gradient.clone() for gradient in found]


def test_loss_and_gradients_equal_the_direct_form() -> None:
    method, views, (uniform,) = build()
    loss, statistics = method.loss(views, torch.full((5,), -1), (uniform,))
    local, prior, right = direct_loss(method, views, uniform)
    torch.testing.assert_close(loss, local + 0.1 * prior, rtol=1e-12, atol=1e-12)
    assert (int(statistics["accuracy"][0]), statistics["accuracy"][1]) == (right, 2 * 5 * 4 * 3)
    for module in (method.local_discriminator, method.prior_discriminator):
        torch.testing.assert_close(
            gradients(loss, module), gradients(local + 0.1 * prior, module), rtol=1e-12, atol=1e-12
        )
    # The encoder: what the local loss gives it, less what helps the prior's discriminator.
    torch.testing.assert_close(
        gradients(loss, method.backbone), gradients(local - 0.1 * prior, method.backbone), rtol=1e-12, atol=1e-12
    )


def test_the_prior_acts_on_the_encoder_against_the_authors_version_and_on_its_discriminator_with_it() -> None:
    method, views, (uniform,) = build(prior=1.0)
    ours = method.loss(views, torch.empty(5), (uniform,))[0]
    local, prior, _ = direct_loss(method, views, uniform)
    encoder = [a - b for a, b in zip(gradients(ours, method.backbone), gradients(local, method.backbone), strict=True)]
    authors = gradients(prior, method.backbone)
    assert all(gradient.abs().max() > 1e-8 for gradient in authors)
    torch.testing.assert_close(encoder, [-gradient for gradient in authors], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients(ours, method.prior_discriminator), gradients(prior, method.prior_discriminator), rtol=1e-12, atol=1e-12)


def test_gradient_checks_without_prior() -> None:
    method, views, drawn = build(prior=0.0)
    assert torch.autograd.gradcheck(lambda x: method.loss(x, torch.empty(5), drawn)[0], views.requires_grad_())


def test_pairs_by_hand() -> None:
    """A discriminator that passes |y - map| on: y of m meets the maps of m, and of m + 1."""
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
    assert negative.squeeze(1).tolist() == [[290, 289], [80, 79], [170, 169]]  # row m: the maps of m


def test_losses_by_hand() -> None:
    odds = torch.tensor([math.log(3.0)])  # a probability of 3/4
    assert jsd_loss(odds, odds).item() == pytest.approx(-math.log(3 / 4) - math.log(1 / 4))
    assert jsd_loss(torch.zeros(2, 2), torch.zeros(3)).item() == pytest.approx(2 * math.log(2))
    far = torch.tensor([1e4], requires_grad=True)
    loss = jsd_loss(-far, far)
    assert loss.item() == 2e4
    assert torch.autograd.grad(loss, far)[0].item() == 2


def test_reversed_gradient_leaves_the_value() -> None:
    x = (torch.randn(1000) * 1e3 ** torch.randn(1000)).requires_grad_()
    y = reverse_gradient(x)
    assert torch.equal(x, y)
    assert torch.autograd.grad(y.sum(), x)[0].unique().tolist() == [-1]


@pytest.mark.parametrize(
    ("features", "channels", "parameters"), [(64, 8, 183_810), (64, 16, 185_858), (512, 64, 542_210)]
)
def test_number_of_parameters(features: int, channels: int, parameters: int) -> None:
    backbone = Stub(features, channels)
    method = InfoMax(settings(), backbone)
    own = sum(p.numel() for p in method.parameters()) - sum(p.numel() for p in backbone.parameters())
    assert own == parameters
    assert (method.drop_last, method.min_batch_size, method.learning_rate) == (True, 2, 0.0001)


def test_samples_of_the_prior() -> None:
    method = InfoMax(settings(), Stub(64))
    (uniform,) = method.sample_noise(128, torch.Generator().manual_seed(1))
    assert (uniform.shape, uniform.dtype) == ((128, 64), torch.float32)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(uniform, method.sample_noise(128, torch.Generator().manual_seed(1))[0])


@pytest.mark.parametrize("bfloat16", [False, True])
def test_conv4_learns(bfloat16: bool) -> None:
    torch.manual_seed(0)
    method = InfoMax(settings(), backbones.build("conv4"))
    optimiser, _ = method.configure_optimizer(1)
    optimiser.param_groups[0]["lr"] = 0.003
    views = torch.randn(8, 3, 8, 8) + torch.randn(8, 3, 1, 1)
    losses = []
    for step in range(40):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss, statistics = method.loss(
                views, torch.full((8,), -1), method.sample_noise(8, torch.Generator().manual_seed(step))
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert loss.dtype == torch.float32
    assert losses[-1] < losses[0] - 0.3
    right, whole = statistics["accuracy"]
    assert int(right) / int(whole) > 0.7
