"""Every form of the relation loss equals the reference: loss, all gradients and running statistics.

Reference: ``direct_logits`` in float64 with torch's own cross-entropy. Tolerances, relative to the largest entry of a
tensor: 1e-12 in float64, 1e-5 for the fused kernel in float32 and 5e-5 for the loop of ``max`` in float32. (In float32
the reference itself is off by 6e-5 on these cases.)
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rr.methods.relation.chunked_max import chunked_max_loss
from rr.methods.relation.factorized import factorized_loss
from rr.methods.relation.fused import fused_loss
from rr.methods.relation.loss import Aggregation, RelationHead, direct_logits, relation_loss
from rr.methods.relation.pair_loss import PairLoss
from rr.methods.relation.pairs import random_partners, roll_partners

FLOAT32 = 1e-5
FLOAT32_MAX = 5e-5
SHAPES = [(K, M) for K in (2, 3, 5, 8) for M in (1, 2, 3, 16, 64) if (K, M) != (2, 1)]
Form = Callable[[RelationHead, Tensor], Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny cases: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_case(
    aggregation: Aggregation, K: int, M: int, negatives: str, positives: Tensor | None = None
) -> tuple[RelationHead, Tensor, Tensor]:
    """A float32 head away from its initial values, features off centre, and partners.

    The seed is the first for which no normalised value is so near 0 that rounding could change the LeakyReLU's slope.
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
            partners = roll_partners(K, M)
        else:
            partners = random_partners(K, M, torch.Generator().manual_seed(M))
        if smallest_normalised_value(head, features, partners, positives) > 2e-6:
            return head, features, partners
    raise AssertionError


def smallest_normalised_value(
    head: RelationHead, features: Tensor, partners: Tensor, positives: Tensor | None
) -> float:
    values: list[Tensor] = []
    head = copy.deepcopy(head).double()
    head.activation.register_forward_pre_hook(lambda _, inputs: values.append(inputs[0].detach().abs().min()))
    for training in (True, False):
        direct_logits(head.train(training), features.double(), partners, positives)
    return min(values).item()


def reference(partners: Tensor, loss: str, gamma: float, alpha: float = 0.5, positives: Tensor | None = None) -> Form:
    """Loss of the reference logits, spelled out."""

    def form(head: RelationHead, features: Tensor) -> Tensor:
        logits, targets = direct_logits(head, features, partners, positives)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if loss == "bce":
            return cross_entropy.mean()
        wrong = torch.where(targets == 1, 1 - logits.sigmoid(), logits.sigmoid())
        return ((targets * alpha + (1 - targets) * (1 - alpha)) * wrong**gamma * cross_entropy).mean()

    return form


def results(head: RelationHead, features: Tensor, form: Form) -> dict[str, Tensor]:
    """Loss, gradients and buffers after one step of a copy of the head, in the dtype of the features."""
    head, features = copy.deepcopy(head).to(features.dtype), features.clone().requires_grad_()
    value = form(head, features)
    (3 * value).backward()  # a factor shows that the incoming gradient is used
    assert features.grad is not None
    gradients = {f"grad {name}": p.grad for name, p in head.named_parameters() if p.grad is not None}
    assert len(gradients) == 6
    return {"loss": value.detach(), "grad features": features.grad, **gradients, **dict(head.named_buffers())}


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Largest error of each tensor, relative to its largest entry.

    Gradients of biases are sums that may cancel (that of the first bias is exactly 0 in training mode), so they are
    compared on the scale of the gradient of their weight.
    """
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = expected[name.replace("bias", "weight")] if name.startswith("grad") else value
        error = (got[name].double() - value).abs().max()
        assert error <= tolerance * max(scale.abs().max(), value.abs().max()), f"{name}: {error:.2e}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("negatives", ["roll", "random"])
@pytest.mark.parametrize(("loss", "gamma"), [("focal", 2.0), ("bce", 0.0)])
@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_forms_equal_the_reference(
    aggregation: Aggregation, loss: PairLoss, gamma: float, negatives: str, training: bool
) -> None:
    for K, M in SHAPES:
        head, features, partners = make_case(aggregation, K, M, negatives)
        head.train(training)
        expected = results(head, features.double(), reference(partners, loss, gamma))
        torch_form = results(head, features.double(), lambda h, z, p=partners: factorized_loss(h, z, p, loss, gamma)[0])
        assert_equal(torch_form, expected, 1e-12)
        if aggregation == "max":
            chunked = results(
                head, features.double(), lambda h, z, p=partners: chunked_max_loss(h, z, p, loss, gamma)[0]
            )
            assert_equal(chunked, expected, 1e-12)
            chunked = results(head, features, lambda h, z, p=partners: chunked_max_loss(h, z, p, loss, gamma)[0])
            assert_equal(chunked, expected, FLOAT32_MAX)
        else:
            fused = results(head, features, lambda h, z, p=partners: fused_loss(h, z, p, loss, gamma)[0])
            assert_equal(fused, expected, FLOAT32)


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_forms_with_positives_of_other_rows_and_uneven_weights(aggregation: Aggregation) -> None:
    for K, M in [(2, 5), (3, 1), (4, 6), (9, 16)]:
        positives = torch.randint(M, (K * (K - 1) // 2, M), generator=torch.Generator().manual_seed(K))
        head, features, partners = make_case(aggregation, K, M, "random", positives)
        expected = results(head, features.double(), reference(partners, "focal", 2.0, 0.3, positives))
        own = results(head, features.double(), reference(partners, "focal", 2.0, 0.3))
        assert M == 1 or not torch.allclose(expected["loss"], own["loss"])

        def with_form(form: Callable[..., tuple[Tensor, object]], p: Tensor = partners, s: Tensor = positives) -> Form:
            return lambda h, z: form(h, z, p, "focal", 2.0, 0.3, s)[0]

        assert_equal(results(head, features.double(), with_form(factorized_loss)), expected, 1e-12)
        if aggregation == "max":
            assert_equal(results(head, features.double(), with_form(chunked_max_loss)), expected, 1e-12)
        else:
            assert_equal(results(head, features, with_form(fused_loss)), expected, FLOAT32)
        chosen = results(
            head, features,
            lambda h, z, p=partners, s=positives: relation_loss(h, z, p, s, gamma=2.0, alpha=0.3)[0],
        )  # fmt: skip
        assert_equal(chosen, expected, FLOAT32_MAX)


def test_fused_keeps_accuracy_far_off_centre() -> None:
    """Features with a mean 1,000 times their spread: squares are summed after centring, so variances survive."""
    torch.manual_seed(0)
    head, partners = RelationHead(16, hidden_dim=32), roll_partners(4, 32)
    features = (torch.randn(1, 32, 16) + 0.5 * torch.randn(4, 32, 16)) / 100 + 10
    expected = results(head, features.double(), reference(partners, "focal", 2.0))
    fused = results(head, features, lambda h, z: fused_loss(h, z, partners, "focal", 2.0)[0])
    direct = results(head, features, reference(partners, "focal", 2.0))
    for name, value in expected.items():
        error = (fused[name].double() - value).abs().max()
        assert error <= 2 * (direct[name].double() - value).abs().max() + 1e-5 * value.abs().max(), name


def test_default_path_is_fused_only_where_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("rr.methods.relation.fused.fused_loss", lambda *_: calls.append("fused"))
    monkeypatch.setattr("rr.methods.relation.loss.factorized_loss", lambda *_: calls.append("torch"))
    monkeypatch.setattr("rr.methods.relation.loss.chunked_max_loss", lambda *_: calls.append("max"))
    features, partners = torch.randn(4, 3, 8), roll_partners(4, 3)
    relation_loss(RelationHead(8), features, partners)
    relation_loss(RelationHead(8, "max"), features, partners)
    relation_loss(RelationHead(8, "max"), torch.randn(9, 3, 8), roll_partners(9, 3))
    relation_loss(RelationHead(8).double(), features.double(), partners)
    relation_loss(RelationHead(8), features[:2], roll_partners(2, 3))
    assert calls == ["fused", "torch", "max", "torch", "torch"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_gradcheck(aggregation: Aggregation, training: bool) -> None:
    torch.manual_seed(0)
    head = RelationHead(3, aggregation, 4).double().train(training)
    names = [name for name, _ in head.named_parameters()]

    def loss_of(features: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(_Loss(head), {f"head.{n}": p for n, p in state.items()}, (features,))

    features = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    parameters = [p.detach().requires_grad_() for p in head.parameters()]
    assert torch.autograd.gradcheck(loss_of, (features, *parameters))


class _Loss(torch.nn.Module):
    def __init__(self, head: RelationHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        return relation_loss(self.head, features, roll_partners(*features.shape[:2]))[0]


@pytest.mark.parametrize("negatives", ["roll", "random"])
def test_fused_repeats_bit_by_bit_for_any_number_of_threads(negatives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, features, partners = make_case("cat", 8, 37, negatives)
    outcomes = []
    for threads in (1, 1, 2, 3):
        # Only the kernels: torch itself keeps one thread, as its matrix products may differ with their number.
        monkeypatch.setattr("rr.methods.relation.fused.num_threads", lambda threads=threads: threads)
        outcomes.append(results(head, features, lambda h, z: fused_loss(h, z, partners, "focal", 2.0)[0]))
    for other in outcomes[1:]:
        assert all(torch.equal(value, other[name]) for name, value in outcomes[0].items())


def test_fused_without_gradients() -> None:
    head, features, partners = make_case("cat", 4, 8, "roll")
    expected = results(head, features, lambda h, z: fused_loss(h, z, partners, "focal", 2.0)[0])
    with torch.no_grad():
        loss, _ = fused_loss(head, features, partners, "focal", 2.0)
    assert not loss.requires_grad
    assert torch.equal(loss, expected["loss"])
    assert torch.equal(head.norm.running_mean, expected["norm.running_mean"])  # updated as in a step with gradients
    frozen = copy.deepcopy(head).requires_grad_(False)
    features.requires_grad_()
    fused_loss(frozen, features, partners, "focal", 2.0)[0].backward()
    assert features.grad is not None
    assert frozen.linear.weight.grad is None


def test_fused_shows_what_is_not_a_number() -> None:
    head, features, partners = make_case("cat", 4, 8, "roll")
    features[1, 2, 3] = torch.nan
    assert fused_loss(head, features, partners, "focal", 2.0)[0].isnan()


def test_autocast_keeps_statistics_in_float32() -> None:
    head, features, partners = make_case("cat", 4, 16, "roll")
    expected = results(head, features.double(), reference(partners, "focal", 2.0))
    for form in (fused_loss, factorized_loss):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = results(head, features, lambda h, z, f=form: f(h, z, partners, "focal", 2.0)[0])
        assert got["loss"].dtype == got["norm.running_var"].dtype == torch.float32
        assert_equal({n: v for n, v in got.items() if n == "loss" or n.startswith("norm")},
                     {n: v for n, v in expected.items() if n == "loss" or n.startswith("norm")}, 0.02)  # fmt: skip
