"""Tests that all implementations of the relation loss equal the reference: loss, gradients and running statistics.

The reference is `direct_logits_and_targets` in float64 with torch's cross-entropy. The tolerances are relative to the
largest entry of a tensor: 1e-12 in float64, 1e-5 for the fused kernel in float32, and 1e-4 for plain torch in float32.
(The error of the reference itself in float32 is 6e-5 in these cases.)
"""

import copy
import itertools
from collections.abc import Callable
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from relation_reference import direct_logits_and_targets
from torch import Tensor, nn

from rr.methods.relation import PairLossConfig, RelationHead, relation_loss
from rr.methods.relation.factorized import factorized_relation_loss
from rr.methods.relation.fused import fused_relation_loss
from rr.methods.relation.head import Aggregation
from rr.methods.relation.pair_loss import PairLossKind, PairStatistics
from rr.methods.relation.pairs import roll_negative_rows, sample_negative_rows

FLOAT32 = 1e-5
FLOAT32_TORCH = 1e-4
SHAPES = [(K, M) for K in (2, 3, 5, 8) for M in (1, 2, 3, 16, 64) if (K, M) != (2, 1)]
LossFunction = Callable[[RelationHead, Tensor], Tensor]
Implementation = Callable[..., tuple[Tensor, PairStatistics]]
FOCAL = PairLossConfig("focal", 2.0)


def make_case(
    aggregation: Aggregation, K: int, M: int, negatives: str, positive_rows: Tensor | None = None
) -> tuple[RelationHead, Tensor, Tensor]:
    """Return a float32 head with random parameters, features with a mean that is not 0, and partners.

    The seed is the first one for which no normalized value is so close to 0 that rounding could change its sign, and
    with it the slope of the LeakyReLU.
    """
    for seed in itertools.count(K * 100 + M):
        torch.manual_seed(seed)
        head = RelationHead(7, aggregation, 20)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        head.norm.running_mean = torch.randn(20)
        head.norm.running_var = 0.5 + torch.rand(20)
        features = torch.randn(1, M, 7) + 2 + 0.5 * torch.randn(K, M, 7)
        if negatives == "roll":
            negative_rows = roll_negative_rows(K, M)
        else:
            negative_rows = sample_negative_rows(K, M, torch.Generator().manual_seed(M))
        if smallest_normalized_value(head, features, negative_rows, positive_rows) > 2e-6:
            return head, features, negative_rows
    raise AssertionError


def smallest_normalized_value(
    head: RelationHead, features: Tensor, negative_rows: Tensor, positive_rows: Tensor | None
) -> float:
    values: list[Tensor] = []
    head = copy.deepcopy(head).double()
    head.activation.register_forward_pre_hook(lambda _, inputs: values.append(inputs[0].detach().abs().min()))
    for training in (True, False):
        direct_logits_and_targets(head.train(training), features.double(), negative_rows, positive_rows)
    return min(values).item()


def reference(negative_rows: Tensor, config: PairLossConfig, positive_rows: Tensor | None = None) -> LossFunction:
    """Return a function that computes the loss from the reference logits."""

    def loss(head: RelationHead, features: Tensor) -> Tensor:
        logits, targets = direct_logits_and_targets(head, features, negative_rows, positive_rows)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if config.kind == "bce":
            return cross_entropy.mean()
        wrong = torch.where(targets == 1, 1 - logits.sigmoid(), logits.sigmoid())
        alpha = targets * config.alpha + (1 - targets) * (1 - config.alpha)
        return (alpha * wrong**config.gamma * cross_entropy).mean()

    return loss


def bind(
    implementation: Implementation, negative_rows: Tensor, config: PairLossConfig, positive_rows: Tensor | None = None
) -> LossFunction:
    return lambda head, features: implementation(head, features, negative_rows, positive_rows, config)[0]


def results(head: RelationHead, features: Tensor, loss: LossFunction) -> dict[str, Tensor]:
    """Return loss, gradients and buffers after one step of a copy of the head, in the dtype of the features."""
    head, features = copy.deepcopy(head).to(features.dtype), features.clone().requires_grad_()
    value = loss(head, features)
    (3 * value).backward()  # the factor tests that the incoming gradient is used
    assert features.grad is not None
    gradients = {f"grad {name}": p.grad for name, p in head.named_parameters() if p.grad is not None}
    assert len(gradients) == 6
    return {"loss": value.detach(), "grad features": features.grad, **gradients, **dict(head.named_buffers())}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Check the largest error of each tensor, relative to its largest entry.

    Gradients of biases are sums that may cancel (that of the first bias is exactly 0 in training mode). Their errors
    are therefore relative to the gradient of the weight.
    """
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = expected[name.replace("bias", "weight")] if name.startswith("grad") else value
        error = (actual[name].double() - value).abs().max()
        assert error <= tolerance * max(scale.abs().max(), value.abs().max()), f"{name}: {error:.2e}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("negatives", ["roll", "random"])
@pytest.mark.parametrize(("kind", "gamma"), [("focal", 2.0), ("bce", 0.0)])
@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_implementations_equal_the_reference(
    aggregation: Aggregation, kind: PairLossKind, gamma: float, negatives: str, training: bool
) -> None:
    config = PairLossConfig(kind, gamma)
    for K, M in SHAPES:
        head, features, negative_rows = make_case(aggregation, K, M, negatives)
        head.train(training)
        expected = results(head, features.double(), reference(negative_rows, config))
        factorized = bind(factorized_relation_loss, negative_rows, config)
        assert_close(results(head, features.double(), factorized), expected, 1e-12)
        if aggregation == "max":
            assert_close(results(head, features, factorized), expected, FLOAT32_TORCH)
        else:
            assert_close(results(head, features, bind(fused_relation_loss, negative_rows, config)), expected, FLOAT32)


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_implementations_with_positives_of_other_rows_and_alpha(aggregation: Aggregation) -> None:
    config = PairLossConfig("focal", 2.0, 0.3)
    for K, M in [(2, 5), (3, 1), (4, 6), (9, 16)]:
        positive_rows = torch.randint(M, (K * (K - 1) // 2, M), generator=torch.Generator().manual_seed(K))
        head, features, negative_rows = make_case(aggregation, K, M, "random", positive_rows)
        expected = results(head, features.double(), reference(negative_rows, config, positive_rows))
        own_positives = results(head, features.double(), reference(negative_rows, config))
        assert M == 1 or not torch.allclose(expected["loss"], own_positives["loss"])
        factorized = bind(factorized_relation_loss, negative_rows, config, positive_rows)
        assert_close(results(head, features.double(), factorized), expected, 1e-12)
        if aggregation != "max":
            assert_close(
                results(head, features, bind(fused_relation_loss, negative_rows, config, positive_rows)),
                expected,
                FLOAT32,
            )
        selected = results(
            head, features, lambda h, z, p=negative_rows, q=positive_rows: relation_loss(h, z, p, q, config)[0]
        )
        assert_close(selected, expected, 5e-5)


def test_fused_is_accurate_for_features_far_from_zero() -> None:
    """The mean of the features is 1,000 times their spread. Centering before squares are summed preserves precision."""
    torch.manual_seed(0)
    head, negative_rows = RelationHead(16, hidden_dim=32), roll_negative_rows(4, 32)
    features = (torch.randn(1, 32, 16) + 0.5 * torch.randn(4, 32, 16)) / 100 + 10
    expected = results(head, features.double(), reference(negative_rows, FOCAL))
    fused = results(head, features, bind(fused_relation_loss, negative_rows, FOCAL))
    direct = results(head, features, reference(negative_rows, FOCAL))
    for name, value in expected.items():
        error = (fused[name].double() - value).abs().max()
        assert error <= 2 * (direct[name].double() - value).abs().max() + 1e-5 * value.abs().max(), name


def test_relation_loss_selects_the_fused_kernel_only_if_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("rr.methods.relation.fused.fused_relation_loss", lambda *_: calls.append("fused"))
    monkeypatch.setattr("rr.methods.relation.loss.factorized_relation_loss", lambda *_: calls.append("torch"))
    features, negative_rows = torch.randn(4, 3, 8), roll_negative_rows(4, 3)
    relation_loss(RelationHead(8), features, negative_rows)
    relation_loss(RelationHead(8, "max"), features, negative_rows)
    relation_loss(RelationHead(8, "max"), torch.randn(9, 3, 8), roll_negative_rows(9, 3))
    relation_loss(RelationHead(8).double(), features.double(), negative_rows)
    relation_loss(RelationHead(8), features[:2], roll_negative_rows(2, 3))
    for activation in (nn.GELU(), nn.LeakyReLU(0.2)):  # the kernels contain the slope of the paper's LeakyReLU
        head = RelationHead(8)
        head.activation = activation
        relation_loss(head, features, negative_rows)
    assert calls == ["fused"] + 6 * ["torch"]


class _OwnNorm(nn.BatchNorm1d):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 0 * super().forward(hidden)


@pytest.mark.parametrize(
    "change",
    [
        lambda head: setattr(head, "norm", _OwnNorm(256)),
        lambda head: setattr(head, "norm", nn.LayerNorm(256)),
        lambda head: setattr(head, "norm", nn.Identity()),
        lambda head: setattr(head, "output", nn.Sequential(nn.Dropout(0.0), nn.Linear(256, 1))),
        lambda head: setattr(head, "output", nn.Linear(256, 1, bias=False)),
        lambda head: head.activation.register_forward_hook(lambda module, inputs, output: 2 * output),
        lambda head: head.linear.register_forward_hook(lambda module, inputs, output: output.sin()),
        lambda head: setattr(head, "linear", nn.Linear(head.linear.in_features, 256, bias=False)),
        lambda head: setattr(head, "linear", _Doubled(head.linear.in_features, 256)),
    ],
)
@pytest.mark.parametrize("aggregation", ["cat", "sum"])
def test_changed_layers_are_used_for_any_number_of_views(
    change: Callable[[RelationHead], object], aggregation: Aggregation
) -> None:
    torch.manual_seed(0)
    head, features = RelationHead(8, aggregation), torch.randn(4, 3, 8)
    plain_loss, _ = relation_loss(head, features, roll_negative_rows(4, 3))
    torch.manual_seed(0)
    changed = RelationHead(8, aggregation)
    change(changed)
    negative_rows = roll_negative_rows(4, 3)
    loss, _ = relation_loss(changed, features, negative_rows)
    expected = reference(negative_rows, FOCAL)(changed, features)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() != pytest.approx(plain_loss.item(), rel=1e-5)


class _Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + input.sum(1, keepdim=True)


def test_spectral_norm_of_the_first_layer_is_trained() -> None:
    torch.manual_seed(0)
    head = RelationHead(8)
    torch.nn.utils.spectral_norm(head.linear)
    relation_loss(head, torch.randn(4, 3, 8))[0].backward()
    assert head.linear.weight_orig.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_head_that_overrides_forward_raises() -> None:
    class OwnHead(RelationHead):
        def forward(self, pairs_PI: torch.Tensor) -> torch.Tensor:
            return pairs_PI.sum(1)

    with pytest.raises(ValueError, match="OwnHead overrides forward, which relation_loss does not call"):
        relation_loss(OwnHead(8), torch.randn(4, 3, 8), roll_negative_rows(4, 3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_gradcheck(aggregation: Aggregation, training: bool) -> None:
    torch.manual_seed(0)
    head = RelationHead(3, aggregation, 4).double().train(training)
    names = [name for name, _ in head.named_parameters()]

    def loss_from_tensors(features: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(_Loss(head), {f"head.{n}": p for n, p in state.items()}, (features,))

    features = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    parameters = [p.detach().requires_grad_() for p in head.parameters()]
    assert torch.autograd.gradcheck(loss_from_tensors, (features, *parameters))


class _Loss(torch.nn.Module):
    def __init__(self, head: RelationHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        return relation_loss(self.head, features, roll_negative_rows(*features.shape[:2]))[0]


@pytest.mark.parametrize("negatives", ["roll", "random"])
def test_fused_results_do_not_depend_on_the_number_of_threads(negatives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, features, negative_rows = make_case("cat", 8, 37, negatives)
    outcomes = []
    for threads in (1, 1, 2, 3):
        # This affects only the kernels. torch keeps one thread, because its matrix products may depend on the number of
        # threads.
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        outcomes.append(results(head, features, bind(fused_relation_loss, negative_rows, FOCAL)))
    for other in outcomes[1:]:
        assert all(torch.equal(value, other[name]) for name, value in outcomes[0].items())


def test_fused_without_gradients() -> None:
    head, features, negative_rows = make_case("cat", 4, 8, "roll")
    expected = results(head, features, bind(fused_relation_loss, negative_rows, FOCAL))
    with torch.no_grad():
        loss, _ = fused_relation_loss(head, features, negative_rows, None, FOCAL)
    assert not loss.requires_grad
    assert torch.equal(loss, expected["loss"])
    assert torch.equal(head.norm.running_mean, expected["norm.running_mean"])  # updated as in a step with gradients
    frozen = copy.deepcopy(head).requires_grad_(False)
    features.requires_grad_()
    fused_relation_loss(frozen, features, negative_rows, None, FOCAL)[0].backward()
    assert features.grad is not None
    assert frozen.linear.weight.grad is None


def test_fused_loss_of_nan_is_nan() -> None:
    head, features, negative_rows = make_case("cat", 4, 8, "roll")
    features[1, 2, 3] = torch.nan
    assert fused_relation_loss(head, features, negative_rows, None, FOCAL)[0].isnan()


def test_autocast_keeps_statistics_in_float32() -> None:
    head, features, negative_rows = make_case("cat", 4, 16, "roll")
    expected = results(head, features.double(), reference(negative_rows, FOCAL))
    for implementation in (fused_relation_loss, factorized_relation_loss):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = results(head, features, bind(implementation, negative_rows, FOCAL))
        assert actual["loss"].dtype == actual["norm.running_var"].dtype == torch.float32
        assert_close({n: v for n, v in actual.items() if n == "loss" or n.startswith("norm")},
                     {n: v for n, v in expected.items() if n == "loss" or n.startswith("norm")}, 0.02)  # fmt: skip
