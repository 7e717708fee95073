"""Tests for `rr plan`: counts computed by hand, completed runs, estimates and measured throughput."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import (
    EVALUATE,
    EXTRACT,
    PRETRAIN,
    ROOT,
    SIMSIAM,
    RunRr,
    call_after_checkpoints,
    pretrain_command,
    write_example,
    write_params,
    write_simsiam,
)
from hypothesis import given
from hypothesis import strategies as st

from rr import commands, paths
from rr.params import Params, load_params
from rr.workflow import machine_checks, suites
from rr.workflow.estimates import MakespanBounds, estimate_io, estimate_makespan
from rr.workflow.plan import format_plan, make_plan
from rr.workflow.records import with_digest


def assume_speed(params: Params, runs: Sequence[paths.PretrainPaths]) -> dict[paths.PretrainPaths, float]:
    """Return the same speed for all runs."""
    return dict.fromkeys(runs, 1e5)


def rows_by_method(text: str) -> dict[str, list[str]]:
    """Return the cells of the table's rows by method."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return {row[2]: row for row in rows[: next(k for k, row in enumerate(rows) if "pretraining" in row)]}


def hours(value: float) -> str:
    """Return a duration in hours as the plan shows it."""
    return f"{value:.1f} h" if value < 48 else f"{value / 24:.1f} d"


def test_views_and_time_of_the_paper(params_file: Path, rr: RunRr) -> None:
    outcome = rr("plan", "views", "--views-per-second", "100000")
    assert outcome.code == 0, outcome.err
    rows = rows_by_method(outcome.out)
    # 50,000 images, 32 views and 200 epochs make 320 million views, for each of three seeds.
    assert rows["relational-k32"][3:] == ["3", "0", "320,000,000", "100,000", "2.7", "h"]
    assert rows["relational-k2"][3:6] == ["3", "0", "20,000,000"]
    total = 3 * 3 * sum(k * 50_000 * 200 for k in (2, 4, 8, 16, 32))
    assert (
        f"45 pretraining runs, {total:,} views, {hours(total / 1e5 / 3600)} if run one after the other" in outcome.out
    )
    assert "45 evaluations" in outcome.out
    on_several_gpus = rr("plan", "views", "views", "--views-per-second", "100000", "--gpus", "4")
    least, longest = total / 1e5 / 3600 / 4, 320e6 / 1e5 / 3600
    assert f"; {hours(least)} to {hours(least + longest * 3 / 4)} in any order\n" in on_several_gpus.out
    assert "longest run: relational-k32 on cifar10 with conv4, 53 min\n" in on_several_gpus.out
    assert "on 1 GPUs" not in outcome.out
    assert load_params(params_file).grid[0].dataset == ["shapes"]  # planning changes no parameters


def test_json_has_the_numbers_of_the_table(params_file: Path, rr: RunRr) -> None:
    outcome = rr("plan", "views", "--views-per-second", "100000", "--gpus", "4", "--json")
    plan = json.loads(outcome.out)
    (row,) = [row for row in plan["rows"] if row["method"] == "relational-k32"]
    assert row == {
        "dataset": "cifar10", "backbone": "conv4", "method": "relational-k32", "remaining": 3, "done": 0,
        "views": 320_000_000, "views_per_second": 100_000.0, "seconds": 3 * 3200.0,
    }  # fmt: skip
    assert plan["evaluations"] == 45
    assert plan["longest_seconds"] == 3200
    assert plan["makespan"]["upper_bound"] >= plan["makespan"]["lower_bound"] == plan["seconds"] / 4
    assert plan["problems"] == []
    assert outcome.code == 0


def test_sizes_of_stl10_and_tiny_imagenet_are_known_before_fetch(params_file: Path) -> None:
    for name, method, views in (
        ("stl10", "relational-stl10", 100_000 * 25 * 300),
        ("tiny-resnet32", "relational-paper-k16", 100_000 * 16 * 200),
    ):
        chosen = load_params(suites.merge_suites({name: suites.load_suite(name)}, params_file))
        assert rows_by_method(format_plan(make_plan(chosen, assume_speed)))[method][5] == f"{views:,}"


def test_makespan_matches_examples_computed_by_hand() -> None:
    # Longest first: 5, 4 and 3 start on the three GPUs, then 3 after 3, and 3 after 4.
    assert estimate_makespan([3.0, 5.0, 3.0, 4.0, 3.0], 3) == MakespanBounds(7.0, 6.0, 6.0 + 5 * 2 / 3)
    assert estimate_makespan([], 2) == MakespanBounds(0.0, 0.0, 0.0)
    assert estimate_makespan([2.0, 1.0], 1) == MakespanBounds(3.0, 3.0, 3.0)


@given(
    st.lists(st.integers(1, 50).map(float), min_size=1, max_size=30),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_makespan_of_any_order_is_within_the_bounds(durations: list[float], gpus: int, rng: random.Random) -> None:
    bounds = estimate_makespan(durations, gpus)
    rng.shuffle(durations)
    finish_times = [0.0] * gpus  # the first free GPU takes the next run
    for duration in durations:
        finish_times[finish_times.index(min(finish_times))] += duration
    assert bounds.lower_bound - 1e-9 <= max(finish_times) <= bounds.upper_bound + 1e-9
    assert bounds.lower_bound - 1e-9 <= bounds.longest_first <= bounds.upper_bound + 1e-9


def test_io_estimate_matches_values_computed_by_hand(params_file: Path) -> None:
    params = load_params(
        suites.merge_suites(
            {"cifar": suites.load_suite("cifar"), "tiny-conv4": suites.load_suite("tiny-conv4")}, params_file
        )
    )
    run = paths.PretrainPaths("cifar10", "conv4", "simclr-paper", 1)
    io = estimate_io(params, run, 50_000, 10, 3600.0)
    assert io.read_bytes == 50_000 * 32 * 32 * 3  # all pixels stay in memory
    assert io.write_bytes == 200 * io.checkpoint_bytes  # an epoch of 18 seconds is saved only at its end
    assert estimate_io(params, run, 50_000, 10, 200 * 250.0).write_bytes == 3 * 200 * io.checkpoint_bytes
    tiny = paths.PretrainPaths("tiny-imagenet", "conv4", "simclr-paper", 1)
    # More than 1 GiB, so the pixels are streamed.
    assert estimate_io(params, tiny, 100_000, 200, 0.0).read_bytes == 200 * 100_000 * 64 * 64 * 3
    params.datasets["cifar10"] = params.datasets["cifar10"].model_copy(update={"stored_size": 160})
    stored_bytes = 50_000 * params.datasets["cifar10"].estimated_image_bytes
    assert estimate_io(params, run, 50_000, 10, 0.0).read_bytes == 200 * stored_bytes  # photographs are streamed
    clusters = paths.PretrainPaths("cifar10", "conv4", "deepcluster-paper", 1)
    short, long = (estimate_io(params, clusters, 50_000, 10, 200 * seconds) for seconds in (18.0, 150.0))
    assert long.checkpoint_bytes == short.checkpoint_bytes + 50_000 * 8  # the labels of an incomplete epoch
    assert long.write_bytes == 200 * (short.checkpoint_bytes + long.checkpoint_bytes)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 32 * 32 * 3),
        ({"stored_size": 160}, 160 * (160 * 4 / 3) * 3 / 8),  # 4:3, and a compression ratio of eight
        ({"stored_size": 160, "quality": "raw"}, 160 * (160 * 4 / 3) * 3),
    ],
)
def test_size_of_a_stored_image_matches_values_computed_by_hand(
    params_file: Path, settings: dict, expected: float
) -> None:
    dataset = load_params(params_file).datasets["cifar10"].model_copy(update=settings)
    assert dataset.estimated_image_bytes == pytest.approx(expected)


def test_checkpoint_size_includes_the_classifier(params_file: Path) -> None:
    params = load_params(params_file)
    ten, thousand = (
        estimate_io(params, paths.PretrainPaths("shapes", "conv4", "supervised", 1), 9, classes, 0.0).checkpoint_bytes
        for classes in (10, 1000)
    )
    assert thousand - ten == pytest.approx(990 * (64 + 1) * 2 * 4, abs=200)  # weights and one moment, float32


@pytest.mark.parametrize("method", ["relational", "supervised", "byol", "lars"])
def test_checkpoints_are_as_large_as_estimated(
    project_copy: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    write_params(project_copy, lambda params: (add_byol(params), add_lars(params)))
    params = load_params(Path("params.yaml"))
    sizes: list[int] = []
    call_after_checkpoints(monkeypatch, lambda path, state: sizes.append(path.stat().st_size), after_every_step=False)
    run = paths.PretrainPaths("shapes", "conv4", method, 1)
    commands.run_pretrain(run, "cpu", Path("params.yaml"))
    estimate = estimate_io(params, run, 200, 10, 0.0)
    assert max(sizes) == pytest.approx(estimate.checkpoint_bytes, rel=0.02)
    assert sum(sizes) == pytest.approx(estimate.write_bytes, rel=0.02)
    kept = [path.stat().st_size for path in run.checkpoint.parent.iterdir()]
    assert len(kept) == (method != "supervised")  # its learning rate depends on the number of epochs
    assert estimate.kept_bytes == pytest.approx(sum(kept), rel=0.02)


def test_checkpoints_of_own_classes_that_read_tensor_values_are_estimated(extensions: Path, params_file: Path) -> None:
    write_example(extensions, "backbones", "separable")
    file = extensions / "separable.py"
    reading = (
        "        rates = [value.item() for value in torch.linspace(0, 0.1, config.blocks)]\n"  # as in timm's models
    )
    text = file.read_text().replace("from torch import", "import torch\nfrom torch import")
    file.write_text(text.replace("        layers: list", f"{reading}        layers: list"))
    assert reading in file.read_text()

    def add_separable(params: dict) -> None:
        params["backbones"] = {"separable": {"kind": "separable:Separable", "width": 16, "blocks": 2}}

    write_params(params_file.parent, add_separable)
    params, run = load_params(params_file), paths.PretrainPaths("shapes", "separable", "relational", 1)
    assert estimate_io(params, run, 200, 10, 0.0).checkpoint_bytes > 0


def add_byol(params: dict) -> None:
    """Add BYOL, half of whose weights have no gradient."""
    config = {"kind": "byol", "momentum": 0.99, "hidden_dim": 64, "projection_dim": 32, "epochs": 1, "views": 2}
    shared = ("augmentation", "batch_size", "learning_rate")
    params["methods"]["byol"] = config | {key: params["methods"]["relational"][key] for key in shared}


def add_lars(params: dict) -> None:
    """Add a method whose optimizer stores a moment even without momentum."""
    optimizer = {"kind": "lars", "momentum": 0.0, "weight_decay": 0.0, "trust_coefficient": 0.01}
    params["methods"]["lars"] = {**params["methods"]["relational"], "optimizer": optimizer}


def test_sample_in_the_documentation_is_the_output(params_file: Path, rr: RunRr) -> None:
    text = (ROOT / "docs/scaling.md").read_text()
    (sample,) = re.findall(r"^\$ rr (plan .*)\n…\n((?:.+\n)+)```", text, re.MULTILINE)
    command, expected = sample[0].split(), sample[1].splitlines()
    outcome = rr(*command)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-len(expected) :] == expected


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--gpus", "0", "Invalid value for '--gpus'"),
        ("--gpus", "1000001", "Invalid value for '--gpus'"),
        ("--gpus", "1" + "0" * 21, "Invalid value for '--gpus'"),
        *(
            ("--views-per-second", value, "must be a number from 1 to 1e12")
            for value in ("0.5", "-1", "nan", "inf", "1e308")
        ),
    ],
)
def test_invalid_option_raises(params_file: Path, rr: RunRr, option: str, value: str, message: str) -> None:
    outcome = rr("plan", "smoke", "--views-per-second", "1000", option, value)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_more_gpus_than_runs_take_as_long_as_the_longest_run(params_file: Path, rr: RunRr) -> None:
    outcome = rr("plan", "views", "--views-per-second", "100000", "--gpus", "1000000")
    assert "on 1,000,000 GPUs: 53 min if the longest runs start first" in outcome.out
    tracemalloc.start()
    estimate_makespan([1.0, 2.0], 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 1e5
    tracemalloc.stop()


def count_extractions_and_evaluations(rr: RunRr) -> tuple[int, int]:
    """Return how many feature extractions and evaluations the plan counts as not done."""
    plan = json.loads(rr("plan", "--views-per-second", "1000", "--json").out)
    return plan["extractions"], plan["evaluations"]


def test_completed_runs_are_not_counted(project_copy: Path, monkeypatch, rr: RunRr) -> None:
    assert rows_by_method(rr("plan", "--views-per-second", "1000").out)["relational"][3:6] == ["1", "0", "2,400"]
    assert json.loads(rr("plan", "--views-per-second", "1000", "--json").out)["beton_bytes"] == 0
    shutil.move("data/beton/shapes/run.json", "record")
    plan = json.loads(rr("plan", "--views-per-second", "1000", "--json").out)
    assert plan["beton_bytes"] == 250 * 32 * 32 * 3
    shutil.move("record", "data/beton/shapes/run.json")
    extractions, evaluations = count_extractions_and_evaluations(rr)
    assert rr(*PRETRAIN).code == 0
    assert rows_by_method(rr("plan", "--views-per-second", "1000").out)["relational"][3:] == ["0", "1", "0", "–", "–"]
    assert count_extractions_and_evaluations(rr) == (extractions, evaluations)
    assert rr(*EXTRACT).code == 0
    assert count_extractions_and_evaluations(rr) == (extractions - 1, evaluations)
    assert rr(*EVALUATE, "knn").code == 0
    assert count_extractions_and_evaluations(rr) == (extractions - 1, evaluations - 1)
    params_text = Path("params.yaml").read_text()
    write_params(project_copy, lambda params: params["datasets"]["shapes"].update(image_size=16))
    assert rows_by_method(rr("plan", "--views-per-second", "1000").out)["relational"][3:6] == ["1", "0", "2,400"]
    assert count_extractions_and_evaluations(rr) == (extractions, evaluations)
    Path("params.yaml").write_text(params_text)
    assert count_extractions_and_evaluations(rr) == (extractions - 1, evaluations - 1)
    record_file = Path("data/beton/shapes/run.json")
    record = json.loads(record_file.read_text())
    # As if other images had been converted since then.
    record_file.write_text(json.dumps(with_digest(record | {"outputs": dict.fromkeys(record["outputs"], "0" * 64)})))
    assert count_extractions_and_evaluations(rr) == (extractions, evaluations)
    record_file.unlink()
    Path("data/raw/shapes/run.json").unlink()
    assert count_extractions_and_evaluations(rr) == (extractions - 1, evaluations - 1)
    record_file.write_text(json.dumps(record))
    monkeypatch.setattr("rr.workflow.plan.code_hashes", lambda stage: {"rr/fetch.py": "changed"})
    assert rows_by_method(rr("plan", "--views-per-second", "1000").out)["relational"][3:6] == ["1", "0", "2,400"]
    monkeypatch.undo()
    monkeypatch.chdir(project_copy)
    write_params(project_copy, lambda params: params["methods"]["relational"].update(epochs=5))
    assert rows_by_method(rr("plan", "--views-per-second", "1000").out)["relational"][3:6] == ["1", "0", "4,000"]
    assert count_extractions_and_evaluations(rr) == (extractions, evaluations)


def test_runs_of_own_methods_are_done_until_their_code_changes(
    extensions: Path, converted_project: Path, rr: RunRr
) -> None:
    shutil.copytree(converted_project, Path.cwd(), dirs_exist_ok=True)
    write_simsiam(extensions)

    def change(params: dict) -> None:
        params["methods"]["own"] = {**SIMSIAM, "epochs": 1}
        params["grid"].update(method=["own"])

    write_params(Path.cwd(), change)
    assert rr(*pretrain_command("own")).code == 0
    assert rows_by_method(rr("plan", "--views-per-second", "1000").out)["own"][3:5] == ["0", "1"]
    with open(extensions / "simsiam.py", "a") as file:
        file.write("\nNUMBER = 1\n")
    assert rows_by_method(rr("plan", "--views-per-second", "1000").out)["own"][3:5] == ["1", "0"]


def test_size_of_a_custom_dataset_is_unknown_before_fetch(project: Path, rr: RunRr) -> None:
    def change(params: dict) -> None:
        source = {"kind": "imagefolder", "path": "nowhere", "test_fraction": 0.2, "on_unreadable": "raise"}
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source}
        params["grid"].update(data=["mine"], dataset=["mine"], target=["mine"])

    write_params(project, change)
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 2
    assert "mine cannot be fetched, because nowhere does not exist: fix datasets.mine.source.path" in outcome.err
    Path("nowhere").mkdir()
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 0
    assert "not included, because the images are not known until rr fetch has run: mine" in outcome.out


def test_size_of_a_target_is_unknown_before_fetch(project: Path, rr: RunRr) -> None:
    def change(params: dict) -> None:
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": {"kind": "imagefolder", "path": "."}}
        params["grid"].update(data=["shapes", "mine"], target=["mine"])

    write_params(project, change)
    outcome = rr("plan", "--views-per-second", "1000")
    assert "not included, because the images are not known until rr fetch has run: mine" in outcome.out


def test_plan_of_a_grid_without_evaluations(project: Path, rr: RunRr) -> None:
    write_params(project, lambda params: params["grid"].update(target=[]))
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 0
    assert "2 pretraining runs, 2,400 views, 2 s if run one after the other\n" in outcome.out
    assert "not included in the time: 0 feature extractions and 0 evaluations\n" in outcome.out
    disk_space = next(line for line in outcome.out.splitlines() if line.startswith("disk space: "))
    assert disk_space.endswith(" kB for betons and 0 kB for features, plus the size of the original files for data/raw")


def test_problems_are_listed_after_the_plan(project: Path, rr: RunRr) -> None:
    def change(params: dict) -> None:
        params["methods"]["relational"].update(batch_size=1)
        params["grid"]["method"] = ["relational", "supervised"]

    write_params(project, change)
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 2
    assert outcome.out.startswith("dataset")
    assert rows_by_method(outcome.out)["relational"][5:] == ["?", "?", "?"]
    assert rows_by_method(outcome.out)["supervised"][5:] == ["400", "1,000", "1", "s"]
    assert outcome.err.startswith("rr: this grid cannot be completed:\nrelational cannot be trained on shapes, because")


def test_measured_plan_has_a_line_on_stderr(project: Path, rr: RunRr) -> None:
    outcome = rr("plan")
    assert outcome.code == 0, outcome.err
    lines = [line for line in outcome.err.splitlines() if not line.endswith(" elapsed")]
    assert lines == ["plan: measuring the speed of 1 kind of training step on this machine (up to 4 s)"]
    assert 50 < float(rows_by_method(outcome.out)["relational"][6].replace(",", "")) < 1e6


def test_measured_plan_checks_the_memory_of_this_machine(
    project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_checks, "_memory_bytes", lambda device: 1)
    outcome = rr("plan")
    assert outcome.code == 2
    assert "a training step of relational on shapes with conv4 (128 views of 32 x 32 pixels) needs more" in outcome.err
    assert rr("plan", "--views-per-second", "1000").code == 0  # the speed of another machine, whose memory is unknown


@pytest.mark.slow
def test_ctrl_c_ends_the_measurement(params_file: Path) -> None:
    command = [sys.executable, "-m", "rr", "plan", "cifar"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert any("measuring the speed of 12 kinds of training steps" in line for line in process.stderr)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert "rr: interrupted" in process.communicate()[1]
    assert process.returncode == 130


def test_unknown_suite_raises(params_file: Path, rr: RunRr) -> None:
    outcome = rr("plan", "viws")
    assert outcome.code == 2
    assert "unknown suite 'viws'" in outcome.err
