"""Tests of the benchmark: rr and the reference compute the same results, and every part runs. Times are not checked."""

import contextlib
import importlib
import json
import re
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LONG
from torch import Tensor, nn

from rr import backbones, bench, methods
from rr.bench import alternating, memory, reference
from rr.bench.measure import Candidate, Timing, summarize, time_interleaved
from rr.bench.parts import busy, gpu
from rr.bench.settings import AUGMENTATION, MEAN, STD, Settings, paper_config
from rr.bench.table import format_results
from rr.bench.training_loop import StopTraining
from rr.compute.optimizers import make_optimizer
from rr.data.beton import encode_photograph, max_photograph_bytes, write_stored
from rr.errors import UserError
from rr.views import make_views

QUANTILES = {"min", "q1", "median", "q3", "max", "count"}
STEPS = 50 if LONG else 15


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights of `source` to `target`. Both modules list them in the order of the layers."""
    with torch.no_grad():
        for source_parameter, target_parameter in zip(source.parameters(), target.parameters(), strict=True):
            target_parameter.copy_(source_parameter)


def make_random_views(step: int, num_views: int, num_images: int) -> Tensor:
    images = np.random.default_rng(step).integers(0, 256, (num_images, 32, 32, 3), np.uint8)
    return make_views(
        images, np.arange(num_images), augmentation=AUGMENTATION, seed=0, epoch=step, num_views=num_views,
        mean=MEAN, std=STD, device="cpu",
    ).clone()  # fmt: skip


def train_both(
    method: str, views: int, images: int, dtype: torch.dtype, *, same_weights: bool
) -> list[tuple[float, float]]:
    """Train rr and the reference for STEPS steps on the same views, and return the two losses of each step.

    If `same_weights` is true, each step starts from the weights of the reference, and the gradients are also compared.
    """
    torch.manual_seed(0)
    config: Any = paper_config(method, views, images)
    rr_model = methods.build(config, backbones.build("conv4"), 10)
    reference_model = reference.build_model(method, 10)
    copy_weights(rr_model, reference_model)
    rr_model.to(dtype), reference_model.to(dtype)
    optimizer = make_optimizer(config.optimizer, [(rr_model.parameters(), config.learning_rate)])
    labels = torch.arange(images) % 10
    losses, errors = [], []
    for step in range(STEPS):
        if same_weights:
            copy_weights(reference_model, rr_model)
        batch = make_random_views(step, views, images).to(dtype)
        loss, _ = rr_model.loss(batch, labels, ())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((loss.item(), reference_model.train_step(batch.contiguous().chunk(views), labels)))
        if same_weights:
            rr_gradient, reference_gradient = (
                torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
                for model in (rr_model, reference_model)
            )
            errors.append(float((rr_gradient - reference_gradient).norm() / reference_gradient.norm()))
    if same_weights:
        # The input of a ReLU can be so close to 0 that rounding changes its sign, and thus a gradient by 1%.
        assert max(errors) < 0.03
        assert sorted(errors)[STEPS // 2] < 1e-4
    assert len({rr_loss for rr_loss, _ in losses}) == STEPS
    return losses


CASES = [("relational", 6, 10), ("relational", 2, 16), ("supervised", 1, 16), ("simclr", 2, 16), ("rotation", 1, 16)]


@pytest.mark.parametrize(("method", "views", "images"), CASES)
def test_training_matches_the_reference_in_float64(method: str, views: int, images: int) -> None:
    """Two independent training runs have the same losses, so both implementations compute the same functions."""
    for rr_loss, reference_loss in train_both(method, views, images, torch.float64, same_weights=False):
        assert rr_loss == pytest.approx(reference_loss, rel=1e-11)


@pytest.mark.parametrize(("method", "views", "images"), CASES)
def test_every_step_matches_the_reference_in_float32(method: str, views: int, images: int) -> None:
    """Each step starts from equal weights, because rounding errors of the fused kernels grow to 1% within 50 steps."""
    for rr_loss, reference_loss in train_both(method, views, images, torch.float32, same_weights=True):
        assert rr_loss == pytest.approx(reference_loss, rel=1e-5)


@pytest.mark.parametrize("name", ["resnet32", "resnet34"])
def test_large_backbones_match_the_reference(name: str) -> None:
    torch.manual_seed(0)
    rr_backbone, (reference_backbone, num_features) = backbones.build(name).double(), reference.build_backbone(name)
    copy_weights(rr_backbone, reference_backbone.double())
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    features = [backbone(images) for backbone in (rr_backbone, reference_backbone)]
    assert features[0].shape == (4, num_features)
    assert torch.allclose(*features, rtol=1e-9, atol=1e-12)
    gradients = []
    for backbone, output in zip((rr_backbone, reference_backbone), features, strict=True):
        output.square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in backbone.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-6, atol=1e-9)


def test_reference_pairs_each_view_with_all_later_views() -> None:
    K, M = 4, 3  # few images, so that the shift of the roll returns to 1
    rows = torch.arange(K * M, dtype=torch.float32).view(K, M, 1)
    pairs, targets = reference.make_pairs(rows)
    assert pairs.shape == (M * (K * K - K), 2)
    assert targets.sum() * 2 == len(targets)
    left, right = (pairs % M).T
    assert (left == right).eq(targets > 0).all()
    assert (pairs[:, 0] // M < pairs[:, 1] // M).all()


def test_focal_loss_of_logit_zero_matches_the_paper() -> None:
    assert reference.focal_loss(torch.zeros(2), torch.tensor([0.0, 1.0])).item() == pytest.approx(0.0866, abs=1e-4)


def test_views_of_rr_and_reference_have_equal_statistics() -> None:
    count = 600
    ramp = np.linspace(0, 255, 32, dtype=np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, ::-1], np.uint8(90)), axis=-1)
    torch.manual_seed(0)
    data = reference.ImageDataset(image[None], np.zeros(1), reference.relational_transform(32, MEAN, STD), count)
    reference_views = torch.stack(data[0][0])
    rr_views = make_views(
        image[None], np.zeros(1, np.int64), augmentation=AUGMENTATION, seed=0, epoch=0, num_views=count,
        mean=MEAN, std=STD, device="cpu",
    )  # fmt: skip
    assert reference_views.shape == rr_views.shape == (count, 3, 32, 32)
    assert reference_views.dtype == torch.float32
    scale, shift = torch.tensor(STD)[:, None, None], torch.tensor(MEAN)[:, None, None]
    statistics = []
    for views in (reference_views * scale + shift, rr_views * scale + shift):
        is_gray = (views.amax(1) - views.amin(1)).amax((1, 2)) < 1e-3
        brighter_at_bottom = views[:, 0, -1].mean(1) > views[:, 0, 0].mean(1)
        brighter_at_left = views[:, 1, :, 0].mean(1) > views[:, 1, :, -1].mean(1)
        fractions = [values.double().mean().item() for values in (is_gray, brighter_at_bottom, brighter_at_left)]
        statistics.append([*fractions, views.mean().item(), views.std().item()])
    # The tolerance is about three standard errors of the difference between two fractions.
    assert statistics[0] == pytest.approx(statistics[1], abs=0.08)
    assert statistics[0][0] == pytest.approx(0.2, abs=0.06)


def test_unknown_part_raises() -> None:
    with pytest.raises(
        UserError,
        match=r"unknown benchmark part: heads\. Choose from views, head, .*startup, machine, scaling, gpu",
    ):
        bench.run_benchmark(["head", "heads"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"threads": [1, 999]}, r"--threads must be from 1 to .*, got 999"),
        ({"data": Path("nowhere")}, "--data nowhere contains no train.beton"),
    ],
)
def test_invalid_options_raise(arguments: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        bench.run_benchmark(["head"], **arguments)


def test_photographs_raise(tmp_path: Path) -> None:
    stored = (encode_photograph(np.full((16, 20, 3), row, np.uint8), "raw") for row in range(4))
    write_stored(tmp_path / "train.beton", stored, np.arange(4) % 2, np.arange(4), max_photograph_bytes(16))
    message = (
        f"--data {tmp_path} contains photographs of different sizes, but the reference implementation needs images"
    )
    with pytest.raises(UserError, match=message):
        bench.run_benchmark(["loader"], data=tmp_path, smoke_test=True)


def test_json_format() -> None:
    results = json.loads(bench.run_benchmark(["backbone"], as_json=True, steps=2, smoke_test=True, threads=[1]))
    assert set(results) == {"schema", "settings", "machine", "load", "parts"}
    assert results["schema"] == "rr-bench-2"
    assert results["settings"] == {"steps": 2, "threads": [1], "data": None, "smoke_test": True}
    assert {"processor", "cores", "versions", "python"} <= set(results["machine"])
    assert len(results["load"]["before"]) == len(results["load"]["after"]) == 3
    part = results["parts"]["backbone"]
    assert set(part) == {"cases", "notes", "seconds", "load"}
    case = part["cases"][0]
    assert set(case) == {"case", "unit", "threads", "candidates", "facts"}
    first, second = case["candidates"]
    assert (
        set(first)
        == set(second)
        == {"name", "num_units", "wall", "cpu", "per_second", "per_cpu_second", "ratio", "cpu_ratio"}
    )
    assert first["ratio"] is None
    for quantiles in (first["wall"], first["cpu"], second["wall"], second["ratio"], second["cpu_ratio"]):
        assert set(quantiles) == QUANTILES
        assert quantiles["count"] == 2


def test_candidates_alternate_and_ratios_are_computed_per_repeat() -> None:
    order: list[str] = []
    candidates = [Candidate(name, lambda name=name: order.append(name), 1) for name in "ab"]
    timings = time_interleaved(candidates, 3, warmup=1)
    assert "".join(order) == "ab" * 4
    assert [len(candidate_timings) for candidate_timings in timings] == [3, 3]
    timings = [[Timing(1, 1), Timing(2, 1)], [Timing(2, 0), Timing(8, 1)]]
    result = summarize("", "views", 1, [("a", 10), ("b", 5)], timings).candidates[1]
    assert result.ratio is not None
    assert (result.ratio.min, result.ratio.max) == (4, 8)
    assert result.cpu_ratio is None  # one of the CPU times is 0, i.e. unknown
    assert result.per_second == 1


def test_table_explains_ratios_of_any_first_candidate() -> None:
    """In the `busy` part, both candidates are rr."""
    case = summarize("training", "views", 1, [("idle", 10), ("busy", 10)], [[Timing(1, 1)], [Timing(2, 2)]])
    part = {"cases": [asdict(case)], "notes": [], "seconds": 3, "load": {"before": [0], "after": [0]}}
    machine = {"processor": "", "cores": 1, "system": "", "python": "", "versions": {}}
    text = format_results({"machine": machine, "load": part["load"], "parts": {"busy": part}})
    assert re.search(r"busy +1 .* 2\.00 ", text)
    assert "divided by that of the first row of the case, which is usually rr. If it is above 1, the first row" in text


def test_program_that_ends_early_raises() -> None:
    endless = "from rr.bench.alternating import StepGate\ngate = StepGate()\nwhile True: gate.step_done()"
    with pytest.raises(RuntimeError, match="ended with exit code 3 before it completed a turn: fix the"):
        alternating.time_programs(
            [[sys.executable, "-c", endless], [sys.executable, "-c", "raise SystemExit(3)"]], 2, 1
        )


def test_peak_memory_includes_freed_memory() -> None:
    def allocate() -> None:
        np.ones(64 << 20, np.uint8)  # too large for malloc to reuse freed memory

    # The peak is measured several times, because a kernel that reclaims idle pages (DAMON) can make it look smaller.
    peaks = [memory.measure_peak_mib(allocate) for _ in range(5)]
    assert any(peak is None or 60 < peak < 80 for peak in peaks)
    assert all(peak is None or peak < 80 for peak in peaks)


def test_peak_memory_is_none_if_the_system_reports_current_memory_as_peak(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status = tmp_path / "status"
    status.write_text("VmHWM:  100 kB\nVmRSS:  100 kB\n")
    monkeypatch.setattr(memory, "_STATUS", status)
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "clear_refs")
    assert memory.measure_peak_mib(lambda: None) is None


@pytest.mark.parametrize("part", ["views", "head", "loader", "evaluation", "machine", "scaling"])
def test_part_runs(part: str) -> None:
    text = bench.run_benchmark([part], steps=1, smoke_test=True, threads=[1])
    assert f"{part} (" in text
    assert "load average" in text
    assert "CPU ratio" in text


@pytest.mark.slow
def test_training_part_runs() -> None:
    results = json.loads(bench.run_benchmark(["training"], as_json=True, steps=2, smoke_test=True, threads=[1]))
    case = results["parts"]["training"]["cases"][0]
    assert [candidate["wall"]["count"] for candidate in case["candidates"]] == [2, 2]
    assert [candidate["num_units"] for candidate in case["candidates"]] == [32, 32]


@pytest.mark.slow
def test_busy_part_runs() -> None:
    results = json.loads(bench.run_benchmark(["busy"], as_json=True, steps=2, smoke_test=True, threads=[1]))
    (case,) = results["parts"]["busy"]["cases"]
    idle, with_loops = case["candidates"]
    assert idle["wall"]["count"] == with_loops["wall"]["count"] == 2
    assert case["facts"]["fraction_kept"] == pytest.approx(1 / with_loops["ratio"]["median"])


def test_busy_loops_run_only_within_the_block() -> None:
    def wait_for_state(pid: int, state: str) -> None:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
            assert time.monotonic() < deadline

    with busy.start_suspended_busy_loops(1) as (loop,):
        wait_for_state(loop.pid, "T")  # stopped
        with busy.running([loop]):
            wait_for_state(loop.pid, "R")
        wait_for_state(loop.pid, "T")
    assert loop.returncode == -signal.SIGKILL


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_gpu_part_without_gpu_measures_nothing() -> None:
    assert gpu.NO_GPU in bench.run_benchmark(["gpu"], steps=1, smoke_test=True)


def test_gpu_part_times_blocks_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*arguments: object, **options: object) -> None:
        on_step = arguments[-1]
        assert callable(on_step)
        with contextlib.suppress(StopTraining):
            for _ in range(100):
                on_step(64 * 32)

    importlib.import_module("ffcv.loader")  # before the patches, because this import looks for a GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu, "device_name", lambda device: device)
    monkeypatch.setattr(gpu, "run_training_loop", train)
    monkeypatch.setattr(gpu, "first_losses", lambda device: [2.0, 1.0 if device == "cpu" else 1.25])
    result = gpu.run(Settings(steps=3, smoke_test=True))
    case, *others = result.cases
    assert [other.case.split(",")[0] for other in others] == ["conv4", "resnet32", "resnet32"]
    assert "at most 2.5e-01" in result.notes[1]
    assert case.candidates[0].wall.count == 3
    assert case.candidates[0].num_units == 2 * 64 * 32


@pytest.mark.slow
def test_startup_part_runs() -> None:
    results = json.loads(bench.run_benchmark(["startup"], as_json=True, steps=1, smoke_test=True, threads=[1]))
    assert [case["case"] for case in results["parts"]["startup"]["cases"]] == ["help", "first work", "first step"]
