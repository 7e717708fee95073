"""The relational method around its loss: heads, labels, the information bound."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rr import backbones, params
from rr.methods.relation.dot_product import dot_product_loss
from rr.methods.relation.loss import RelationHead, direct_logits, relation_loss
from rr.methods.relation.pair_loss import pair_statistics
from rr.methods.relation.pairs import random_partners, roll_partners
from rr.methods.relational import RelationalReasoning, mutual_information_bound
from rr.views.augmentation import Augmentation


def settings_of(**changes: object) -> params.RelationalConfig:
    usual = {
        "kind": "relational", "augmentation": Augmentation(), "views": 4, "batch_size": 8, "epochs": 1,
        "learning_rate": 0.001, "head": "relation", "aggregation": "cat", "loss": "focal", "gamma": 2.0, "alpha": 0.5,
        "negatives": "roll", "label_fraction": 0.0,
    }  # fmt: skip
    return params.RelationalConfig.model_validate(usual | changes)


def method_of(**changes: object) -> RelationalReasoning:
    torch.manual_seed(0)
    return RelationalReasoning(settings_of(**changes), backbones.build("conv4"))


@pytest.mark.parametrize("M", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("K", [2, 3, 8])
def test_dot_products_against_pairs_one_by_one(K: int, M: int) -> None:
    features = torch.randn(K, M, 5, dtype=torch.float64, requires_grad=True)
    partners = roll_partners(K, M)
    loss, counts = dot_product_loss(features, partners, loss="bce")
    logits, targets, pair = [], [], 0
    for i in range(K):
        for j in range(i + 1, K):
            for m in range(M):
                logits.append(features[i, m] @ features[j, m])
                targets.append(1.0)
                if M > 1:
                    logits.append(features[i, m] @ features[j, partners[pair, m]])
                    targets.append(0.0)
            pair += 1
    expected = F.binary_cross_entropy_with_logits(torch.stack(logits), torch.tensor(targets, dtype=torch.float64))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, features, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
    assert counts.num_positives + counts.num_negatives == (M * (K * K - K) if M > 1 else K * (K - 1) // 2)


@pytest.mark.parametrize("M", [2, 3, 7, 64])
@pytest.mark.parametrize("K", [2, 3, 8, 32])
def test_every_form_sees_all_pairs(K: int, M: int) -> None:
    head, features, partners = RelationHead(5, hidden_dim=8), torch.randn(K, M, 5), roll_partners(K, M)
    logits, targets = direct_logits(head, features, partners)
    assert len(logits) == M * (K * K - K)
    for counts in (relation_loss(head, features, partners)[1], dot_product_loss(features, partners)[1]):
        assert counts.num_positives == counts.num_negatives == targets.sum() == M * (K * K - K) // 2


def test_the_heads_of_the_ablation() -> None:
    sizes = {
        head: sum(p.numel() for p in method_of(head=head).head.parameters())
        for head in ("relation", "dot", "encoder-dot")
    }
    assert sizes == {"relation": 33_793, "dot": 0, "encoder-dot": 33_600}
    for head in sizes:
        method = method_of(head=head)
        loss, statistics = method.loss(torch.randn(32, 3, 32, 32), torch.zeros(8, dtype=torch.int64), ())
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
        assert set(statistics) == {"accuracy", "accuracy_positive", "accuracy_negative", "information"}


def test_a_single_remaining_image_makes_positives_only() -> None:
    for head in ("relation", "dot", "encoder-dot"):
        method = method_of(head=head)
        assert method.min_batch_size == 1
        loss, statistics = method.loss(torch.randn(4, 3, 32, 32), torch.zeros(1, dtype=torch.int64), ())
        assert loss.isfinite()
        assert statistics["accuracy_positive"][1] == 6
        assert statistics["accuracy_negative"][1] == statistics["information"][1] == 0
    assert method_of(views=2).min_batch_size == 2


class AsItIs(nn.Module):
    """A backbone whose representation is what it is given."""

    features = 2

    def forward(self, views: Tensor) -> Tensor:
        return views


def test_labels_supply_positives_and_spare_negatives() -> None:
    """Where a representation is the class itself, only known classes make every positive alike, no negative."""
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    views = (F.one_hot(labels, 2) * 2.0 - 1).repeat(4, 1)
    found = {}
    for labelled in (0.0, 1.0):
        torch.manual_seed(0)
        method = RelationalReasoning(settings_of(head="dot", label_fraction=labelled, negatives="random"), AsItIs())
        drawn = method.sample_noise(6, torch.Generator().manual_seed(1))
        _, statistics = method.loss(views, labels, drawn)
        found[labelled] = {name: float(part / whole) for name, (part, whole) in statistics.items()}
    assert found[1.0]["accuracy_positive"] == found[1.0]["accuracy_negative"] == 1.0
    assert found[0.0]["accuracy_positive"] == 1.0
    assert found[0.0]["accuracy_negative"] < 0.8


def test_held_back_labels_change_nothing() -> None:
    views = torch.randn(24, 3, 32, 32)
    unlabelled = torch.full((6,), -1)
    for negatives in ("roll", "random"):
        plain, with_labels = (method_of(negatives=negatives, label_fraction=share) for share in (0.0, 0.5))
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        drawn = [m.sample_noise(6, g) for m, g in zip((plain, with_labels), generators, strict=True)]
        first, second = plain.loss(views, unlabelled, drawn[0])[0], with_labels.loss(views, unlabelled, drawn[1])[0]
        torch.testing.assert_close(first, second, rtol=1e-6, atol=0)
        assert not torch.equal(with_labels.loss(views, torch.zeros(6, dtype=torch.int64), drawn[1])[0], second)


def test_draws_follow_the_generator() -> None:
    method = method_of(negatives="random", label_fraction=0.5)
    first, again, other = (method.sample_noise(7, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert [tensor.shape for tensor in first] == [(6, 7), (2, 6, 7)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    assert torch.equal(first[0], random_partners(4, 7, torch.Generator().manual_seed(1)))


def test_the_information_bound_is_tight_for_the_best_answer() -> None:
    """Two symbols; a positive pair agrees with probability 0.9, halves of a negative pair are independent."""
    agree = 0.9
    joint, product = torch.tensor([agree, 1 - agree], dtype=torch.float64), torch.tensor([0.5, 0.5]).double()
    mixture = (joint + product) / 2
    divergence = 0.5 * ((joint * (joint / mixture).log2()).sum() + (product * (product / mixture).log2()).sum())
    best = (joint / product).log()  # logit of p / (p + q)
    n = 1000

    def bound(logits: Tensor) -> float:
        positive = logits.repeat_interleave((joint * n).round().long())
        negative = logits.repeat_interleave((product * n).round().long())
        part, whole = mutual_information_bound(pair_statistics(positive, negative))
        return float(part / whole)

    assert bound(best) == pytest.approx(divergence.item(), abs=1e-9)
    for worse in (0.5 * best, 1.5 * best, best + 0.3, torch.zeros_like(best)):
        assert bound(worse) < divergence
    assert bound(torch.zeros_like(best)) == pytest.approx(0, abs=1e-12)
    assert bound(torch.tensor([50.0, -50.0]).double()) < 0  # sure, and often wrong
    certain = mutual_information_bound(pair_statistics(torch.full((3,), 40.0).double(), torch.full((3,), -40.0).double()))
    assert float(certain[0] / certain[1]) == pytest.approx(1.0)
    assert math.isclose(divergence.item(), 0.1468, abs_tol=5e-5)  # by hand: 0.5 (0.9 log2 9/7 + 0.1 log2 1/3 + ...)
