"""Time several implementations of the same work alternately, and summarize the times.

Other processes on the machine disturb the measurements. The implementations therefore alternate (A B A B …), and the
ratio of their times is computed for each repeat, because a disturbance affects both times in a repeat similarly.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Seconds per repeat: wall-clock time, and CPU time of this process and its children on all cores."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Candidate:
    """One implementation of the work. Each call to `function` processes `num_units` units."""

    name: str
    function: Callable[[], object]
    num_units: int


@dataclass(frozen=True)
class Quantiles:
    """Minimum, quartiles, maximum and size of a sample."""

    min: float
    q1: float
    median: float
    q3: float
    max: float
    count: int

    @classmethod
    def from_values(cls, values: Iterable[float]) -> "Quantiles":
        """Return the quantiles of `values`."""
        sample = np.asarray(list(values), dtype=np.float64)
        low, q1, median, q3, high = (float(value) for value in np.percentile(sample, (0, 25, 50, 75, 100)))
        return cls(low, q1, median, q3, high, len(sample))


@dataclass(frozen=True)
class CandidateResult:
    """Times measured for one implementation.

    Attributes:
        name: name of the implementation.
        num_units: units of work per repeat.
        wall: wall-clock seconds per repeat.
        cpu: CPU seconds per repeat.
        per_second: units per wall-clock second, computed from the median time.
        per_cpu_second: units per CPU second, computed from the median time, or None if the CPU time is unknown.
        ratio: time per unit divided by the first implementation's time per unit, computed for each repeat; None for the
            first implementation.
        cpu_ratio: the same ratio for CPU time, or None if a CPU time is unknown.
    """

    name: str
    num_units: int
    wall: Quantiles
    cpu: Quantiles
    per_second: float
    per_cpu_second: float | None
    ratio: Quantiles | None
    cpu_ratio: Quantiles | None


@dataclass(frozen=True)
class CaseResult:
    """Results of one case. The other candidates are compared with the first one, which is usually rr."""

    case: str
    unit: str
    threads: int
    candidates: list[CandidateResult]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class PartResult:
    """Results of one part. The notes explain how the times were measured and what was not measured."""

    cases: list[CaseResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def cpu_seconds_with_children() -> float:
    """Return the CPU seconds used so far by this process and by its children that have ended.

    On Linux, the sum also includes running children that `multiprocessing` started.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + children.ru_utime + children.ru_stime
    if sys.platform == "linux":
        for child in multiprocessing.active_children():
            # The clock id for another process's CPU time, computed like clock_getcpuclockid(3).
            seconds += time.clock_gettime((~(child.pid or 0) << 3) | 2)
    return seconds


def time_once(function: Callable[[], object]) -> Timing:
    """Return how long one call to `function` takes."""
    cpu, wall = cpu_seconds_with_children(), time.perf_counter()
    function()
    return Timing(time.perf_counter() - wall, cpu_seconds_with_children() - cpu)


def time_interleaved(candidates: Sequence[Candidate], repeats: int, warmup: int = 1) -> list[list[Timing]]:
    """Call the candidates alternately and return their times as one list per candidate.

    Each candidate is called `warmup` times without timing, and then `repeats` times with timing.
    """
    timings: list[list[Timing]] = [[] for _ in candidates]
    for repeat in range(warmup + repeats):
        for candidate, candidate_timings in zip(candidates, timings, strict=True):
            timing = time_once(candidate.function)
            if repeat >= warmup:
                candidate_timings.append(timing)
    return timings


def summarize(
    case: str, unit: str, threads: int, candidates: Sequence[tuple[str, int]], timings: Sequence[Sequence[Timing]]
) -> CaseResult:
    """Summarize the times of one case, passed as one list per candidate.

    `candidates` lists each candidate's name and its units of work per repeat. All other candidates are compared with
    the first one.
    """
    first_units, first_timings = candidates[0][1], timings[0]
    results = []
    for position, ((name, num_units), candidate_timings) in enumerate(zip(candidates, timings, strict=True)):
        wall, cpu = (
            Quantiles.from_values(t.wall for t in candidate_timings),
            Quantiles.from_values(t.cpu for t in candidate_timings),
        )
        pairs = list(zip(candidate_timings, first_timings, strict=True)) if position else []
        scale = first_units / num_units
        # A CPU time of 0 means that the time could not be read.
        has_cpu_times = bool(pairs) and all(a.cpu > 0 and b.cpu > 0 for a, b in pairs)
        results.append(
            CandidateResult(
                name=name,
                num_units=num_units,
                wall=wall,
                cpu=cpu,
                per_second=num_units / wall.median,
                per_cpu_second=num_units / cpu.median if cpu.median else None,
                ratio=Quantiles.from_values(a.wall / b.wall * scale for a, b in pairs) if pairs else None,
                cpu_ratio=Quantiles.from_values(a.cpu / b.cpu * scale for a, b in pairs) if has_cpu_times else None,
            )
        )
    return CaseResult(case, unit, threads, results)


def compare_candidates(
    case: str, unit: str, threads: int, candidates: Sequence[Candidate], repeats: int, warmup: int = 1
) -> CaseResult:
    """Time the candidates alternately, using `threads` threads, and summarize the times."""
    from rr.compute.torch_threads import configure_torch

    configure_torch(threads)
    names = [(candidate.name, candidate.num_units) for candidate in candidates]
    return summarize(case, unit, threads, names, time_interleaved(candidates, repeats, warmup))
