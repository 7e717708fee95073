"""Tests of Conv-4: its layers, and the fused layers against the unfused ones in float64."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from rr import backbones
from rr.backbones import fused_block
from rr.backbones.conv4 import Conv4
from rr.backbones.padded_conv2d import PaddedConv2d

SHAPES = [(B, size) for size in (8, 16, 32, 37, 64) for B in (1, 2, 64) if (B, size) != (1, 8)]


def make_network(seed: int = 0) -> Conv4:
    """Return a network in training mode whose batch norms have random parameters and statistics."""
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


def make_images(B: int, height: int, width: int | None = None) -> Tensor:
    """Return images whose mean is far from zero and that have smooth regions, like real images after cropping."""
    generator = torch.Generator().manual_seed(B + height)
    coarse = torch.rand((B, 3, 4, 4), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width or height), mode="bilinear")
    noise = torch.rand(smooth.shape, generator=generator)
    return (smooth + 0.2 * noise).contiguous(memory_format=torch.channels_last)


def make_output_gradient(B: int) -> Tensor:
    return torch.randn((B, 64), generator=torch.Generator().manual_seed(B))


def run_step(network: Conv4, x: Tensor, fused: bool = True) -> dict[str, Tensor]:
    """Return output, gradients and buffers after a forward and a backward pass of a copy of the network."""
    network = copy.deepcopy(network)
    out = network(x) if fused else network.forward_unfused(x)
    out.backward(make_output_gradient(len(x)).to(out.dtype))
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in network.named_parameters()}
    return {"out": out.detach(), **gradients, **dict(network.named_buffers())}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def is_fused(out: Tensor) -> bool:
    """Return whether the last block was computed by the fused function."""
    function = out.grad_fn
    while function is not None and "BnReluPool" not in function.name():
        function = function.next_functions[0][0] if function.next_functions else None
    return function is not None


def check_unfused(network: Conv4, x: Tensor) -> None:
    """Check that the network calls its layers one by one."""
    reference = copy.deepcopy(network)
    out = network(x)
    assert not is_fused(out)
    assert torch.equal(out, reference.forward_unfused(x))


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    num_threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(num_threads)


def test_names_of_parameters() -> None:
    network = backbones.build("conv4")
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = [f"blocks.{b}.{n}" for b in range(4) for n in ("0.weight", *(f"1.{name}" for name in norm))]
    assert list(network.state_dict()) == names
    assert network(make_images(2, 32)).shape == (2, network.num_features)


@pytest.mark.parametrize(("B", "size"), SHAPES)
def test_fused_layers_equal_unfused_layers_in_float64(B: int, size: int) -> None:
    """The tolerances of float32 are 1e-5 for outputs, 5e-5 for gradients and 1e-6 for running statistics."""
    x = make_images(B, size)
    assert is_fused(make_network()(x))
    actual, expected = run_step(make_network(), x), run_step(make_network().double(), x.double(), fused=False)
    for name, value in expected.items():
        tolerance = 5e-5 if "gradient" in name else 1e-6 if "running" in name else 1e-5
        assert relative_error(actual[name], value) <= tolerance, name
    assert all(int(actual[name]) == 1 for name in actual if "tracked" in name)


def test_memory_layout_does_not_change_results() -> None:
    x = make_images(6, 19, 42)
    expected = run_step(make_network().double(), x.double(), fused=False)
    for variant in (x.contiguous(), x.flip(3).flip(3), make_images(12, 19, 42)[::2].copy_(x)):
        actual = run_step(make_network(), variant)
        assert all(relative_error(actual[name], value) < 2e-5 for name, value in expected.items())


def test_batch_statistics_of_values_far_from_zero_are_accurate() -> None:
    """For inputs of 300 ± 1, sums of squares in float32 would lose almost all digits of the variance."""
    torch.manual_seed(0)
    x = (torch.randn(64, 32, 8, 8) + 300).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(32, momentum=1)
    actual = fused_block.bn_relu_pool_train(x, norm, (2, 2))
    reference = nn.BatchNorm2d(32, momentum=1).double()
    expected = nn.functional.avg_pool2d(reference(x.double()).relu(), 2)
    assert relative_error(actual, expected) < 2e-5
    assert relative_error(norm.running_var, reference.running_var) < 1e-6


def test_running_statistics_are_equal_after_several_steps() -> None:
    fused_network, reference = make_network(), make_network().double()
    for B in (3, 5, 8):
        fused_network(make_images(B, 16))
        reference.forward_unfused(make_images(B, 16).double())
    for (name, actual), expected in zip(fused_network.named_buffers(), reference.buffers(), strict=True):
        assert relative_error(actual, expected) < 1e-6, name
    assert int(fused_network.blocks[0][1].num_batches_tracked) == 3


def test_gradient_of_the_images_is_computed_on_request() -> None:
    """No gradient of the images is computed unless they require one."""
    x = make_images(4, 21)
    make_network()(x).backward(make_output_gradient(4))
    assert x.grad is None
    x, reference = x.clone().requires_grad_(), x.double().requires_grad_()
    make_network()(x).backward(make_output_gradient(4))
    make_network().double().forward_unfused(reference).backward(make_output_gradient(4).double())
    assert relative_error(x.grad, reference.grad) < 2e-5


def test_frozen_layers_get_no_gradients() -> None:
    """The gradients of the other layers do not change."""
    trainable, frozen = make_network(), make_network()
    frozen.blocks[0].requires_grad_(False)
    for network in (trainable, frozen):
        network(make_images(4, 16)).backward(make_output_gradient(4))
    assert all(parameter.grad is None for parameter in frozen.blocks[0].parameters())
    pairs = zip(trainable.blocks[1:].parameters(), frozen.blocks[1:].parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


def test_second_derivatives_and_second_backward_raise() -> None:
    network = make_network()
    out = network(make_images(4, 16))
    gradient = torch.autograd.grad(out.square().sum(), network.blocks[0][0].weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    out = network(make_images(4, 16))
    out.sum().backward(retain_graph=True)
    first = network.blocks[0][0].weight.grad.clone()
    out.sum().backward()
    assert torch.equal(network.blocks[0][0].weight.grad, 2 * first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.sum().backward()


def test_simultaneous_graphs_do_not_share_memory() -> None:
    """Memory must not be reused while a graph that needs it waits for its backward pass."""
    batches = [make_images(4, 16), make_images(4, 16).flip(0, 2), make_images(4, 16).square()]
    expected = [run_step(make_network(), x) for x in batches]
    networks = [make_network() for _ in batches]
    outs = [network(x) for network, x in zip(networks, batches, strict=True)]
    for network, out, values in zip(networks, outs, expected, strict=True):
        out.backward(make_output_gradient(4))
        assert torch.equal(out, values["out"])
        assert all(torch.equal(p.grad, values[f"gradient of {name}"]) for name, p in network.named_parameters())


@pytest.mark.parametrize("threads", [1, 2])
def test_repeated_steps_are_bit_identical(set_threads: Callable[[int], None], threads: int) -> None:
    set_threads(threads)
    first, second = run_step(make_network(), make_images(64, 32)), run_step(make_network(), make_images(64, 32))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fused_functions_are_bit_identical_for_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    x, deep = make_images(70, 32), torch.randn((70, 16, 32, 32), generator=torch.Generator().manual_seed(0))
    results = []
    for threads in (1, 2, 5):
        set_threads(threads)
        network = make_network()
        inputs = x.clone().requires_grad_(), deep.clone().requires_grad_()
        (conv, norm), (_, deep_norm) = network._conv_norm_layers()[:2]
        outs = [
            fused_block.conv_bn_relu_pool_train(inputs[0], conv, norm),
            fused_block.bn_relu_pool_train(inputs[1], deep_norm, (2, 2)),
        ]
        outs.append(fused_block.bn_relu_pool_train(inputs[1], deep_norm, (32, 32)))
        sum(out.square().sum(dtype=torch.float64) for out in outs).backward()
        leaves = [*inputs, conv.weight, norm.weight, norm.bias, deep_norm.weight, deep_norm.bias]
        results.append([*outs, *(leaf.grad for leaf in leaves), *network.buffers()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_unfused_layers_are_used_when_fusion_is_impossible() -> None:
    """This holds in eval mode, in float64, with a frozen batch norm, under autocast and under torch.compile."""
    x = make_images(4, 24)
    frozen = make_network()
    frozen.blocks[2][1].eval()
    for network, inputs in ((make_network().eval(), x), (make_network().double(), x.double()), (frozen, x)):
        check_unfused(network, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fused(make_network()(x))
    assert not is_fused(torch.compile(make_network(), backend="eager")(x))


@pytest.mark.parametrize(
    ("block", "position", "layer"),
    [
        (0, 2, nn.GELU()),
        (3, 2, nn.LeakyReLU()),
        (0, 0, nn.Conv2d(3, 8, 5, padding=2, bias=False)),
        (1, 0, nn.Conv2d(8, 16, 3, padding=1, bias=False, padding_mode="reflect")),
        (2, 0, PaddedConv2d(16, 32, 3, padding=1, bias=True)),
        (1, 3, nn.MaxPool2d(2)),
        (2, 3, nn.AvgPool2d(2, stride=1)),
        (1, 1, nn.SyncBatchNorm(16).eval()),
    ],
)
def test_replaced_layers_are_used(block: int, position: int, layer: nn.Module) -> None:
    network, x = make_network(), make_images(4, 24)
    network.blocks[block][position] = copy.deepcopy(layer)
    check_unfused(network, x)


@pytest.mark.parametrize("change", ["hook", "spectral norm", "more layers"])
def test_changed_layers_are_used(change: str) -> None:
    network, x = make_network(), make_images(4, 24)
    if change == "hook":
        network.blocks[1][2].register_forward_hook(lambda module, inputs, output: 2 * output)
    elif change == "spectral norm":
        network.blocks[0][0] = torch.nn.utils.spectral_norm(network.blocks[0][0])
    else:
        network.blocks[0].append(nn.Tanh())
    check_unfused(network, x)


def test_state_of_a_fused_network_loads_into_another_network() -> None:
    trained, fresh = make_network(), Conv4().double()
    trained(make_images(8, 32)).backward(make_output_gradient(8))
    fresh.load_state_dict(trained.state_dict())
    x = make_images(5, 37)
    assert relative_error(trained.eval()(x), fresh.eval()(x.double())) < 2e-5


def test_forward_without_gradients_updates_statistics() -> None:
    network, reference = make_network(), make_network()
    with torch.no_grad():
        network(make_images(4, 16))
    reference(make_images(4, 16))
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), reference.buffers(), strict=True))


def test_nan_propagates_to_the_output() -> None:
    x = make_images(4, 16)
    x[2, 1, 5, 5] = torch.nan
    assert make_network()(x).isnan().any(dim=1).all()


@pytest.mark.parametrize(("shape", "error"), [((1, 3, 8, 8), ValueError), ((2, 3, 7, 9), RuntimeError)])
def test_batches_without_a_variance_or_too_small_images_raise(shape: tuple[int, ...], error: type[Exception]) -> None:
    """A single value per channel has no variance, and images smaller than 8 pixels have no pooling window."""
    with pytest.raises(error):
        make_network()(torch.zeros(shape))
