"""Tests of the measurement of training speed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers import write_params

from rr import backbones, methods, paths
from rr.params import load_params
from rr.pretrain import loop
from rr.workflow import training_speed
from rr.workflow.training_speed import StepTimer, _StepShape, measure_views_per_second


def test_steps_shrink_in_images_then_views_then_pixels() -> None:
    full = _StepShape(num_images=64, num_views=32, image_size=224)
    assert full.shrink(full.work, 32) == full
    assert full.shrink(full.work // 2, 32) == _StepShape(32, 32, 224)
    assert full.shrink(full.work // 100, 32) == _StepShape(2, 10, 224)
    assert full.shrink(4 * 100**2, 32) == _StepShape(2, 2, 100)
    assert full.shrink(1, 32) == _StepShape(2, 2, 32)
    assert _StepShape(2, 1, 16).shrink(1, 32) == _StepShape(2, 1, 16)


def make_timer(
    project: Path, image_size: int, measure_step_duration: Callable[[_StepShape], float]
) -> tuple[StepTimer, list[_StepShape]]:
    """Return a timer for steps whose duration is computed, and a list to which it appends each size that it times."""
    params = load_params(project / "params.yaml")
    dataset = params.datasets["shapes"].model_copy(update={"image_size": image_size})
    timer = StepTimer(backbones.build("conv4"), dataset, device="cpu", threads=1, precision="float32")
    sizes = []

    def record(config: object, num_classes: int, size: _StepShape, seconds: float) -> float:
        sizes.append(size)
        return measure_step_duration(size)

    timer.measure_step_duration = record  # type: ignore[method-assign]
    return timer, sizes


def test_fast_step_is_timed_directly(project: Path) -> None:
    config = load_params(project / "params.yaml").methods["relational"]  # 32 images, 4 views
    timer, sizes = make_timer(project, 32, lambda size: 1e-3 + 1e-8 * size.work)
    rate = timer.views_per_second(config, 10, seconds=1.0)
    assert sizes[-1] == _StepShape(32, 4, 32)
    assert rate == pytest.approx(128 / (1e-3 + 1e-8 * 128 * 32**2))


def test_slow_step_is_extrapolated_without_its_memory(project: Path) -> None:
    config = load_params(project / "params.yaml").methods["relational"]
    timer, sizes = make_timer(project, 1024, lambda size: 0.01 + 1e-6 * size.work)
    rate = timer.views_per_second(config, 10, seconds=1.0)
    full = _StepShape(32, 4, 1024)
    assert max(size.work for size in sizes) < full.work / 100
    assert rate == pytest.approx(128 / (0.01 + 1e-6 * full.work), rel=0.05)


def test_runs_with_equal_steps_share_a_measurement(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(params: dict) -> None:
        relational = params["methods"]["relational"]
        params["methods"] |= {
            "slow": {**relational, "epochs": 9, "learning_rate": 0.1, "gamma": 0.0}, "wide": {**relational, "views": 8}
        }  # fmt: skip
        params["datasets"]["large"] = {**params["datasets"]["shapes"], "image_size": 64}

    write_params(project, change)
    params = load_params(project / "params.yaml")
    measured = []

    def views_per_second(timer: StepTimer, config: object, num_classes: int, seconds: float) -> float:
        if seconds > 0:  # with 0, the call only compiles kernels
            measured.append((timer.preprocessing.image_size, config.views))  # type: ignore[attr-defined]
            assert 0.2 <= seconds <= 1
        return 100.0 * len(measured)

    monkeypatch.setattr(StepTimer, "views_per_second", views_per_second)
    names = [("shapes", "relational", 1), ("shapes", "relational", 2), ("shapes", "slow", 1), ("shapes", "wide", 1),
             ("large", "relational", 1)]  # fmt: skip
    runs = [paths.PretrainPaths(dataset, "conv4", method, seed) for dataset, method, seed in names]
    rates = measure_views_per_second(params, runs, "cpu")
    assert measured == [(32, 4), (32, 8), (64, 4)]
    assert [rates[run] for run in runs] == pytest.approx([100, 100, 100, 200, 300])


def test_without_time_methods_are_assumed_to_be_as_fast_as_another_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(params: dict) -> None:
        shared = {key: params["methods"]["relational"][key] for key in ("augmentation", "batch_size", "learning_rate")}
        params["methods"]["rotation"] = {"kind": "rotation", "views": 4, "epochs": 1, **shared}

    write_params(project, change)
    params = load_params(project / "params.yaml")
    monkeypatch.setattr(training_speed, "_BASE_SECONDS", -1.0)
    monkeypatch.setattr(StepTimer, "views_per_second", lambda *_: 100.0)
    runs = [paths.PretrainPaths("shapes", "conv4", method, 1) for method in ("relational", "rotation")]
    rates = measure_views_per_second(params, runs, "cpu")
    assert [rates[run] for run in runs] == pytest.approx([100, 25])  # four rotations of each view
    assert "plan: 1 of the 2 steps could not be measured in the time available" in capsys.readouterr().err


def test_each_measurement_on_a_gpu_compiles_its_step(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, torch would run the ninth step uncompiled. The timed GPU is not always torch's current one."""
    params, calls = load_params(project / "params.yaml"), []
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: calls.append(device))
    monkeypatch.setattr(methods, "build", lambda *_: SimpleNamespace(to=lambda device: None))
    monkeypatch.setattr(loop, "Trainer", lambda *_: mock.MagicMock())
    monkeypatch.setattr(training_speed, "_repeat_images", lambda loader: (number for number in range(2)))
    timer = StepTimer(
        backbones.build("conv4"), params.datasets["shapes"], device="cuda:1", threads=1, precision="float32"
    )
    timer.measure_step_duration(params.methods["relational"], 10, _StepShape(2, 2, 32), 0)
    assert calls == ["reset", "cuda:1", "cuda:1"]


@pytest.mark.parametrize(
    ("backbone", "kind"), [("conv4", "relational"), ("conv4", "supervised"), ("resnet18", "relational")]
)
def test_real_steps_are_timed(project: Path, backbone: str, kind: str) -> None:
    params = load_params(project / "params.yaml")
    dataset = params.datasets["shapes"]
    timer = StepTimer(backbones.build(backbone), dataset, device="cpu", threads=1, precision="float32")
    assert 1 < timer.views_per_second(params.methods[kind], 10, seconds=0.2) < 1e6
    assert not list(project.rglob("*.pt"))
