"""The energy that a stage run took, from counters made up here: this machine may have none."""

import json
import time
from pathlib import Path

import pynvml
import pytest
from helpers import Rr

from rr.runtime import energy
from rr.runtime.energy import Meter, metering

RANGE = 1_000_000  # microjoules after which a made-up counter starts again


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, of which the first has a part of its own; the platform around them; a domain of another kind."""
    for name, kind, microjoules in (
        ("intel-rapl:0", "package-0", 900_000), ("intel-rapl:1", "package-1", 0), ("intel-rapl:0:0", "core", 5),
        ("intel-rapl:2", "psys", 5), ("dtpm", "package-2", 5),
    ):  # fmt: skip
        (tmp_path / "powercap" / name).mkdir(parents=True)
        (tmp_path / "powercap" / name / "name").write_text(f"{kind}\n")
        (tmp_path / "powercap" / name / "max_energy_range_uj").write_text(f"{RANGE - 1}\n")
        (tmp_path / "powercap" / name / "energy_uj").write_text(f"{microjoules}\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    return tmp_path / "powercap"


def set_counter(powercap: Path, name: str, microjoules: int) -> None:
    (powercap / name / "energy_uj").write_text(f"{microjoules}\n")


def with_gpus(monkeypatch: pytest.MonkeyPatch, *looks: list[int]) -> None:
    """A driver whose GPUs show `looks` one after the other, in millijoules."""
    left = list(looks)
    now: list[int] = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: now.__setitem__(slice(None), left.pop(0)))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(now))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda place: place)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: now[handle])


def test_packages_are_added_up_across_the_end_of_a_counter(powercap: Path) -> None:
    meter = Meter()
    set_counter(powercap, "intel-rapl:0", 100_000)  # gone round: 200,000 more
    set_counter(powercap, "intel-rapl:1", 700_000)
    meter.look()
    set_counter(powercap, "intel-rapl:1", 600_000)  # gone round: 900,000 more
    set_counter(powercap, "intel-rapl:0:0", 999)
    set_counter(powercap, "intel-rapl:2", 999_999)
    assert meter.joules() == {"processors": 1.8}


def test_a_thread_looks_before_a_counter_can_go_round_twice(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SECONDS_BETWEEN_LOOKS", 0.01)
    with metering() as meter:
        for turn in range(1, 4):
            for microjoules in (300_000, 600_000, 900_000):  # each full turn adds a million
                set_counter(powercap, "intel-rapl:0", microjoules)
                end = time.monotonic() + 30
                while meter._last[powercap / "intel-rapl:0" / "energy_uj"] != microjoules:
                    assert time.monotonic() < end, f"nobody looked in turn {turn}"
                    time.sleep(0.005)
    assert meter.joules() == {"processors": 3.0}


def test_a_counter_that_is_lost_leaves_no_half_of_the_energy(powercap: Path) -> None:
    meter = Meter()
    set_counter(powercap, "intel-rapl:1", 700_000)
    (powercap / "intel-rapl:0/energy_uj").unlink()
    assert meter.joules() == {}
    set_counter(powercap, "intel-rapl:0", 950_000)
    assert meter.joules() == {}


@pytest.mark.parametrize("text", ["", "many\n"])
def test_a_counter_that_says_nothing_is_none(powercap: Path, text: str) -> None:
    (powercap / "intel-rapl:1/energy_uj").write_text(text)
    assert Meter().joules() == {}


def test_gpus_are_added_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with_gpus(monkeypatch, [1000, 50_000], [4000, 51_500])
    assert Meter().joules() == {"gpus": 4.5}


def test_a_gpu_that_went_away_makes_no_negative_energy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with_gpus(monkeypatch, [1000, 50_000], [4000])
    assert Meter().joules() == {}


def test_a_gpu_without_a_counter_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(handle: int) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with_gpus(monkeypatch, [1000], [2000])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", refuse)
    assert Meter().joules() == {}


def test_a_stage_writes_it_down(project: Path, rr: Rr, powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, [1000], [2500])
    assert rr("fetch", "--dataset", "shapes").code == 0
    record = json.loads((project / "data/raw/shapes/run.json").read_text())
    assert record["energy_joules"] == {"processors": 0.0, "gpus": 1.5}
