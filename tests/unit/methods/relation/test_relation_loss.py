"""Tests of the relation head, the reference logits, the pair loss, its statistics, and errors."""

import copy
import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from relation_reference import direct_logits_and_targets
from torch import Tensor

from rr.methods.relation import PairLossConfig, RelationHead, relation_loss
from rr.methods.relation.head import Aggregation
from rr.methods.relation.pair_loss import pair_loss
from rr.methods.relation.pairs import roll_negative_rows, sample_negative_rows


@pytest.mark.parametrize(
    ("num_features", "aggregation", "parameters"),
    [(64, "cat", 33_793), (64, "sum", 17_409), (64, "mean", 17_409), (64, "max", 17_409), (512, "cat", 263_169)],
)
def test_num_parameters(num_features: int, aggregation: Aggregation, parameters: int) -> None:
    assert sum(p.numel() for p in RelationHead(num_features, aggregation).parameters()) == parameters


def test_state_dict_names() -> None:
    assert set(RelationHead(8).state_dict()) == {
        "linear.weight", "linear.bias", "output.weight", "output.bias",
        "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    }  # fmt: skip


def test_initialization_is_the_default_of_torch() -> None:
    torch.manual_seed(0)
    head = RelationHead(8)
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 256)
    output = torch.nn.Linear(256, 1)
    assert torch.equal(head.linear.weight, linear.weight)
    assert torch.equal(head.output.weight, output.weight)


def test_aggregate_by_hand() -> None:
    left, right = torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 2.0]])
    aggregated = {a: RelationHead(2, a).aggregate(left, right).tolist() for a in get_args(Aggregation)}
    assert aggregated == {"cat": [[1, 4, 3, 2]], "sum": [[4, 6]], "mean": [[2, 3]], "max": [[3, 4]]}


def test_direct_pairs_by_hand() -> None:
    """For K = 3 and M = 2, the head receives the pairs in the order of the paper's code."""
    head_inputs: list[Tensor] = []
    head = RelationHead(1, hidden_dim=4)
    head.linear.register_forward_pre_hook(lambda _, inputs: head_inputs.append(inputs[0]))
    features = torch.tensor([[[10.0], [11.0]], [[20.0], [21.0]], [[30.0], [31.0]]])
    _, targets = direct_logits_and_targets(head, features, roll_negative_rows(3, 2))
    assert head_inputs[0].tolist() == [
        [10, 20], [11, 21], [10, 21], [11, 20],
        [10, 30], [11, 31], [10, 31], [11, 30],
        [20, 30], [21, 31], [20, 31], [21, 30],
    ]  # fmt: skip
    assert targets.tolist() == [1, 1, 0, 0] * 3


@pytest.mark.parametrize(("loss", "expected"), [("focal", math.log(2) / 8), ("bce", math.log(2))])
@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("M", [1, 5])
def test_loss_at_zero_logits(loss: str, expected: float, K: int, M: int) -> None:
    head = RelationHead(8, hidden_dim=16).eval()
    torch.nn.init.zeros_(head.output.weight)
    torch.nn.init.zeros_(head.output.bias)
    config = PairLossConfig(loss)  # type: ignore[arg-type]
    value, stats = relation_loss(head, torch.randn(K, M, 8), roll_negative_rows(K, M), config=config)
    assert value.item() == pytest.approx(expected, abs=1e-7)
    assert stats.correct_positives == 0
    assert stats.correct_negatives == stats.num_negatives


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_pair_loss_equals_the_formula(gamma: float) -> None:
    logits = torch.linspace(-12, 12, 41, dtype=torch.float64, requires_grad=True)
    positive, negative = logits[::2], logits[1::2]
    y = torch.cat((positive, negative)).sigmoid()
    t = torch.cat((torch.ones_like(positive), torch.zeros_like(negative)))
    weight = 0.5 * ((1 - t) * y + t * (1 - y)) ** gamma
    # F.binary_cross_entropy has no derivative with respect to its weight, so the formula is explicit here.
    cross_entropy = -(t * y.log() + (1 - t) * (1 - y).log())
    for loss, expected in (("focal", (weight * cross_entropy).mean()), ("bce", F.binary_cross_entropy(y, t))):
        actual = pair_loss(positive, negative, PairLossConfig(loss, gamma))  # type: ignore[arg-type]
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)
        gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("loss", ["focal", "bce"])
def test_extreme_logits_give_a_finite_loss_and_gradient(loss: str, gamma: float) -> None:
    logits = torch.tensor([-500.0, -25.0, 25.0, 500.0], requires_grad=True)
    value = pair_loss(logits, logits, PairLossConfig(loss, gamma))  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(525 / 4 * (0.5 if loss == "focal" else 1))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("aggregation", get_args(Aggregation))
@pytest.mark.parametrize(("K", "M"), [(2, 6), (4, 5), (3, 1)])
def test_pair_statistics_by_hand(aggregation: Aggregation, K: int, M: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head = RelationHead(8, aggregation, 16).to(dtype).eval()
    head.output.bias.data.fill_(0.02)
    features = torch.randn(K, M, 8, dtype=dtype)
    negative_rows = sample_negative_rows(K, M, torch.Generator().manual_seed(0))
    logits, targets = direct_logits_and_targets(head, features, negative_rows)
    _, stats = relation_loss(head, features, negative_rows)
    by_hand, likelihood = [0, 0, 0, 0], [0.0, 0.0]
    for logit, target in zip(logits.tolist(), targets.tolist(), strict=True):
        kind = 0 if target == 1 else 2
        by_hand[kind] += (logit > 0) == (target == 1)
        by_hand[kind + 1] += 1
        likelihood[kind // 2] -= math.log1p(math.exp(-logit if target == 1 else logit))
    assert [int(count) for count in stats[:4]] == by_hand
    assert all(count.shape == () and count.dtype == torch.int64 for count in stats[:4:2])
    assert [value.item() for value in stats[4:]] == pytest.approx(likelihood, rel=1e-5)
    correct, total = by_hand[0] + by_hand[2], by_hand[1] + by_hand[3]
    assert stats.accuracy.item() == pytest.approx(correct / total)


def test_head_learns_to_recognize_views() -> None:
    torch.manual_seed(0)
    head = RelationHead(8, "mean", 32)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        images = torch.randn(1, 16, 8).sign()
        optimizer.zero_grad()
        loss, stats = relation_loss(head, images + 0.1 * torch.randn(4, 16, 8), roll_negative_rows(4, 16))
        loss.backward()
        optimizer.step()
    assert loss < 0.07  # 0.087 before
    assert stats.accuracy > 0.75


def test_invalid_values_raise() -> None:
    with pytest.raises(ValueError, match="aggregation must be one of cat, sum, mean, max, got 'concat'"):
        RelationHead(8, "concat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        RelationHead(0)
    with pytest.raises(ValueError, match="PairLossConfig: kind must be focal or bce, got 'hinge'"):
        PairLossConfig("hinge")  # type: ignore[arg-type]
    for gamma in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"PairLossConfig: gamma must be finite and not negative, got {gamma}"):
            PairLossConfig(gamma=gamma)
    for alpha in (0, 1):
        message = f"PairLossConfig: alpha must be greater than 0 and less than 1, got {alpha}"
        with pytest.raises(ValueError, match=message):
            PairLossConfig(alpha=alpha)
    with pytest.raises(ValueError, match=r"config must be a PairLossConfig, got 'bce': pass rr\.PairLossConfig\(kind="):
        relation_loss(RelationHead(8), torch.randn(2, 3, 8), config="bce")  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [direct_logits_and_targets, relation_loss])
def test_invalid_tensors_raise(function) -> None:  # type: ignore[no-untyped-def]
    head, features, negative_rows = RelationHead(8), torch.randn(3, 4, 8), roll_negative_rows(3, 4)
    with pytest.raises(ValueError, match=r"features_KMD must have shape \(views K, images M, size D\)"):
        function(head, features[0], negative_rows)
    with pytest.raises(ValueError, match="features_KMD must be a tensor, got ndarray"):
        function(head, features.numpy(), negative_rows)
    with pytest.raises(ValueError, match=r"the features are torch\.float64, but the head is torch\.float32"):
        function(head, features.double(), negative_rows)
    with pytest.raises(ValueError, match=r"the head is torch\.bfloat16, but must be at least float32: convert it"):
        function(copy.deepcopy(head).bfloat16(), features.bfloat16(), negative_rows)
    with pytest.raises(ValueError, match="head must be a RelationHead, got Sequential"):
        function(torch.nn.Sequential(head), features, negative_rows)
    with pytest.raises(ValueError, match="expects features of size 8, got 7"):
        function(head, features[..., :7], negative_rows)
    with pytest.raises(ValueError, match="at least 2 views"):
        function(head, features[:1], negative_rows)
    with pytest.raises(
        ValueError, match=r"negative_rows must be int64 of shape \(3, 4\) on cpu, got torch.int64 of shape \(3, 3\)"
    ):
        function(head, features, negative_rows[:, :3])
    with pytest.raises(ValueError, match=r"negative_rows must be int64 .* got torch.int32"):
        function(head, features, negative_rows.int())
    with pytest.raises(ValueError, match=r"negative_rows must be int64 .* on meta"):
        function(head, features, negative_rows.to("meta"))
    with pytest.raises(ValueError, match="negative_rows must be a tensor, got ndarray"):
        function(head, features, negative_rows.numpy())


def test_negative_partner_must_be_another_image() -> None:
    negative_rows = roll_negative_rows(3, 4)
    negative_rows[1, 2] = 2
    with pytest.raises(ValueError, match="negative_rows must not contain a row's own number"):
        relation_loss(RelationHead(8), torch.randn(3, 4, 8), negative_rows)
    head, features, rows = RelationHead(8), torch.randn(3, 4, 8), roll_negative_rows(3, 4)
    with torch.device("meta"):  # a default device that the user has set
        relation_loss(head, features, rows)
    own = torch.arange(4).expand(3, 4)
    relation_loss(RelationHead(8), torch.randn(3, 4, 8), positive_rows=own)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_partner_outside_the_mini_batch_raises(wrong: int) -> None:
    negative_rows = roll_negative_rows(3, 4)
    negative_rows[1, 2] = wrong
    with pytest.raises(ValueError, match=f"negative_rows must contain .* 0 to 3, but contains {wrong}"):
        relation_loss(RelationHead(8), torch.randn(3, 4, 8), negative_rows)
    positive_rows = torch.arange(4).expand(3, 4).clone()
    positive_rows[1, 2] = wrong
    with pytest.raises(ValueError, match=f"positive_rows must contain .* 0 to 3, but contains {wrong}"):
        relation_loss(RelationHead(8), torch.randn(3, 4, 8), positive_rows=positive_rows)


def test_single_pair_in_training_mode_raises() -> None:
    head, features, negative_rows = RelationHead(8), torch.randn(2, 1, 8), roll_negative_rows(2, 1)
    with pytest.raises(ValueError, match="single pair"):
        relation_loss(head, features, negative_rows)
    loss, stats = relation_loss(head.eval(), features, negative_rows)
    assert torch.isfinite(loss)
    assert (stats.num_positives, stats.num_negatives) == (1, 0)


@pytest.mark.parametrize(("K", "M"), [(2, 3), (4, 5), (4, 1)])
def test_negative_partners_are_rolled_by_default(K: int, M: int) -> None:
    features = torch.randn(K, M, 6, generator=torch.Generator().manual_seed(0))
    head = RelationHead(6)
    loss, stats = relation_loss(head, features)
    expected, expected_stats = relation_loss(head, features, roll_negative_rows(K, M))
    assert torch.equal(loss, expected)
    assert stats == expected_stats


def test_features_of_another_shape_raise_without_partners() -> None:
    with pytest.raises(ValueError, match="features_KMD must have shape"):
        relation_loss(RelationHead(6), torch.zeros(4, 6))
