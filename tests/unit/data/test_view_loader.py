"""Tests of the data loader: the same views on every code path, the order, and the prefetch thread."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from helpers import PAPER_AUGMENTATION
from torch._dynamo.testing import CompileCounter

from rr import backbones, methods
from rr.compute.torch_threads import configure_torch
from rr.data import beton
from rr.data.shapes import generate_shapes
from rr.data.view_loader import ViewLoader, prefetch
from rr.params import DatasetConfig, RelationalConfig, ShapesSource
from rr.pretrain.loop import _forward
from rr.views import cpu_views
from rr.views.augmentation import Augmentation

SHAPES = DatasetConfig(
    source=ShapesSource(kind="shapes", train=70, test=10, seed=0),
    image_size=32,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
)
PAPER = Augmentation(**PAPER_AUGMENTATION)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("loader") / "train.beton"
    images, labels = generate_shapes(70, 0, "train")
    beton.write(target, images, labels, np.arange(70))
    return target


def make_loader(
    path: Path,
    *,
    resident: bool = True,
    on_device: bool = False,
    threads: int = 2,
    local_slice: Callable[[int], slice] | None = None,
) -> ViewLoader:
    data = beton.Beton(path, threads=threads, max_resident_bytes=1 << 30 if resident else 0)
    return ViewLoader(
        data, SHAPES, PAPER, num_views=3, batch_size=16, seed=5, device="cpu", augment_on_device=on_device,
        local_slice=local_slice,
    )  # fmt: skip


def list_batches(loader: ViewLoader, epoch: int, first_step: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(loader.augment(*batch.inputs).clone(), batch.labels) for batch in loader.iter_epoch(epoch, first_step)]


def test_every_code_path_gives_the_same_views(path: Path) -> None:
    expected = list_batches(make_loader(path), 2)
    assert [len(labels) for _, labels in expected] == [16, 16, 16, 16, 6]
    assert expected[0][0].shape == (48, 3, 32, 32)
    assert expected[0][0].is_contiguous(memory_format=torch.channels_last)
    for resident, on_device in ((False, False), (True, True), (False, True)):
        batches = list_batches(make_loader(path, resident=resident, on_device=on_device), 2)
        for (views, labels), (same_views, same_labels) in zip(batches, expected, strict=True):
            assert torch.equal(labels, same_labels)
            # On the CPU path, the views are bit-identical. The device path differs by rounding errors.
            assert torch.allclose(views, same_views, atol=5e-5 if on_device else 0, rtol=0)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("on_device", [True, False])
def test_processes_load_their_slices(path: Path, resident: bool, on_device: bool) -> None:
    def load(local_slice: Callable[[int], slice] | None = None) -> list[torch.Tensor]:
        loader = make_loader(path, resident=resident, on_device=on_device, local_slice=local_slice)
        return [views.unflatten(0, (3, -1)) for views, _ in list_batches(loader, 0)]

    parts = [load(lambda size, rank=rank: slice(rank * size // 2, (rank + 1) * size // 2)) for rank in (0, 1)]
    for first, second, expected in zip(*parts, load(), strict=True):
        assert torch.allclose(torch.cat([first, second], 1), expected, atol=1e-5 if on_device else 0, rtol=0)


@pytest.mark.parametrize("resident", [True, False])
def test_views_use_the_configured_number_of_threads(
    path: Path, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several runs with `threads: 1` can share a machine without taking cores from each other."""
    numbers = set()

    def count_threads(function: Callable[[int, int], object], num_items: int, num_threads: int) -> None:
        numbers.add(num_threads)
        function(0, num_items)

    monkeypatch.setattr(cpu_views, "parallel_for", count_threads)
    before = torch.get_num_threads(), numba.get_num_threads()
    try:
        configure_torch(1)
        list_batches(make_loader(path, resident=resident, threads=1), 0)
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
    assert numbers == {1}


def test_epoch_can_start_at_any_step_and_has_its_own_order(path: Path) -> None:
    loader = make_loader(path)
    batches, rest = list_batches(loader, 1), list_batches(loader, 1, first_step=3)
    assert len(rest) == 2
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches[3:], rest, strict=True))
    assert not torch.equal(batches[0][1], list_batches(loader, 2)[0][1])
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == sorted(loader.data.labels.tolist())


def test_prefetch_keeps_order_and_raises_errors() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise ZeroDivisionError

    stream = prefetch(broken(), 2)
    assert [next(stream) for _ in range(5)] == list(range(5))
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_closing_prefetch_ends_its_thread() -> None:
    closed = threading.Event()

    def infinite() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    stream = prefetch(infinite(), 2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert closed.wait(5)
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("prefetch") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gpu_step_is_one_graph_compiled_once_per_shape(path: Path, precision: str) -> None:
    """Check on CPU tensors that the step never waits for the host, and that its loss equals that of the CPU path."""
    torch.manual_seed(0)
    settings = RelationalConfig(
        kind="relational", augmentation=PAPER, views=3, batch_size=16, epochs=1, learning_rate=0.001,
        head="relation", aggregation="cat", loss="focal", gamma=2.0, alpha=0.5, negatives="roll", label_fraction=0.0,
    )  # fmt: skip
    method = methods.build(settings, backbones.build("conv4"), 10).train()
    loader, reference = make_loader(path, on_device=True), make_loader(path)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(
        partial(_forward, "relational", method, loader.augment, precision),
        backend=counter,
        fullgraph=True,
        dynamic=False,
    )
    for epoch in range(2):
        for batch, reference_batch in zip(loader.iter_epoch(epoch), reference.iter_epoch(epoch), strict=True):
            state = copy.deepcopy(method.state_dict())
            loss, fractions = compiled(batch.inputs, batch.labels, ())
            loss.backward()
            method.load_state_dict(state)
            expected, parts = _forward(
                "relational", method, reference.augment, "float32", reference_batch.inputs, reference_batch.labels, ()
            )
            assert loss.item() == pytest.approx(expected.item(), rel=1e-3 if precision == "float32" else 0.05)
            assert fractions["accuracy"][1] == parts["accuracy"][1]
    assert counter.frame_count == 2  # once for full batches, once for the last batch
