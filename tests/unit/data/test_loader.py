"""Batches ahead of training: the same by every way, in order, and with an end."""

import copy
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from rr import backbones, methods
from rr.data import beton
from rr.data.loader import Feed, ahead
from rr.data.shapes import generate
from rr.params import Dataset, Relational, ShapesSource
from rr.pretrain.loop import _forward
from rr.views.augmentation import Augmentation

SHAPES = Dataset(
    source=ShapesSource(kind="shapes", train=70, test=10, seed=0), side=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
)
PAPER = Augmentation(
    crop="resized", flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("feed") / "train.beton"
    images, labels = generate(70, 0, "train")
    beton.write(target, images, labels, np.arange(70))
    return target


def feed(path: Path, *, resident: bool = True, on_device: bool = False) -> Feed:
    data = beton.Beton(path, threads=2, resident_bytes=1 << 30 if resident else 0)
    return Feed(data, SHAPES, PAPER, views=3, batch_size=16, seed=5, device="cpu", on_device=on_device)


def seen(source: Feed, epoch: int, first_step: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(source.augment(*batch.inputs).clone(), batch.labels) for batch in source.epoch(epoch, first_step)]


def test_every_way_to_the_views_gives_the_same(path: Path) -> None:
    expected = seen(feed(path), 2)
    assert [len(labels) for _, labels in expected] == [16, 16, 16, 16, 6]
    assert expected[0][0].shape == (48, 3, 32, 32)
    assert expected[0][0].is_contiguous(memory_format=torch.channels_last)
    for resident, on_device in ((False, False), (True, True), (False, True)):
        found = seen(feed(path, resident=resident, on_device=on_device), 2)
        for (views, labels), (same_views, same_labels) in zip(found, expected, strict=True):
            assert torch.equal(labels, same_labels)
            # Bit for bit by the CPU's kernel; the device's differs by rounding.
            assert torch.allclose(views, same_views, atol=5e-5 if on_device else 0, rtol=0)


def test_an_epoch_begins_at_any_step_and_differs_from_the_next(path: Path) -> None:
    source = feed(path)
    whole, rest = seen(source, 1), seen(source, 1, first_step=3)
    assert len(rest) == 2
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole[3:], rest, strict=True))
    assert not torch.equal(whole[0][1], seen(source, 2)[0][1])
    assert sorted(torch.cat([labels for _, labels in whole]).tolist()) == sorted(source.data.labels.tolist())


def test_work_ahead_keeps_its_order_and_raises_its_errors() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise ZeroDivisionError

    stream = ahead(broken(), 2)
    assert [next(stream) for _ in range(5)] == list(range(5))
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_leaving_early_ends_the_work_and_its_thread() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    stream = ahead(endless(), 2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert closed.wait(5)
    deadline = time.monotonic() + 5
    while any(thread.name == "feed" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "feed" for thread in threading.enumerate())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_step_of_a_gpu_is_one_graph_that_is_compiled_once_for_each_shape(path: Path, precision: str) -> None:
    """On CPU tensors: no break that would wait for the host, and the loss of the CPU's way."""
    torch.manual_seed(0)
    settings = Relational(
        kind="relational", augmentation=PAPER, views=3, batch_size=16, epochs=1, learning_rate=0.001,
        head="relation", aggregation="cat", loss="focal", gamma=2.0, alpha=0.5, negatives="roll", labelled=0.0,
    )  # fmt: skip
    method = methods.build(settings, backbones.build("conv4"), 10, 70).train()
    source, reference = feed(path, on_device=True), feed(path)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(
        partial(_forward, method, source.augment, precision), backend=counter, fullgraph=True, dynamic=False
    )
    for epoch in range(2):
        for batch, same in zip(source.epoch(epoch), reference.epoch(epoch), strict=True):
            state = copy.deepcopy(method.state_dict())
            loss, fractions = compiled(batch.inputs, batch.labels, ())
            loss.backward()
            method.load_state_dict(state)
            expected, parts = _forward(method, reference.augment, "float32", same.inputs, same.labels, ())
            assert loss.item() == pytest.approx(expected.item(), rel=1e-3 if precision == "float32" else 0.05)
            assert fractions["accuracy"][1] == parts["accuracy"][1]
    assert counter.frame_count == 2  # the full batch, and the last
