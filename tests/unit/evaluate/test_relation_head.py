"""Compare the relation head in numpy with the network in torch, and test the calibration of its scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from networks import random_backbone
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

from rr.backbones.weights import read_metadata, save_backbone
from rr.errors import UserError
from rr.evaluate.relation_head import (
    Calibration,
    NumpyRelationHead,
    fit_calibration,
    load_relation_head,
)
from rr.evaluate.relation_head import measure_calibration as measure
from rr.methods.relation import RelationHead as TorchHead
from rr.methods.relation.head import Aggregation


def save_head(path: Path, aggregation: Aggregation) -> TorchHead:
    """Save a backbone with a random head and random batch norm statistics, and return the head."""
    torch.manual_seed(0)
    head = TorchHead(64, aggregation)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    head.norm.running_mean.normal_()
    head.norm.running_var.uniform_(0.5, 2)
    save_backbone(random_backbone("conv4"), path, layers={"relation_head": head}, aggregation=aggregation)
    return head.eval()


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_logits_are_the_mean_of_both_orders_of_the_network(tmp_path: Path, aggregation: Aggregation) -> None:
    network = save_head(tmp_path / "w", aggregation)
    head = load_relation_head(tmp_path / "w")
    assert head
    first, second = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        both = [network(network.aggregate(*pair)) for pair in ((first, second), (second, first))]
    expected = torch.stack(both).mean(0).numpy()
    assert torch.allclose(*both) == (aggregation != "cat")
    actual = head.logits(first.numpy(), second.numpy())
    assert np.allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.allclose(head.logits(second.numpy(), first.numpy()), actual, rtol=1e-5, atol=1e-3)
    repeated = head.logits(first[:1].numpy(), second.numpy())
    assert np.allclose(repeated, head.logits(first[:1].repeat(9, 1).numpy(), second.numpy()), rtol=1e-4, atol=1e-3)


def test_files_without_a_head(tmp_path: Path) -> None:
    save_backbone(random_backbone("conv4"), tmp_path / "w")
    assert load_relation_head(tmp_path / "w") is None
    (tmp_path / "w").write_bytes(b"x" * 20)
    for name in ("w", "missing"):
        with pytest.raises(UserError, match="missing or damaged"):
            load_relation_head(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "alter", "message"),
    [
        ("linear.weight", lambda value: value * torch.nan, "contains NaN or infinity"),
        ("output.bias", lambda value: value + torch.inf, "contains NaN or infinity"),
        ("norm.running_var", lambda value: -value, "contains negative values"),
        (
            "linear.weight",
            lambda value: value[:, :64],
            r"has the type and shape F32 \[256, 64\] instead of F32 \[256, 128",
        ),
        ("output.bias", lambda value: value[0], r"has the type and shape F32 \[\] instead of F32 \[1\]"),
        (
            "norm.bias",
            lambda value: value.to(torch.int32),
            r"has the type and shape I32 \[256\] instead of F32 \[256\]",
        ),
        ("output.weight", lambda value: value.bfloat16(), r"has the type and shape BF16 \[1, 256\] instead of F32 "),
    ],
)
def test_damaged_head_raises(tmp_path: Path, name: str, alter: Callable, message: str) -> None:
    save_head(tmp_path / "w", "cat")
    tensors, metadata = load_file(tmp_path / "w"), {"rr": json.dumps(read_metadata(tmp_path / "w"))}
    key = f"relation_head.{name}"
    save_file(tensors | {key: alter(tensors[key]).contiguous()}, tmp_path / "w", metadata)
    with pytest.raises(UserError, match=rf"w is missing or damaged \({key} {message}"):
        load_relation_head(tmp_path / "w")


@pytest.mark.parametrize("metadata", [{}, {"aggregation": "median"}, {"aggregation": ["cat"]}, []])
def test_head_without_a_valid_aggregation_raises(tmp_path: Path, metadata: dict | list) -> None:
    save_head(tmp_path / "w", "sum")
    save_file(load_file(tmp_path / "w"), tmp_path / "w", {"rr": json.dumps(metadata)})
    with pytest.raises(UserError, match="w is missing or damaged"):
        load_relation_head(tmp_path / "w")


def test_calibration_is_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4000) * 3
    is_positive = rng.random(4000) < 1 / (1 + np.exp(-(2.5 * logits - 1)))
    calibration = fit_calibration(logits, is_positive)
    expected = LogisticRegression(C=1e9, tol=1e-8).fit(logits[:, None], is_positive)
    assert calibration.slope == pytest.approx(expected.coef_[0, 0], rel=0.02)  # Platt's targets are not exactly 0 and 1
    assert calibration.intercept == pytest.approx(expected.intercept_[0], rel=0.05)
    assert calibration.probabilities(np.array([0.4]))[0] == pytest.approx(0.5, abs=0.02)


def test_separable_pairs_have_a_finite_calibration() -> None:
    calibration = fit_calibration(np.array([-2.0, -1, 1, 2]), np.array([False, False, True, True]))
    high, low = calibration.probabilities(np.array([100.0, -100.0]))
    assert 0.75 < high <= 1
    assert low == pytest.approx(1 - high)
    assert np.isfinite(calibration).all()
    # Platt's target is (2 + 1) / (2 + 2) for two positive pairs, and 1 / (2 + 2) for two negative pairs.
    calibration = fit_calibration(np.array([-1.0, -1, 1, 1]), np.array([False, False, True, True]))
    assert calibration.probabilities(np.array([-1.0, 1.0])) == pytest.approx([0.25, 0.75], abs=1e-5)
    assert Calibration(1, 0).probabilities(np.array([-2000.0, 0, 2000])).tolist() == [0, 0.5, 1]


def test_calibration_lowers_the_error_on_other_pairs() -> None:
    rng = np.random.default_rng(0)
    # The logit is 0.1 · max(x, y) − 0.2. Both views of a positive pair have almost the same feature, and high features
    # are rarer, so the maximum is lower for positive pairs, on average.
    head = NumpyRelationHead(
        "max", np.eye(1, dtype=np.float32), np.zeros(1, np.float32), np.full(1, 0.1, np.float32), -0.2
    )
    x = rng.exponential(size=(1, 2000, 1)).astype(np.float32)
    views = np.concatenate((x, x + rng.normal(size=x.shape).astype(np.float32) * 0.1))
    metrics = measure(head, views, seed=0)
    assert metrics["relation_pairs"] == 2000
    assert metrics["relation_calibration_error"] < 0.05
    assert metrics["relation_slope"] < 0  # positive pairs have the lower maximum here
    assert metrics["relation_uncalibrated_error"] > metrics["relation_calibration_error"]
    assert metrics["relation_accuracy"] > 0.5
    assert measure(head, views, seed=0) == metrics
    assert measure(head, views, seed=1) != metrics


def test_calibration_is_tested_on_images_that_it_was_not_fitted_to() -> None:
    rng = np.random.default_rng(0)
    head = NumpyRelationHead("sum", np.eye(3, dtype=np.float32), np.zeros(3, np.float32), np.ones(3, np.float32), 0.0)
    views = rng.normal(size=(2, 8, 3)).astype(np.float32)
    before = measure(head, views, seed=0)
    changed_metrics = []
    for image in range(8):
        changed = views.copy()
        changed[:, image] += 0.1
        after = measure(head, changed, seed=0)
        changed_metrics.append(
            [name for name in ("relation_slope", "relation_uncalibrated_error") if after[name] != before[name]]
        )
    assert sorted(changed_metrics) == [["relation_slope"]] * 4 + [["relation_uncalibrated_error"]] * 4
