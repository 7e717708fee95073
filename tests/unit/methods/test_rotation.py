"""RotationNet: direction and order of the rotations, targets, memory, and that it learns."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from rr import backbones, methods, params
from rr.compute.device import single_threaded
from rr.methods.base import Method
from rr.methods.rotation import rotate
from rr.views.augmentation import Augmentation


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """One thread: on pictures this small a second one costs more than it saves."""
    with single_threaded():
        yield


def build(views: int = 1) -> Method:
    torch.manual_seed(0)
    settings = params.RotationNetConfig(
        kind="rotation", views=views, augmentation=Augmentation(), batch_size=16, epochs=1, learning_rate=0.003
    )
    return methods.build(settings, backbones.build("conv4"), classes=10, images=16)


def pictures(count: int, side: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_bright_upper_left_corner_goes_counter_clockwise() -> None:
    view = torch.zeros(1, 3, 8, 8)
    view[:, :, 0, 0] = 1
    turned, _ = rotate(view)
    corners = [tuple(picture[0].nonzero()[0].tolist()) for picture in turned]
    assert corners == [(0, 0), (7, 0), (7, 7), (0, 7)]  # row, column


def test_rotations_equal_pillows_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    turned, turns = rotate(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert turns.tolist() == [turn for turn in range(4) for _ in range(5)]
    assert turned.shape == (20, 3, 8, 8)
    rows = iter(turned.permute(0, 2, 3, 1).numpy())
    transposed = [None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270]
    for turn in range(4):
        for picture in map(Image.fromarray, pixels):
            row = next(rows)
            assert np.array_equal(row, picture.rotate(90 * turn))  # Pillow turns counter-clockwise
            assert np.array_equal(row, picture.transpose(transposed[turn]) if turn else picture)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_rotated_batch_is_channels_last(memory_format: torch.memory_format) -> None:
    views = pictures(3).contiguous(memory_format=memory_format)
    turned, _ = rotate(views)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(turned[6:9], views.flip(2, 3))


def test_pictures_that_are_not_square_are_refused() -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        rotate(torch.zeros(2, 3, 8, 9))


@pytest.mark.parametrize("K", [1, 3])
def test_all_rotations_of_all_views_count(K: int) -> None:
    method, views = build(K), pictures(4 * K)
    loss, statistics = method.loss(views, torch.full((4,), -1), ())
    logits = method.classifier(method.backbone(torch.cat([views.rot90(turn, (2, 3)) for turn in range(4)])))
    targets = torch.tensor([0, 1, 2, 3]).repeat_interleave(4 * K)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, targets))
    right, whole = statistics["accuracy"]
    assert whole == 16 * K
    assert int(right) == int((logits.argmax(1) == targets).sum())


def test_parameters_and_smallest_batch() -> None:
    method = build()
    assert sum(p.numel() for p in method.parameters()) == 24_648 + 65 * 4
    assert method.min_batch_size == 1
    loss, _ = method.loss(pictures(1), torch.full((1,), -1), ())
    loss.backward()
    assert loss.isfinite()


def test_loss_falls_on_fixed_images() -> None:
    method, views, labels = build(), pictures(16), torch.full((16,), -1)
    optimiser, _ = method.configure_optimizer(1)
    losses = []
    for _ in range(30):
        loss, _ = method.loss(views, labels, ())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * losses[0]


def test_one_graph_without_breaks() -> None:
    method, views, labels = build(), pictures(16), torch.full((16,), -1)
    compiled = torch.compile(method.loss, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = compiled(views, labels, ())
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(build().loss(views, labels, ())[0].item(), rel=0.05)
