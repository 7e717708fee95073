"""The benchmark: both of its sides compute the same, every part runs, its JSON keeps its form. No time is judged."""

import contextlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rr import backbones, bench, methods
from rr.bench import alternating, memory, reference
from rr.bench.measure import Contestant, Seconds, alternate, row
from rr.bench.parts import gpu
from rr.bench.settings import AUGMENTATION, MEAN, STD, Settings, settings_of
from rr.errors import UserError
from rr.views import make_views
from rr.workflow.throughput import Enough

SPREAD = {"min", "q1", "median", "q3", "max", "count"}
STEPS = 50


def copy(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the weights of `source`; both list them from the first layer to the last."""
    with torch.no_grad():
        for given, taken in zip(source.parameters(), target.parameters(), strict=True):
            taken.copy_(given)


def views_of(step: int, views: int, images: int) -> Tensor:
    pictures = np.random.default_rng(step).integers(0, 256, (images, 32, 32, 3), np.uint8)
    return make_views(
        pictures, np.arange(images), augmentation=AUGMENTATION, seed=0, epoch=step, views=views,
        mean=MEAN, std=STD, device="cpu",
    ).clone()  # fmt: skip


def losses_side_by_side(
    method: str, views: int, images: int, dtype: torch.dtype, *, together: bool
) -> list[tuple[float, float]]:
    """50 steps of the product and the reference on the same views.

    `together`, each step begins from the reference's weights, and its gradients are compared.
    """
    torch.manual_seed(0)
    ours = methods.build(settings_of(method, views, images), backbones.build("conv4"), 10, 100)
    theirs = reference.build(method, 10)
    copy(ours, theirs)
    ours.to(dtype), theirs.to(dtype)
    optimiser, _ = ours.optimiser(100)
    labels = torch.arange(images) % 10
    losses, errors = [], []
    for step in range(STEPS):
        if together:
            copy(theirs, ours)
        batch = views_of(step, views, images).to(dtype)
        loss, _ = ours.loss(batch, labels, ())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append((loss.item(), theirs.step(batch.contiguous().chunk(views), labels)))
        if together:
            mine, yours = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (ours, theirs))  # type: ignore[union-attr]
            errors.append(float((mine - yours).norm() / yours.norm()))
    if together:
        # Rounding now and then turns a ReLU that is nearly at its kink, which moves a gradient by a percent.
        assert max(errors) < 0.03
        assert sorted(errors)[STEPS // 2] < 1e-4
    assert len({mine for mine, _ in losses}) == STEPS
    return losses


CASES = [("relational", 6, 10), ("relational", 2, 16), ("supervised", 1, 16), ("simclr", 2, 16), ("rotation", 1, 16)]


@pytest.mark.parametrize(("method", "views", "images"), CASES)
def test_the_reference_and_the_product_train_alike(method: str, views: int, images: int) -> None:
    """In float64 two whole trainings stay together: the mathematics is the same."""
    for mine, yours in losses_side_by_side(method, views, images, torch.float64, together=False):
        assert mine == pytest.approx(yours, rel=1e-11)


@pytest.mark.parametrize(("method", "views", "images"), CASES)
def test_every_step_of_the_fast_path_has_loss_and_gradients_of_the_reference(
    method: str, views: int, images: int
) -> None:
    """In float32, where the fused kernels run; from equal weights, as rounding alone drifts by 1 % in 50 steps."""
    for mine, yours in losses_side_by_side(method, views, images, torch.float32, together=True):
        assert mine == pytest.approx(yours, rel=1e-5)


def test_the_reference_pairs_each_view_with_the_next_ones() -> None:
    K, M = 4, 3  # the roll wraps
    rows = torch.arange(K * M, dtype=torch.float32).view(K, M, 1)
    pairs, targets = reference.all_pairs(rows)
    assert pairs.shape == (M * (K * K - K), 2)
    assert targets.sum() * 2 == len(targets)
    left, right = (pairs % M).T
    assert (left == right).eq(targets > 0).all()
    assert (pairs[:, 0] // M < pairs[:, 1] // M).all()


def test_the_loss_of_logit_zero_is_that_of_the_paper() -> None:
    assert reference.focal(torch.zeros(2), torch.tensor([0.0, 1.0])).item() == pytest.approx(0.0866, abs=1e-4)


def test_the_views_of_both_sides_have_equal_statistics() -> None:
    count = 600
    ramp = np.linspace(0, 255, 32, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, ::-1], np.uint8(90)), axis=-1)
    torch.manual_seed(0)
    data = reference.Pictures(picture[None], np.zeros(1), reference.relational_transform(32, MEAN, STD), count)
    theirs = torch.stack(data[0][0])
    ours = make_views(
        picture[None], np.zeros(1, np.int64), augmentation=AUGMENTATION, seed=0, epoch=0, views=count,
        mean=MEAN, std=STD, device="cpu",
    )  # fmt: skip
    assert theirs.shape == ours.shape == (count, 3, 32, 32)
    assert theirs.dtype == torch.float32
    scale, shift = torch.tensor(STD)[:, None, None], torch.tensor(MEAN)[:, None, None]
    found = []
    for views in (theirs * scale + shift, ours * scale + shift):
        grey = (views.amax(1) - views.amin(1)).amax((1, 2)) < 1e-3
        rising = views[:, 0, -1].mean(1) > views[:, 0, 0].mean(1)
        leftwards = views[:, 1, :, 0].mean(1) > views[:, 1, :, -1].mean(1)
        shares = [grey, rising, leftwards]
        found.append([*(s.double().mean().item() for s in shares), views.mean().item(), views.std().item()])
    assert found[0] == pytest.approx(found[1], abs=0.08)  # about three standard errors of a share
    assert found[0][0] == pytest.approx(0.2, abs=0.06)


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"no part is called heads; known: views, head, backbone, .*startup, machine, gpu"
    ):
        bench.run(["head", "heads"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"steps": 0}, "--steps 0: at least 1"),
        ({"threads": [1, 999]}, "--threads 999: this machine has"),
        ({"data": Path("nowhere")}, "--data nowhere: no train.beton there"),
    ],
)
def test_impossible_choices_are_refused(arguments: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        bench.run(["head"], **arguments)


def test_the_json_keeps_its_form() -> None:
    found = json.loads(bench.run(["backbone"], as_json=True, steps=2, small=True, threads=[1]))
    assert set(found) == {"schema", "settings", "machine", "load", "parts"}
    assert found["schema"] == "rr-bench-1"
    assert found["settings"] == {"steps": 2, "threads": [1], "data": None, "small": True}
    assert {"processor", "cores", "versions", "python"} <= set(found["machine"])
    assert len(found["load"]["before"]) == len(found["load"]["after"]) == 3
    part = found["parts"]["backbone"]
    assert set(part) == {"rows", "notes", "seconds", "load"}
    case = part["rows"][0]
    assert set(case) == {"case", "unit", "threads", "sides", "facts"}
    ours, theirs = case["sides"]
    assert (
        set(ours)
        == set(theirs)
        == {"name", "amount", "wall", "cpu", "per_second", "per_cpu_second", "ratio", "cpu_ratio"}
    )
    assert ours["ratio"] is None
    for spread in (ours["wall"], ours["cpu"], theirs["wall"], theirs["ratio"], theirs["cpu_ratio"]):
        assert set(spread) == SPREAD
        assert spread["count"] == 2


def test_turns_alternate_and_ratios_are_formed_turn_by_turn() -> None:
    order: list[str] = []
    contestants = [Contestant(name, lambda name=name: order.append(name), 1) for name in "ab"]
    runs = alternate(contestants, 3, warmup=1)
    assert "".join(order) == "ab" * 4
    assert [len(results) for results in runs] == [3, 3]
    ours, theirs = [Seconds(1, 1), Seconds(2, 1)], [Seconds(2, 0), Seconds(8, 1)]
    side = row("", "views", 1, [("a", 10), ("b", 5)], [ours, theirs]).sides[1]
    assert side.ratio is not None
    assert (side.ratio.min, side.ratio.max) == (4, 8)
    assert side.cpu_ratio is None  # a CPU time that could not be read
    assert side.per_second == 1


def test_a_program_that_fails_ends_the_turns_with_all_others() -> None:
    patient = "from rr.bench.turns import Turn\nturn = Turn()\nwhile True: turn.done()"
    with pytest.raises(RuntimeError, match="ended early, with code 3"):
        alternating.alternate([[sys.executable, "-c", patient], [sys.executable, "-c", "raise SystemExit(3)"]], 2, 1)


def test_the_peak_of_memory_is_what_was_taken_and_given_back() -> None:
    def work() -> None:
        np.ones(64 << 20, np.uint8)  # more than malloc would take from memory it kept

    # More than once: a kernel that takes idle pages back meanwhile (DAMON) makes the rise look smaller.
    found = [memory.peak_of(work) for _ in range(5)]
    assert any(peak is None or 60 < peak < 80 for peak in found)
    assert all(peak is None or peak < 80 for peak in found)


def test_a_system_that_reports_the_present_as_the_peak_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status = tmp_path / "status"
    status.write_text("VmHWM:  100 kB\nVmRSS:  100 kB\n")
    monkeypatch.setattr(memory, "_STATUS", status)
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "clear_refs")
    assert memory.peak_of(lambda: None) is None


@pytest.mark.parametrize("part", ["views", "head", "loader", "evaluation", "machine"])
def test_every_part_runs(part: str) -> None:
    text = bench.run([part], steps=1, small=True, threads=[1])
    assert f"{part} (" in text
    assert "load average" in text
    assert "CPU ratio" in text


def test_training_runs_the_loop_of_pretrain() -> None:
    found = json.loads(bench.run(["training"], as_json=True, steps=2, small=True, threads=[1]))
    case = found["parts"]["training"]["rows"][0]
    assert [side["wall"]["count"] for side in case["sides"]] == [2, 2]
    assert [side["amount"] for side in case["sides"]] == [32, 32]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_its_part_says_so() -> None:
    assert gpu.NO_GPU in bench.run(["gpu"], steps=1, small=True)


def test_the_gpu_part_times_blocks_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(*arguments: object, **options: object) -> None:
        on_step = arguments[-1]
        assert callable(on_step)
        with contextlib.suppress(Enough):
            for _ in range(100):
                on_step(64 * 32)

    importlib.import_module("ffcv.loader")  # it asks once, when it is imported, whether there is a GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu, "describe", lambda device: device)
    monkeypatch.setattr(gpu, "train", steps)
    case, *others = gpu.run(Settings(steps=3, small=True)).rows
    assert [other.case.split(",")[0] for other in others] == ["conv4", "resnet32"]
    assert case.sides[0].wall.count == 3
    assert case.sides[0].amount == 2 * 64 * 32


def test_startup_runs() -> None:
    found = json.loads(bench.run(["startup"], as_json=True, steps=1, small=True, threads=[1]))
    assert [case["case"] for case in found["parts"]["startup"]["rows"]] == ["help", "first step"]
