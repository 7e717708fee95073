"""Tests of RotationNet: direction and order of the rotations, targets, memory format and training."""

import numpy as np
import pytest
import torch
from PIL import Image

from rr import backbones, methods, params
from rr.methods.base import Method
from rr.methods.rotation import rotate_four_ways
from rr.views.augmentation import Augmentation


def build(views: int = 1) -> Method:
    torch.manual_seed(0)
    config = params.RotationNetConfig(
        kind="rotation", views=views, augmentation=Augmentation(), batch_size=16, epochs=1, learning_rate=0.003
    )
    return methods.build(config, backbones.build("conv4"), num_classes=10)


def make_images(count: int, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_upper_left_corner_moves_counterclockwise() -> None:
    view = torch.zeros(1, 3, 8, 8)
    view[:, :, 0, 0] = 1
    rotated = rotate_four_ways(view)
    corners = [tuple(image[0].nonzero()[0].tolist()) for image in rotated]
    assert corners == [(0, 0), (7, 0), (7, 7), (0, 7)]  # row, column


def test_rotations_equal_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    rotated = rotate_four_ways(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert rotated.shape == (20, 3, 8, 8)
    rows = iter(rotated.permute(0, 2, 3, 1).numpy())
    transposed = [None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270]
    for k in range(4):
        for image in map(Image.fromarray, pixels):
            row = next(rows)
            assert np.array_equal(row, image.rotate(90 * k))  # Pillow rotates counterclockwise
            assert np.array_equal(row, image.transpose(transposed[k]) if k else image)


def test_images_that_are_not_square_raise() -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        rotate_four_ways(torch.zeros(2, 3, 8, 9))


@pytest.mark.parametrize("K", [1, 3])
def test_loss_is_over_all_rotations_of_all_views(K: int) -> None:
    method, views = build(K), make_images(4 * K)
    loss, statistics = method.loss(views, torch.full((4,), -1), ())
    logits = method.classifier(method.backbone(torch.cat([views.rot90(k, (2, 3)) for k in range(4)])))
    targets = torch.tensor([0, 1, 2, 3]).repeat_interleave(4 * K)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, targets))
    correct, total = statistics["accuracy"]
    assert total == 16 * K
    assert int(correct) == int((logits.argmax(1) == targets).sum())


def test_num_parameters_and_loss_of_one_image() -> None:
    method = build()
    assert sum(p.numel() for p in method.parameters()) == 24_648 + 65 * 4
    loss, _ = method.loss(make_images(1), torch.full((1,), -1), ())
    loss.backward()
    assert loss.isfinite()


def test_loss_falls_on_fixed_images() -> None:
    method, views, labels = build(), make_images(16), torch.full((16,), -1)
    optimizer = torch.optim.Adam(method.parameters(), 0.003)
    losses = []
    for _ in range(30):
        loss, _ = method.loss(views, labels, ())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * losses[0]
