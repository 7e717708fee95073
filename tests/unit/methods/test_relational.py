"""Tests of the relational method: heads, labels and the mutual information bound."""

import math
from pathlib import Path

import golden
import pytest
import torch
from golden import small_config
from relation_reference import direct_logits_and_targets
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from rr import backbones, params
from rr.methods.relation import PairLossConfig, RelationHead, relation_loss
from rr.methods.relation.dot_product_loss import dot_product_loss
from rr.methods.relation.pair_loss import pair_statistics
from rr.methods.relation.pairs import roll_negative_rows, sample_negative_rows
from rr.methods.relational import RelationalReasoning, mutual_information_bound
from rr.views.augmentation import Augmentation


def make_config(**changes: object) -> params.RelationalConfig:
    defaults = {
        "kind": "relational", "augmentation": Augmentation(), "views": 4, "batch_size": 8, "epochs": 1,
        "learning_rate": 0.001, "head": "relation", "aggregation": "cat", "loss": "focal", "gamma": 2.0, "alpha": 0.5,
        "negatives": "roll", "label_fraction": 0.0,
    }  # fmt: skip
    return params.RelationalConfig.model_validate(defaults | changes)


def build(**changes: object) -> RelationalReasoning:
    torch.manual_seed(0)
    return RelationalReasoning(make_config(**changes), backbones.build("conv4"))


@pytest.mark.parametrize("M", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("K", [2, 3, 8])
def test_dot_product_loss_equals_loops_over_pairs(K: int, M: int) -> None:
    features = torch.randn(K, M, 5, dtype=torch.float64, requires_grad=True)
    negative_rows = roll_negative_rows(K, M)
    loss, stats = dot_product_loss(features, negative_rows, config=PairLossConfig("bce"))
    logits, targets, pair = [], [], 0
    for i in range(K):
        for j in range(i + 1, K):
            for m in range(M):
                logits.append(features[i, m] @ features[j, m])
                targets.append(1.0)
                if M > 1:
                    logits.append(features[i, m] @ features[j, negative_rows[pair, m]])
                    targets.append(0.0)
            pair += 1
    expected = F.binary_cross_entropy_with_logits(torch.stack(logits), torch.tensor(targets, dtype=torch.float64))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, features, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
    assert stats.num_positives + stats.num_negatives == (M * (K * K - K) if M > 1 else K * (K - 1) // 2)


@pytest.mark.parametrize("M", [2, 3, 7, 64])
@pytest.mark.parametrize("K", [2, 3, 8, 32])
def test_every_implementation_uses_all_pairs(K: int, M: int) -> None:
    head, features, negative_rows = RelationHead(5, hidden_dim=8), torch.randn(K, M, 5), roll_negative_rows(K, M)
    logits, targets = direct_logits_and_targets(head, features, negative_rows)
    assert len(logits) == M * (K * K - K)
    for stats in (relation_loss(head, features, negative_rows)[1], dot_product_loss(features, negative_rows)[1]):
        assert stats.num_positives == stats.num_negatives == targets.sum() == M * (K * K - K) // 2


def test_heads_of_the_ablation() -> None:
    sizes = {
        head: sum(p.numel() for p in build(head=head).head.parameters()) for head in ("relation", "dot", "encoder-dot")
    }
    assert sizes == {"relation": 33_793, "dot": 0, "encoder-dot": 33_600}
    for head in sizes:
        method = build(head=head)
        loss, statistics = method.loss(torch.randn(32, 3, 32, 32), torch.zeros(8, dtype=torch.int64), ())
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
        assert set(statistics) == {"accuracy", "accuracy_positive", "accuracy_negative", "information"}


def test_single_image_has_only_positive_pairs() -> None:
    for head in ("relation", "dot", "encoder-dot"):
        method = build(head=head)
        loss, statistics = method.loss(torch.randn(4, 3, 32, 32), torch.zeros(1, dtype=torch.int64), ())
        assert loss.isfinite()
        assert statistics["accuracy_positive"][1] == 6
        assert statistics["accuracy_negative"][1] == statistics["information"][1] == 0


class IdentityBackbone(nn.Module):
    """A backbone that returns its input."""

    num_features = 2

    def forward(self, views: Tensor) -> Tensor:
        return views


def test_labels_determine_positives_and_exclude_negatives() -> None:
    """If representations encode only the class, labels make positive partners equal and negative partners different."""
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    views = (F.one_hot(labels, 2) * 2.0 - 1).repeat(4, 1)
    metrics = {}
    for fraction in (0.0, 1.0):
        torch.manual_seed(0)
        config = make_config(head="dot", label_fraction=fraction, negatives="random")
        method = RelationalReasoning(config, IdentityBackbone())
        random_inputs = method.sample_random_inputs(6, torch.Generator().manual_seed(1))
        _, statistics = method.loss(views, labels, random_inputs)
        metrics[fraction] = {name: float(value / total) for name, (value, total) in statistics.items()}
    assert metrics[1.0]["accuracy_positive"] == metrics[1.0]["accuracy_negative"] == 1.0
    assert metrics[0.0]["accuracy_positive"] == 1.0
    assert metrics[0.0]["accuracy_negative"] < 0.8


def test_withheld_labels_do_not_change_the_loss() -> None:
    views = torch.randn(24, 3, 32, 32)
    no_labels = torch.full((6,), -1)
    for negatives in ("roll", "random"):
        plain, with_labels = (build(negatives=negatives, label_fraction=fraction) for fraction in (0.0, 0.5))
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        inputs = [m.sample_random_inputs(6, g) for m, g in zip((plain, with_labels), generators, strict=True)]
        first, second = plain.loss(views, no_labels, inputs[0])[0], with_labels.loss(views, no_labels, inputs[1])[0]
        torch.testing.assert_close(first, second, rtol=1e-6, atol=0)
        assert not torch.equal(with_labels.loss(views, torch.zeros(6, dtype=torch.int64), inputs[1])[0], second)


def test_random_inputs_depend_only_on_the_generator() -> None:
    method = build(negatives="random", label_fraction=0.5)
    first, again, other = (method.sample_random_inputs(7, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert [tensor.shape for tensor in first] == [(6, 7), (2, 6, 7)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    assert torch.equal(first[0], sample_negative_rows(4, 7, torch.Generator().manual_seed(1)))


def test_mutual_information_bound_is_tight_for_the_optimal_head() -> None:
    """There are two symbols. Positive pairs agree with probability 0.9; members of negative pairs are independent."""
    agreement = 0.9
    joint, product = torch.tensor([agreement, 1 - agreement], dtype=torch.float64), torch.tensor([0.5, 0.5]).double()
    mixture = (joint + product) / 2
    divergence = 0.5 * ((joint * (joint / mixture).log2()).sum() + (product * (product / mixture).log2()).sum())
    optimal = (joint / product).log()  # logit of p / (p + q)
    n = 1000

    def bound(logits: Tensor) -> float:
        positive = logits.repeat_interleave((joint * n).round().long())
        negative = logits.repeat_interleave((product * n).round().long())
        return float(mutual_information_bound(pair_statistics(positive, negative)))

    assert bound(optimal) == pytest.approx(divergence.item(), abs=1e-9)
    for suboptimal in (0.5 * optimal, 1.5 * optimal, optimal + 0.3, torch.zeros_like(optimal)):
        assert bound(suboptimal) < divergence
    assert bound(torch.zeros_like(optimal)) == pytest.approx(0, abs=1e-12)
    assert bound(torch.tensor([50.0, -50.0]).double()) < 0  # confident but often wrong
    certain = pair_statistics(torch.full((3,), 40.0).double(), torch.full((3,), -40.0).double())
    assert float(mutual_information_bound(certain)) == pytest.approx(1.0)
    assert math.isclose(divergence.item(), 0.1468, abs_tol=5e-5)  # by hand: 0.5 (0.9 log2 9/7 + 0.1 log2 1/3 + ...)


def test_head_is_saved_with_the_backbone(tmp_path: Path) -> None:
    """Its weights, and the statistics of its batch normalization, are those from the end of training."""
    data = golden.write_images(tmp_path / "train.beton", 60)
    config = small_config("relational", epochs=1, batch_size=60)
    outputs = golden.train(data, tmp_path / "run", config)
    tensors = load_file(outputs.weights)
    prefix = "relation_head."
    head = RelationHead(64, "cat")
    head.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
    assert int(head.norm.num_batches_tracked) == 1
    start = load_file(outputs.last_epoch)
    assert not torch.equal(head.linear.weight, start["method.head.linear.weight"])
    # The first step of Adam changes each weight by at most the learning rate.
    assert torch.allclose(head.linear.weight, start["method.head.linear.weight"], atol=1.1 * config.learning_rate)
