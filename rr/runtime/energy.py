"""Measure a stage run's energy use with the machine's own counters: RAPL for processors, NVML for GPUs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml

POWERCAP = Path("/sys/class/powercap")
SECONDS_BETWEEN_UPDATES = 60.0  # at full power, a processor's counter wraps around within minutes


class EnergyMeter:
    """Sums the increments of the machine's energy counters, which also count the energy used by other programs.

    On Linux, only root can read the processors' counters unless the administrator has changed their permissions. If
    any counter cannot be read, at the start or later, no processor energy is reported, because a partial sum would look
    like the total.
    """

    def __init__(self) -> None:
        self._microjoules = 0
        try:
            # The other RAPL domains are either parts of a package (core, dram) or the platform around it (psys).
            domains = POWERCAP.glob("intel-rapl:*")
            packages = [path for path in domains if (path / "name").read_text(encoding="ascii").startswith("package-")]
            self._ranges = {path / "energy_uj": _read_int(path / "max_energy_range_uj") + 1 for path in packages}
            self._last_values = {counter: _read_int(counter) for counter in self._ranges}
        except (OSError, ValueError):
            self._last_values = {}
        self._gpu_start = _read_gpu_counters()

    @property
    def needs_updates(self) -> bool:
        """Whether `update_processor_energy` must be called regularly, because some counters wrap around to 0."""
        return bool(self._last_values)

    def update_processor_energy(self) -> None:
        """Add the increments of the processors' counters since the last update."""
        try:
            values = {counter: _read_int(counter) for counter in self._last_values}
        except (OSError, ValueError):
            values = {}  # from now on, no processor energy is reported
        self._microjoules += sum(
            (value - self._last_values[counter]) % self._ranges[counter] for counter, value in values.items()
        )
        self._last_values = values

    def joules(self) -> dict[str, float]:
        """Return the energy used since the meter was created, in joules.

        Returns:
            A dict with the keys `processors` and `gpus`. Unknown values are left out.
        """
        self.update_processor_energy()
        joules = {"processors": self._microjoules / 1e6} if self._last_values else {}
        gpus = _read_gpu_counters()
        if gpus and len(gpus) == len(self._gpu_start):
            joules["gpus"] = (sum(gpus) - sum(self._gpu_start)) / 1e3
        return {kind: round(value, 1) for kind, value in joules.items()}


@contextmanager
def measure_energy() -> Iterator[EnergyMeter]:
    """Yield a meter that a thread updates while the body runs. Read the meter after the body has ended."""
    meter = EnergyMeter()
    done = threading.Event()

    def update_regularly() -> None:
        while not done.wait(SECONDS_BETWEEN_UPDATES):
            meter.update_processor_energy()

    thread = threading.Thread(target=update_regularly, name="energy", daemon=True)
    if meter.needs_updates:
        thread.start()
    try:
        yield meter
    finally:
        done.set()
        if thread.is_alive():
            thread.join()


def _read_int(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _read_gpu_counters() -> list[int]:
    """Return the energy that each GPU has used since its driver was loaded, in millijoules.

    The list is empty if there is no NVIDIA driver, or if any GPU lacks a counter.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
