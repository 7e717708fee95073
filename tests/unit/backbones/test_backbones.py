"""Conv-4: its layers, and the fused form against the plain one in float64."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from rr import backbones
from rr.backbones import fused
from rr.backbones.conv4 import Conv4

SHAPES = [(B, side) for side in (8, 16, 32, 37, 64) for B in (1, 2, 64) if (B, side) != (1, 8)]


def network(seed: int = 0) -> Conv4:
    """A network in training mode whose batch norms are not at their first values."""
    torch.manual_seed(seed)
    network = Conv4()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return network


def images(B: int, height: int, width: int | None = None) -> Tensor:
    """Pictures with a mean far from zero and smooth parts, as after cropping."""
    generator = torch.Generator().manual_seed(B + height)
    coarse = torch.rand((B, 3, 4, 4), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width or height), mode="bilinear")
    noise = torch.rand(smooth.shape, generator=generator)
    return (smooth + 0.2 * noise).contiguous(memory_format=torch.channels_last)


def target(B: int) -> Tensor:
    return torch.randn((B, 64), generator=torch.Generator().manual_seed(B))


def step(network: Conv4, x: Tensor, plain: bool = False) -> dict[str, Tensor]:
    """Output, gradients and buffers after one forward and backward pass; the network itself stays as it is."""
    network = copy.deepcopy(network)
    out = network.plain_forward(x) if plain else network(x)
    out.backward(target(len(x)).to(out.dtype))
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in network.named_parameters()}
    return {"out": out.detach(), **gradients, **dict(network.named_buffers())}


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def is_fused(out: Tensor) -> bool:
    """Whether the last block was the fused one."""
    function = out.grad_fn
    while function is not None and "NormPool" not in function.name():
        function = function.next_functions[0][0] if function.next_functions else None
    return function is not None


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_size_and_names() -> None:
    network = backbones.build("conv4")
    assert sum(parameter.numel() for parameter in network.parameters()) == 24_648
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = [f"blocks.{b}.{n}" for b in range(4) for n in ("0.weight", *(f"1.{name}" for name in norm))]
    assert list(network.state_dict()) == names
    assert network(images(2, 32)).shape == (2, network.features)


def test_first_weights() -> None:
    torch.manual_seed(0)
    networks = [Conv4() for _ in range(20)]
    for b, (inputs, outputs) in enumerate(((3, 8), (8, 16), (16, 32), (32, 64))):
        weights = torch.stack([network.blocks[b][0].weight.detach() for network in networks])
        assert weights.shape == (20, outputs, inputs, 3, 3)
        deviation = (2 / (9 * outputs)) ** 0.5
        assert abs(float(weights.mean())) < 4 * deviation / weights.numel() ** 0.5
        assert float(weights.std()) == pytest.approx(deviation, rel=4 / (2 * weights.numel()) ** 0.5)
        assert all((network.blocks[b][1].weight == 1).all() for network in networks)
        assert all((network.blocks[b][1].bias == 0).all() for network in networks)


@pytest.mark.parametrize(("B", "side"), SHAPES)
def test_fused_form_equals_plain_float64(B: int, side: int) -> None:
    """Float32 tolerances, of the largest value: output 1e-5, gradients 5e-5, running statistics 1e-6."""
    x = images(B, side)
    assert is_fused(network()(x))
    found, expected = step(network(), x), step(network().double(), x.double(), plain=True)
    for name, value in expected.items():
        tolerance = 5e-5 if "gradient" in name else 1e-6 if "running" in name else 1e-5
        assert distance(found[name], value) <= tolerance, name
    assert all(int(found[name]) == 1 for name in found if "tracked" in name)


def test_other_layouts_and_shapes() -> None:
    x = images(6, 19, 42)
    expected = step(network().double(), x.double(), plain=True)
    for variant in (x.contiguous(), x.flip(3).flip(3), images(12, 19, 42)[::2].copy_(x)):
        found = step(network(), variant)
        assert all(distance(found[name], value) < 2e-5 for name, value in expected.items())


def test_statistics_far_from_zero() -> None:
    """Values of 300 ± 1 in, where float32 sums of squares would leave nothing of the variance."""
    torch.manual_seed(0)
    x = (torch.randn(64, 32, 8, 8) + 300).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(32, momentum=1)
    found = fused.norm_pool(x, norm, (2, 2))
    reference = nn.BatchNorm2d(32, momentum=1).double()
    expected = nn.functional.avg_pool2d(reference(x.double()).relu(), 2)
    assert distance(found, expected) < 2e-5
    assert distance(norm.running_var, reference.running_var) < 1e-6


def test_several_steps_keep_running_statistics_equal() -> None:
    ours, plain = network(), network().double()
    for B in (3, 5, 8):
        ours(images(B, 16))
        plain.plain_forward(images(B, 16).double())
    for (name, found), expected in zip(ours.named_buffers(), plain.buffers(), strict=True):
        assert distance(found, expected) < 1e-6, name
    assert int(ours.blocks[0][1].num_batches_tracked) == 3


def test_image_gradients() -> None:
    """None is made unless asked for."""
    x = images(4, 21)
    network()(x).backward(target(4))
    assert x.grad is None
    ours, plain = x.clone().requires_grad_(), x.double().requires_grad_()
    network()(ours).backward(target(4))
    network().double().plain_forward(plain).backward(target(4).double())
    assert distance(ours.grad, plain.grad) < 2e-5


def test_frozen_first_layers() -> None:
    """Gradients of the rest are the same."""
    whole, part = network(), network()
    part.blocks[0].requires_grad_(False)
    for n in (whole, part):
        n(images(4, 16)).backward(target(4))
    assert all(parameter.grad is None for parameter in part.blocks[0].parameters())
    pairs = zip(whole.blocks[1:].parameters(), part.blocks[1:].parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


def test_first_derivatives_once() -> None:
    n = network()
    out = n(images(4, 16))
    gradient = torch.autograd.grad(out.square().sum(), n.blocks[0][0].weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    out = n(images(4, 16))
    out.sum().backward(retain_graph=True)
    first = n.blocks[0][0].weight.grad.clone()
    out.sum().backward()
    assert torch.equal(n.blocks[0][0].weight.grad, 2 * first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.sum().backward()


def test_graphs_side_by_side() -> None:
    """Memory used again must not be that of a graph still waiting for its backward pass."""
    batches = [images(4, 16), images(4, 16).flip(0, 2), images(4, 16).square()]
    expected = [step(network(), x) for x in batches]
    networks = [network() for _ in batches]
    outs = [n(x) for n, x in zip(networks, batches, strict=True)]
    for n, out, values in zip(networks, outs, expected, strict=True):
        out.backward(target(4))
        assert torch.equal(out, values["out"])
        assert all(torch.equal(p.grad, values[f"gradient of {name}"]) for name, p in n.named_parameters())


@pytest.mark.parametrize("threads", [1, 2])
def test_repeats_are_the_same_bits(set_threads: Callable[[int], None], threads: int) -> None:
    set_threads(threads)
    first, second = step(network(), images(64, 32)), step(network(), images(64, 32))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fused_parts_are_the_same_bits_with_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    x, deep = images(70, 32), torch.randn((70, 16, 32, 32), generator=torch.Generator().manual_seed(0))
    results = []
    for threads in (1, 2, 5):
        set_threads(threads)
        n = network()
        inputs = x.clone().requires_grad_(), deep.clone().requires_grad_()
        (convolution, norm), (_, deep_norm) = n._layers()[:2]
        outs = [fused.convolve_norm_pool(inputs[0], convolution, norm), fused.norm_pool(inputs[1], deep_norm, (2, 2))]
        outs.append(fused.norm_pool(inputs[1], deep_norm, (32, 32)))
        sum(out.square().sum(dtype=torch.float64) for out in outs).backward()
        leaves = [*inputs, convolution.weight, norm.weight, norm.bias, deep_norm.weight, deep_norm.bias]
        results.append([*outs, *(leaf.grad for leaf in leaves), *n.buffers()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_plain_form_elsewhere() -> None:
    """In eval mode, in float64, with a frozen batch norm, under autocast and torch.compile."""
    x = images(4, 24)
    frozen = network()
    frozen.blocks[2][1].eval()
    for n, same_x in ((network().eval(), x), (network().double(), x.double()), (frozen, x)):
        twin = copy.deepcopy(n)
        out = n(same_x)
        assert not is_fused(out)
        assert torch.equal(out, twin.plain_forward(same_x))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fused(network()(x))
    assert not is_fused(torch.compile(network(), backend="eager")(x))


def test_evaluation_of_a_trained_network_equals_float64() -> None:
    """The state of a network trained in the fused form, loaded into another."""
    trained, fresh = network(), Conv4().double()
    trained(images(8, 32)).backward(target(8))
    fresh.load_state_dict(trained.state_dict())
    x = images(5, 37)
    assert distance(trained.eval()(x), fresh.eval()(x.double())) < 2e-5


def test_training_without_gradients_updates_statistics() -> None:
    ours, other = network(), network()
    with torch.no_grad():
        ours(images(4, 16))
    other(images(4, 16))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), other.buffers(), strict=True))


def test_divergence_shows() -> None:
    x = images(4, 16)
    x[2, 1, 5, 5] = torch.nan
    assert network()(x).isnan().any(dim=1).all()


@pytest.mark.parametrize(("shape", "error"), [((1, 3, 8, 8), ValueError), ((2, 3, 7, 9), RuntimeError)])
def test_refused_batches(shape: tuple[int, ...], error: type[Exception]) -> None:
    """One value per channel has no variance; a side below 8 leaves nothing to pool."""
    with pytest.raises(error):
        network()(torch.zeros(shape))
