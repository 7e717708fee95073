"""Show progress with a rate and the time left: a live bar on a terminal, otherwise a line every few seconds.

A thread of the outermost `Progress` updates the display even if a long time passes between two calls to `advance`.
`rr status` shows the same progress in any other terminal.
"""

import math
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType

from rr.runtime import status
from rr.runtime.formatting import format_count, format_duration, format_rate

SECONDS_BEFORE_FIRST_LINE = 2.0
SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_UPDATES = 0.5
# The speed can change, so the rate covers only the last 30 seconds or, in a long run, the last quarter. Computing it
# requires five seconds and two calls to `advance` after the first call. The time before the first call does not count,
# because it includes preparations such as compilation.
_MIN_WINDOW, _MAX_WINDOW, _MAX_WINDOW_FRACTION = 5.0, 30.0, 0.25
_MIN_SAMPLES = 3

_lock = threading.Lock()  # for the two variables below, and for printing
_active: list["Progress"] = []  # nested objects, of which the last one is shown
_last_line_time: float | None = None  # None if nothing has been printed since the outermost object started


def is_main_process() -> bool:
    """Return whether this process is the only one in a run or, if there are several (WORLD_SIZE > 1), the main one."""
    return (os.environ.get("WORLD_SIZE") or "1") == "1" or (os.environ.get("RANK") or "0") == "0"


class Progress:
    """Counts units of work, and shows progress while used as a context manager.

    If several objects are nested, only the innermost one is shown. Without a terminal, nothing is printed for work that
    takes less than two seconds.

    Args:
        name: label shown before the progress.
        total: number of units when the work is complete, or None if it is unknown.
        unit: plural name of the unit, ending in s. If it is empty, only the elapsed time is shown.
        done: number of units that are already done at the start.
        note: text shown after the rate and the time left.
        use_bar: whether to draw a bar on a terminal. Drawing would disturb time measurements.

    >>> with Progress("pretrain", total=2000, unit="views") as progress:
    ...     progress.advance(512)
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        unit: str = "",
        done: int = 0,
        note: str = "",
        *,
        use_bar: bool = True,
    ) -> None:
        self.name, self.total, self.unit, self.done, self.note = name, total, unit, done, note
        self._initial = done
        self._start_time = time.monotonic()
        self._command_start_time = (_active or [self])[0]._start_time
        self._first_advance_time = math.inf
        self._samples: deque[tuple[float, int]] = deque()  # times, and how many units were done then
        self._has_printed = False
        self._last_heartbeat_time = -math.inf
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        can_redraw = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._bar = _make_bar(self) if use_bar and is_main_process() and can_redraw else None

    def __enter__(self) -> "Progress":
        global _last_line_time
        with _lock:
            is_outermost = not _active
            if is_outermost:
                _last_line_time = None
            elif outer_bar := _active[-1]._bar:
                outer_bar.stop()
            _active.append(self)
            if self._bar:
                self._bar.start()
        self._send_heartbeat(time.monotonic())
        if is_outermost:
            self._thread = threading.Thread(target=self._update_regularly, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._send_last_heartbeat()
        with _lock:
            # After an error, an object inside a generator may still be active when the outer object ends.
            while self in _active:
                innermost = _active.pop()
                if innermost._bar:
                    innermost._bar.update(innermost._bar.task_ids[0], completed=innermost.done)
                    innermost._bar.stop()
            if _active and (outer_bar := _active[-1]._bar):
                outer_bar.start()
            if kind is None and self.unit and self._has_printed:
                self._print_line(self._summary())
        if self._thread:
            self._end.set()
            self._thread.join()

    def advance(self, count: int, note: str | None = None) -> None:
        """Add `count` units. `note`, such as the loss, is shown after the rate; None keeps the previous note."""
        self.done += count
        self.note = self.note if note is None else note
        if count:
            self._add_sample(time.monotonic())

    def skip(self, count: int) -> None:
        """Add `count` units that an earlier process completed. They do not affect the rate."""
        self.done += count
        self._initial += count

    @property
    def rate(self) -> float | None:
        """Units per second, or None while there is too little data for an estimate."""
        samples = list(self._samples)
        if len(samples) < _MIN_SAMPLES:
            return None
        (start, first), (end, last) = samples[0], samples[-1]
        return (last - first) / (end - start) if end - start >= _MIN_WINDOW else None

    @property
    def percent(self) -> float | None:
        """Percentage of the total that is done, or None if the total is unknown."""
        return None if self.total is None else 100 * self.done / max(self.total, 1)

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left, or None if it is unknown."""
        rate = self.rate
        return (self.total - self.done) / rate if rate and self.total is not None else None

    def describe(self) -> str:
        """Return the progress as text, without the name."""
        percent, rate, left = self.percent, self.rate, self.seconds_left
        elapsed = time.monotonic() - self._command_start_time
        parts = [
            f"{math.floor(percent)}%" if percent is not None else format_count(self.done, self.unit),
            format_rate(rate, self.unit) if rate else f"{format_duration(elapsed)} elapsed",
            f"{format_duration(left)} left" if left is not None else "",
            self.note,
        ]
        return ", ".join(filter(None, parts if self.unit else parts[1:]))

    def _summary(self) -> str:
        """Return the text of the last line."""
        percent = "" if self.percent is None else f"{math.floor(self.percent)}%"
        seconds = time.monotonic() - self._start_time
        work = f"{format_count(self.done - self._initial, self.unit)} in {format_duration(seconds)}"
        return ", ".join(filter(None, [percent, work, self.note]))

    def _add_sample(self, now: float) -> None:
        self._first_advance_time = min(self._first_advance_time, now)
        window = max(_MAX_WINDOW, _MAX_WINDOW_FRACTION * (now - self._first_advance_time))
        samples = self._samples
        if len(samples) >= _MIN_SAMPLES and now - samples[-2][0] < window / 100:
            samples.pop()  # the new one replaces it, because about a hundred samples per window are enough
        samples.append((now, self.done))
        while len(samples) > _MIN_SAMPLES and samples[1][0] < now - window:
            samples.popleft()

    def _update_regularly(self) -> None:
        while not self._end.wait(_SECONDS_BETWEEN_UPDATES):
            with _lock:
                if _active:
                    _active[-1]._update(time.monotonic())

    def _update(self, now: float) -> None:
        """Refresh the bar, or print a line if one is due. Also write the status file if it is due."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self.done, refresh=True)
        elif self._is_line_due(now):
            self._has_printed = True
            self._print_line(self.describe())
        if now - self._last_heartbeat_time >= status.SECONDS_BETWEEN_HEARTBEATS:
            self._send_heartbeat(now)

    def _is_line_due(self, now: float) -> bool:
        if _last_line_time is None:  # nothing has been printed since the outermost object started
            return now - self._command_start_time >= SECONDS_BEFORE_FIRST_LINE
        if self.note and not self._has_printed:  # show a new note soon
            return now - self._start_time >= SECONDS_BEFORE_FIRST_LINE
        return now - _last_line_time >= SECONDS_BETWEEN_LINES

    def _send_heartbeat(self, now: float) -> None:
        self._last_heartbeat_time = now
        status.heartbeat(
            percent=self.percent, done=self.done, unit=self.unit, rate=self.rate, seconds_left=self.seconds_left,
            note=self.note,
        )  # fmt: skip

    def _send_last_heartbeat(self) -> None:
        """After an error or signal, write the progress to the status file, and stop outer objects from replacing it."""
        with _lock:
            if _active and self is _active[-1]:
                self._send_heartbeat(time.monotonic())
                for outer in _active:
                    outer._last_heartbeat_time = math.inf

    def _print_line(self, text: str) -> None:
        global _last_line_time
        _last_line_time = time.monotonic()
        with suppress(OSError, ValueError):  # nobody reads stderr anymore
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)


def _make_bar(progress: Progress):  # type: ignore[no-untyped-def]  # rich is imported only if a terminal shows the bar
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column
    from rich.text import Text

    class Description(ProgressColumn):
        def __init__(self) -> None:
            super().__init__(Column(no_wrap=True))

        def render(self, task: Task) -> Text:
            return Text(progress.describe())

    # If stdout is also a terminal, messages written to it are printed above the bar.
    bar = RichProgress(
        TextColumn("[bold]{task.description}"), BarColumn(), Description(), console=Console(stderr=True),
        auto_refresh=False, transient=not progress.unit, redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
    bar.add_task(progress.name, total=progress.total, completed=progress.done)
    return bar
