"""The energy that a stage run took, where the machine counts it: its processors' by RAPL, its GPUs' by NVML."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml

POWERCAP = Path("/sys/class/powercap")
SECONDS_BETWEEN_LOOKS = 60.0  # a processor's counter starts again from 0 after some minutes at full power


class Meter:
    """Adds up what the machine's counters grow by: the energy of all that runs on it, not of this program alone.

    Linux lets only root read the processors' counters, unless its administrator has decided otherwise. Counters that
    cannot be read, at the start or later, are left out, since a part of the energy would look like the whole.
    """

    def __init__(self) -> None:
        self._microjoules = 0
        try:
            # Other domains are parts of a package (core, dram), or the platform around it (psys).
            domains = POWERCAP.glob("intel-rapl:*")
            packages = [one for one in domains if (one / "name").read_text(encoding="ascii").startswith("package-")]
            self._ranges = {one / "energy_uj": _number(one / "max_energy_range_uj") + 1 for one in packages}
            self._last = {counter: _number(counter) for counter in self._ranges}
        except (OSError, ValueError):
            self._last = {}
        self._gpus = _gpu_millijoules()

    @property
    def goes_round(self) -> bool:
        """Whether there are counters that start again from 0, so that somebody has to `look` between."""
        return bool(self._last)

    def look(self) -> None:
        """Add what the processors' counters have grown by since the last look."""
        try:
            now = {counter: _number(counter) for counter in self._last}
        except (OSError, ValueError):
            now = self._last = {}
        self._microjoules += sum((value - self._last[one]) % self._ranges[one] for one, value in now.items())
        self._last = now

    def joules(self) -> dict[str, float]:
        """Joules since the meter was made, under `processors` and `gpus`; what is not known is not there."""
        self.look()
        found = {"processors": self._microjoules / 1e6} if self._last else {}
        gpus = _gpu_millijoules()
        if gpus and len(gpus) == len(self._gpus):
            found["gpus"] = (sum(gpus) - sum(self._gpus)) / 1e3
        return {kind: round(value, 1) for kind, value in found.items()}


@contextmanager
def metering() -> Iterator[Meter]:
    """A meter that is looked at while the body runs; to be read afterwards."""
    meter = Meter()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            meter.look()

    thread = threading.Thread(target=watch, name="energy", daemon=True)
    if meter.goes_round:
        thread.start()
    try:
        yield meter
    finally:
        done.set()
        if thread.is_alive():
            thread.join()


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _gpu_millijoules() -> list[int]:
    """Each GPU's counter since its driver was loaded; empty without NVIDIA's driver, or where a GPU has none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
        return [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
