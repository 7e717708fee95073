"""Tests of optimizers, compared with torch's optimizers and hand-computed values, and of learning rate schedules."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from rr.compute.optimizers import make_optimizer, scheduled_learning_rate, set_learning_rates
from rr.params.optimizers import (
    ADAM,
    CONSTANT,
    AdamConfig,
    LARSConfig,
    OptimizerConfig,
    SGDConfig,
    SmoothScheduleConfig,
    StepsScheduleConfig,
)

COSINE = SmoothScheduleConfig(kind="cosine", warmup_epochs=0)


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3))
    network[3].bias.requires_grad_(False)
    return network


def train(network: nn.Module, optimizer: torch.optim.Optimizer, rates: list[float]) -> torch.Tensor:
    """Train with the given learning rates, and return all parameters."""
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (ADAM, lambda p: torch.optim.Adam(p)),
        (AdamConfig(kind="adam", weight_decay=0.1), lambda p: torch.optim.Adam(p, weight_decay=0.1)),
        (SGDConfig(kind="sgd", momentum=0.0, weight_decay=0.0), lambda p: torch.optim.SGD(p)),
        (
            SGDConfig(kind="sgd", momentum=0.9, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.1),
        ),
    ],
)
def test_adam_and_sgd_are_those_of_torch(config: OptimizerConfig, reference) -> None:
    ours, theirs = make_network(), make_network()
    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    rates = [0.1, 0.1, 0.05]
    actual = train(ours, make_optimizer(config, [(ours.parameters(), 0.1)]), rates)
    torch.testing.assert_close(actual, train(theirs, reference(trained), rates), rtol=1e-6, atol=1e-6)
    assert torch.equal(ours[3].bias, make_network()[3].bias)


def test_adamw_decays_only_matrices() -> None:
    ours, theirs = make_network(), make_network()
    matrices = [theirs[0].weight, theirs[3].weight]
    vectors = [theirs[0].bias, theirs[1].weight, theirs[1].bias]
    reference = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.1)
    config = AdamConfig(kind="adamw", weight_decay=0.1)
    actual = train(ours, make_optimizer(config, [(ours.parameters(), 0.1)]), [0.1, 0.1, 0.05])
    torch.testing.assert_close(actual, train(theirs, reference, [0.1, 0.1, 0.05]), rtol=1e-6, atol=1e-6)


def test_lars_step_by_hand() -> None:
    """The weight (3, 4) has norm 5. With d = g + 0.1 w = (0.8, 0.6), of norm 1, the step is lr * 0.01 * 5 / 1 * d."""
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    config = LARSConfig(kind="lars", momentum=0.5, weight_decay=0.1, trust_coefficient=0.01)
    optimizer = make_optimizer(config, [([weight, bias], 2.0)])
    weight.grad, bias.grad = torch.tensor([[0.5, 0.2]]), torch.tensor([0.25])
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([[3 - 0.08, 4 - 0.06]]))
    assert bias.item() == 0.5  # no weight decay, and the step is not scaled
    # Second step, with zero gradients and without decay: only the momentum moves the parameters.
    optimizer.param_groups[0]["weight_decay"] = 0.0
    weight.grad, bias.grad = torch.zeros(1, 2), torch.zeros(1)
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([[3 - 0.12, 4 - 0.09]]))
    assert bias.item() == 0.25


def test_lars_of_a_zero_weight_is_sgd() -> None:
    weight = nn.Parameter(torch.zeros(1, 2))
    config = LARSConfig(kind="lars", momentum=0.0, weight_decay=0.1, trust_coefficient=0.01)
    optimizer = make_optimizer(config, [([weight], 2.0)])
    weight.grad = torch.tensor([[0.5, 1.0]])
    optimizer.step()
    assert weight.tolist() == [[-1.0, -2.0]]


def test_cosine_of_whole_epochs_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.06)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for epoch in range(20):
        actual = scheduled_learning_rate(COSINE, 0.06, epoch, 20)
        assert actual == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_steps_are_those_of_torch_to_the_bit() -> None:
    schedule = StepsScheduleConfig(kind="steps", warmup_epochs=0, milestones=[0.5, 0.75], lr_decay=0.3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 15], 0.3)
    for epoch in range(20):
        assert scheduled_learning_rate(schedule, 0.1, epoch + 0.99, 20) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


def test_constant_rate_is_unchanged() -> None:
    assert scheduled_learning_rate(CONSTANT, 0.1, 7.3, 10) == 0.1


def test_warmup_is_linear_and_precedes_the_schedule() -> None:
    cosine = SmoothScheduleConfig(kind="cosine", warmup_epochs=10)
    rates = [scheduled_learning_rate(cosine, 0.4, epoch, 110) for epoch in (0, 2.5, 10, 60, 110)]
    assert rates == pytest.approx([0, 0.1, 0.4, 0.2, 0], abs=1e-12)
    steps = StepsScheduleConfig(kind="steps", warmup_epochs=2, milestones=[0.5], lr_decay=0.1)
    rates = [scheduled_learning_rate(steps, 0.4, epoch, 8) for epoch in (1, 2, 3.9, 4, 7)]
    assert rates == pytest.approx([0.2, 0.4, 0.4, 0.04, 0.04])


def test_every_group_follows_its_own_rate() -> None:
    network = make_network()
    optimizer = make_optimizer(ADAM, [(network[0].parameters(), 0.1), (network[3].parameters(), 0.02)])
    set_learning_rates(optimizer, COSINE, 5, 20)
    factor = (1 + math.cos(math.pi / 4)) / 2
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * factor, 0.02 * factor])
    set_learning_rates(optimizer, CONSTANT, 5, 20)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.02]


@pytest.mark.parametrize("optimizer", ["Adam(parameters, fused=True)", "SGD(parameters, 0.1, 0.9)"])
def test_optimizers_do_not_load_dynamo_and_give_the_same_weights(optimizer: str) -> None:
    code = (
        "import sys, torch\n"
        "from rr.compute.torch_threads import configure_torch\n"
        "if sys.argv[1] == 'detached': configure_torch(1)\n"
        "torch.manual_seed(0)\n"
        "parameters = [torch.nn.Parameter(torch.randn(5, 3))]\n"
        f"optimizer = torch.optim.{optimizer}\n"
        "scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])\n"
        "for _ in range(3):\n"
        "    optimizer.zero_grad()\n"
        "    (parameters[0] ** 2).sum().backward()\n"
        "    optimizer.step()\n"
        "    scheduler.step()\n"
        "optimizer.load_state_dict(optimizer.state_dict())\n"
        "print(parameters[0].tolist(), 'torch._dynamo' in sys.modules)"
    )
    outputs = {}
    for mode in ("detached", "original"):
        done = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True)
        assert "Warning" not in done.stderr
        outputs[mode] = done.stdout.rsplit(maxsplit=1)
    assert outputs["detached"][0] == outputs["original"][0]
    assert outputs["detached"][1] == "False"
