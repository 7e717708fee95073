"""Test feature extraction."""

from pathlib import Path

import golden
import numpy as np
import pytest
import torch

from rr import backbones
from rr.data.beton import Beton
from rr.evaluate import feature_extraction


@pytest.mark.parametrize(
    ("image_size", "on_gpu", "on_cpu"),
    [(8, 512, 128), (32, 512, 128), (64, 512, 64), (224, 512, 16), (225, 507, 16), (1024, 24, 16), (10_000, 1, 1)],
)
def test_batches_of_large_images_are_smaller(image_size: int, on_gpu: int, on_cpu: int) -> None:
    assert feature_extraction.batch_size_for(image_size, "cuda:0") == on_gpu
    assert feature_extraction.batch_size_for(image_size, "cpu") == on_cpu


def test_batches_are_reported_and_their_size_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Beton(golden.write_images(tmp_path / "train.beton", 30), threads=1)
    backbone, dataset = backbones.build("conv4").requires_grad_(False).eval(), golden.PARAMS.datasets["shapes"]
    expected = feature_extraction.extract_features(backbone, data, dataset, "cpu")
    monkeypatch.setattr(feature_extraction, "_MAX_BATCH_PIXELS", 7 * 32**2)
    sizes: list[int] = []
    rows = np.random.default_rng(0).permutation(30)[:20]
    actual = feature_extraction.extract_features(backbone, data, dataset, "cpu", rows, sizes.append)
    torch.testing.assert_close(actual, expected[rows])
    assert sizes == [7, 7, 6]
