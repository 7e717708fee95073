"""Time two or more ways of doing one thing in strict alternation, and summarise what was found.

Other jobs come and go, so a rate measured alone says little. The contestants take turns, A B A B, and the ratio is
formed turn by turn: what disturbs a turn disturbs both of its sides.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Seconds(NamedTuple):
    """What one repeat took: on the wall clock, and of all cores in this process and its children."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Contestant:
    """One way of doing the work: `work` does `amount` units of it."""

    name: str
    work: Callable[[], object]
    amount: int


@dataclass(frozen=True)
class Spread:
    """Five numbers of a sample, and its size."""

    min: float
    q1: float
    median: float
    q3: float
    max: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        sample = np.asarray(list(values), dtype=np.float64)
        low, q1, median, q3, high = (float(value) for value in np.percentile(sample, (0, 25, 50, 75, 100)))
        return cls(low, q1, median, q3, high, len(sample))


@dataclass(frozen=True)
class Side:
    """A contestant's result.

    `wall` and `cpu` are seconds of a repeat, `per_second` units on the wall clock at the median, `per_cpu_second` those
    of a core's second. `ratio` and `cpu_ratio` say how many times less the first contestant of the row takes for a
    unit, turn by turn; None for that contestant itself.
    """

    name: str
    amount: int
    wall: Spread
    cpu: Spread
    per_second: float
    per_cpu_second: float | None
    ratio: Spread | None
    cpu_ratio: Spread | None


@dataclass(frozen=True)
class Row:
    """One case: ours first, then what it is compared with."""

    case: str
    unit: str
    threads: int
    sides: list[Side]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Part:
    """What a part has found; `notes` say what the figures contain and what was left out."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def cpu_seconds() -> float:
    """CPU time so far of this process and its children; on Linux also of living ones that `multiprocessing` started."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = time.process_time() + ended.ru_utime + ended.ru_stime
    if sys.platform == "linux":
        for child in multiprocessing.active_children():
            # The clock id of another process's CPU time, as clock_getcpuclockid(3) builds it.
            used += time.clock_gettime((~(child.pid or 0) << 3) | 2)
    return used


def timed(work: Callable[[], object]) -> Seconds:
    """Run `work` once."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    return Seconds(time.perf_counter() - wall, cpu_seconds() - cpu)


def alternate(contestants: Sequence[Contestant], repeats: int, warmup: int = 1) -> list[list[Seconds]]:
    """Let the contestants take turns; one list of `repeats` results for each, without the warm-up's."""
    runs: list[list[Seconds]] = [[] for _ in contestants]
    for turn in range(warmup + repeats):
        for contestant, results in zip(contestants, runs, strict=True):
            result = timed(contestant.work)
            if turn >= warmup:
                results.append(result)
    return runs


def row(case: str, unit: str, threads: int, names: Sequence[tuple[str, int]], runs: Sequence[Sequence[Seconds]]) -> Row:
    """Summarise the turns of (name, amount) contestants, of which the first is ours."""
    ours_amount, ours = names[0][1], runs[0]
    sides = []
    for number, ((name, amount), results) in enumerate(zip(names, runs, strict=True)):
        wall, cpu = Spread.of(r.wall for r in results), Spread.of(r.cpu for r in results)
        pairs = list(zip(results, ours, strict=True)) if number else []
        scale = ours_amount / amount
        # Where a process's CPU time cannot be read, it counts as 0 and gives no ratio.
        seen = bool(pairs) and all(a.cpu > 0 and b.cpu > 0 for a, b in pairs)
        sides.append(
            Side(
                name=name,
                amount=amount,
                wall=wall,
                cpu=cpu,
                per_second=amount / wall.median,
                per_cpu_second=amount / cpu.median if cpu.median else None,
                ratio=Spread.of(a.wall / b.wall * scale for a, b in pairs) if pairs else None,
                cpu_ratio=Spread.of(a.cpu / b.cpu * scale for a, b in pairs) if seen else None,
            )
        )
    return Row(case, unit, threads, sides)


def compare(case: str, unit: str, threads: int, contestants: Sequence[Contestant], repeats: int) -> Row:
    """`alternate` and `row` in one, with `threads` threads for torch and numba."""
    from rr.compute.device import settle

    settle(threads)
    names = [(contestant.name, contestant.amount) for contestant in contestants]
    return row(case, unit, threads, names, alternate(contestants, repeats))
