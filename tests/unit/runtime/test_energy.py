"""Tests for energy measurement, with fake counters, because this machine may have no real ones."""

import json
from pathlib import Path

import pynvml
import pytest
from helpers import RunRr, wait_until

from rr.runtime import energy
from rr.runtime.energy import EnergyMeter, measure_energy

RANGE = 1_000_000  # microjoules after which a fake counter wraps around


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake counters: two packages, a core domain in the first, the platform domain, and a different driver's domain."""
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
    # Replace the file in one step: a thread that reads it must not see an empty file.
    (powercap / "new").write_text(f"{microjoules}\n")
    (powercap / "new").replace(powercap / name / "energy_uj")


def fake_gpus(monkeypatch: pytest.MonkeyPatch, *readings: list[int]) -> None:
    """Replace the driver with one that returns these readings of its GPUs one after the other, in millijoules."""
    remaining = list(readings)
    current: list[int] = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: current.__setitem__(slice(None), remaining.pop(0)))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(current))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: current[handle])


def test_packages_are_summed_when_counters_wrap(powercap: Path) -> None:
    meter = EnergyMeter()
    set_counter(powercap, "intel-rapl:0", 100_000)  # wrapped: 200,000 more
    set_counter(powercap, "intel-rapl:1", 700_000)
    meter.update_processor_energy()
    set_counter(powercap, "intel-rapl:1", 600_000)  # wrapped: 900,000 more
    set_counter(powercap, "intel-rapl:0:0", 999)
    set_counter(powercap, "intel-rapl:2", 999_999)
    assert meter.joules() == {"processors": 1.8}


def test_thread_updates_the_meter_while_the_body_runs(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SECONDS_BETWEEN_UPDATES", 0.01)
    with measure_energy() as meter:
        for _ in range(3):
            for microjoules in (300_000, 600_000, 900_000):  # each full cycle adds a million
                set_counter(powercap, "intel-rapl:0", microjoules)
                wait_until(lambda: meter._last_values[powercap / "intel-rapl:0/energy_uj"] == microjoules)  # noqa: B023
    assert meter.joules() == {"processors": 3.0}


def test_no_energy_is_reported_after_a_counter_disappears(powercap: Path) -> None:
    meter = EnergyMeter()
    set_counter(powercap, "intel-rapl:1", 700_000)
    (powercap / "intel-rapl:0/energy_uj").unlink()
    assert meter.joules() == {}
    set_counter(powercap, "intel-rapl:0", 950_000)
    assert meter.joules() == {}


@pytest.mark.parametrize("text", ["", "many\n"])
def test_unreadable_counter_disables_processor_energy(powercap: Path, text: str) -> None:
    (powercap / "intel-rapl:1/energy_uj").write_text(text)
    assert EnergyMeter().joules() == {}


def test_gpus_are_summed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    fake_gpus(monkeypatch, [1000, 50_000], [4000, 51_500])
    assert EnergyMeter().joules() == {"gpus": 4.5}


def test_no_gpu_energy_if_a_gpu_disappears(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    fake_gpus(monkeypatch, [1000, 50_000], [4000])
    assert EnergyMeter().joules() == {}


def test_no_gpu_energy_if_a_gpu_has_no_counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def not_supported(handle: int) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    fake_gpus(monkeypatch, [1000], [2000])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", not_supported)
    assert EnergyMeter().joules() == {}


def test_stage_records_its_energy(project: Path, rr: RunRr, powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, [1000], [2500])
    assert rr("fetch", "--dataset", "shapes").code == 0
    record = json.loads((project / "data/raw/shapes/run.json").read_text())
    assert record["energy_joules"] == {"processors": 0.0, "gpus": 1.5}
