"""Tests of feature extraction."""

from pathlib import Path

import golden
import numpy as np
import pytest
import torch

from rr import backbones
from rr.data.beton import Beton
from rr.evaluate import features


@pytest.mark.parametrize(("image_size", "expected"), [(8, 512), (224, 512), (225, 507), (1024, 24), (10_000, 1)])
def test_batches_of_large_images_are_smaller(image_size: int, expected: int) -> None:
    assert features.batch_size_for(image_size) == expected


def test_batches_are_reported_and_their_size_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Beton(golden.write_images(tmp_path / "train.beton", 30), threads=1)
    backbone, dataset = backbones.build("conv4").requires_grad_(False).eval(), golden.PARAMS.datasets["shapes"]
    expected = features.extract_features(backbone, data, dataset, "cpu")
    monkeypatch.setattr(features, "_MAX_BATCH_PIXELS", 7 * 32**2)
    sizes: list[int] = []
    actual = features.extract_features(backbone, data, dataset, "cpu", np.arange(20), sizes.append)
    torch.testing.assert_close(actual, expected[:20])
    assert sizes == [7, 7, 6]
