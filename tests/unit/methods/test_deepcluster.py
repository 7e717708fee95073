"""Tests of DeepCluster: whitening, clusters and their weights, the last layer, reproducibility and errors."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from rr import backbones, methods, params
from rr.methods import deepcluster
from rr.methods.deepcluster import DeepCluster, cluster, whiten
from rr.views.augmentation import Augmentation


def make_config(clusters: int = 4, clusters_per: str = "dataset") -> params.DeepClusterConfig:
    return params.DeepClusterConfig(
        kind="deepcluster", views=1, augmentation=Augmentation(), batch_size=16, epochs=1, learning_rate=0.003,
        clusters=clusters, clusters_per=clusters_per, hidden_dim=256, n_init=2, max_iter=30,
    )  # fmt: skip


class Stub(nn.Module):
    """A backbone without a forward pass."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def build(num_features: int = 64, clusters: int = 4) -> DeepCluster:
    torch.manual_seed(0)
    return DeepCluster(make_config(clusters), Stub(num_features), 0)


def correlated_features(count: int, size: int) -> Tensor:
    """Return correlated features with different variances and a mean that is not 0."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linspace(0.1, 5, size).diag() @ torch.randn(size, size, generator=generator)
    return torch.randn(count, size, generator=generator) @ mixing + 3


def make_groups(sizes: list[int]) -> tuple[Tensor, np.ndarray]:
    """Return well-separated, shuffled groups of the given sizes, and the group of each row.

    There is one fewer feature than there are groups, so the groups differ in all directions. Whitening would otherwise
    scale directions of pure noise to the same variance.
    """
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centers_GD = 5 * np.eye(len(sizes), len(sizes) - 1)
    features_ND = centers_GD[group] + 0.1 * rng.normal(size=(len(group), len(sizes) - 1))
    return torch.from_numpy(features_ND).float(), group


def test_whitening_gives_unit_covariance() -> None:
    x = whiten(correlated_features(500, 12), 12).double()
    torch.testing.assert_close(x.T @ x / 499, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.mean(0), torch.zeros(12, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_components", [12, 6])
def test_whitening_equals_scikit_learn_up_to_sign(num_components: int) -> None:
    features = correlated_features(500, 12)
    before = features.clone()
    x = whiten(features, num_components).numpy()
    assert (x.shape, x.dtype) == ((500, num_components), np.float32)
    reference = PCA(num_components, whiten=True, svd_solver="full").fit_transform(features.double().numpy())
    np.testing.assert_allclose(x * np.sign((x * reference).sum(0)), reference, rtol=1e-4, atol=1e-5)
    assert torch.equal(features, before)


def test_whitening_float64_does_not_change_its_input() -> None:
    features = correlated_features(20, 3).double()
    before = features.clone()
    whiten(features, 3)
    assert torch.equal(features, before)


def test_whitening_constant_and_redundant_units_gives_zero() -> None:
    features_N4 = correlated_features(300, 4)
    features = torch.cat((features_N4, torch.zeros(300, 1), torch.full((300, 1), 1 / 3), 2 * features_N4[:, :1]), 1)
    x = whiten(features, 7)
    torch.testing.assert_close(x.var(0), torch.tensor([1.0] * 4 + [0.0] * 3), rtol=0, atol=1e-5)
    assert not x[:, 4:].any()


@pytest.mark.parametrize("value", [0.0, 1 / 3, 1e6])
def test_constant_features_give_a_finite_loss(value: float) -> None:
    method = build(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # scikit-learn: fewer distinct points than clusters
        labels = method.update_pseudo_labels(lambda: torch.full((50, 8), value), 1)
    assert labels.unique().tolist() == [0]
    assert method.cluster_weights_C.tolist() == [pytest.approx(1 / 50), 1, 1, 1]
    method.backbone.forward = lambda views: views  # type: ignore[method-assign]
    assert method.loss(torch.randn(6, 8), labels[:6], ())[0].isfinite()


@pytest.mark.parametrize("sample", [10_000, 60])
def test_clusters_are_the_groups(sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test k-means on all points and on a sample."""
    monkeypatch.setattr(deepcluster, "SAMPLE_SIZE", sample)
    features, group = make_groups([100, 60, 30, 10])
    method = build(3)
    labels = method.update_pseudo_labels(lambda: features, 1)
    assert (labels.dtype, labels.shape) == (torch.int64, (200,))
    assert adjusted_rand_score(group, labels.numpy()) == 1
    fraction = {int(labels[group == number][0]): (group == number).mean() for number in range(4)}
    expected = torch.tensor([1 - fraction[label] for label in range(4)], dtype=torch.float32)
    torch.testing.assert_close(method.cluster_weights_C, expected)
    assert sorted(method.cluster_weights_C.tolist()) == pytest.approx([0.5, 0.7, 0.85, 0.95])


def test_whitening_keeps_half_of_512_components(monkeypatch: pytest.MonkeyPatch) -> None:
    num_components = []
    monkeypatch.setattr(deepcluster, "whiten", lambda x, number: num_components.append(number) or whiten(x, number))
    for num_features in (512, 64):
        build(num_features).update_pseudo_labels(lambda size=num_features: torch.randn(30, size), 1)
    assert num_components == [256, 64]


def test_points_are_normalized(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(deepcluster, "cluster", lambda points, *rest: calls.append(points) or cluster(points, *rest))
    build(6).update_pseudo_labels(lambda: correlated_features(50, 6), 1)
    np.testing.assert_allclose(np.linalg.norm(calls[0], axis=1), 1, rtol=1e-6)


def test_only_the_last_layer_is_initialized_again() -> None:
    method = build(64, clusters=100)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.update_pseudo_labels(lambda: correlated_features(300, 64), 1)
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.3.weight", "head.3.bias", "cluster_weights_C"}
    last = method.head[3]
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert last.weight.mean().item() == pytest.approx(0, abs=2e-4)
    assert not last.bias.any()
    assert last.weight.requires_grad


def test_results_depend_only_on_features_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepcluster, "SAMPLE_SIZE", 1000)
    features, threads = correlated_features(3000, 16), torch.get_num_threads()
    runs = []
    for seed in (4_000_000_000, 4_000_000_000, 2):
        method = build(16, clusters=20)
        runs.append(
            (method.update_pseudo_labels(lambda: features, seed), method.head[3].weight, method.cluster_weights_C)
        )
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))
    assert torch.get_num_threads() == threads


def test_cluster_weights_are_in_the_state_dict() -> None:
    method, other = build(3), build(3)
    method.update_pseudo_labels(lambda: make_groups([30, 20, 5, 5])[0], 1)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.cluster_weights_C, method.cluster_weights_C)
    assert other.cluster_weights_C.min() == 0.5


def test_loss_by_hand() -> None:
    method = build(2, clusters=2)
    method.backbone.forward = lambda views: views  # type: ignore[method-assign]
    method.head = nn.Sequential(nn.Identity())
    method.cluster_weights_C.copy_(torch.tensor([0.25, 0.75]))
    logits = torch.tensor([[3.0, 1.0], [3.0, 1.0], [1.0, 3.0]]).log()
    loss, statistics = method.loss(logits, torch.tensor([0, 1, 1]), ())
    expected = -(0.25 * np.log(0.75) + 0.75 * np.log(0.25) + 0.75 * np.log(0.75)) / 1.75
    assert loss.item() == pytest.approx(expected)
    correct, total = statistics["accuracy"]
    assert (int(correct), total) == (2, 3)


@pytest.mark.parametrize(
    ("classes", "clusters", "parameters"), [(10, 100, 42_852), (100, 1000, 274_152), (200, 2000, 531_152)]
)
def test_num_parameters(classes: int, clusters: int, parameters: int) -> None:
    method = DeepCluster(make_config(10, "class"), Stub(64), classes)
    assert method.num_clusters == clusters
    assert sum(p.numel() for p in method.parameters()) == parameters


@pytest.mark.parametrize("bfloat16", [False, True])
def test_conv4_learns_its_clusters(bfloat16: bool) -> None:
    torch.manual_seed(0)
    method = methods.build(make_config(3), backbones.build("conv4"), num_classes=0)
    views = torch.randn(3, 3, 8, 8).repeat(8, 1, 1, 1) + 0.1 * torch.randn(24, 3, 8, 8)
    optimizer = torch.optim.Adam(method.parameters(), 0.003)
    method.eval()
    with torch.inference_mode():
        features = method.backbone(views).clone()
    labels = method.update_pseudo_labels(lambda: features, 1)
    method.train()
    for _ in range(15):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss, statistics = method.loss(views, labels, ())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.dtype == torch.float32
    assert loss.item() < 0.5 * np.log(3)
    assert int(statistics["accuracy"][0]) > 20
