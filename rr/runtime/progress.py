"""Show progress with a rate and the time left: a live bar on a terminal, otherwise a line every few seconds.

`rr status` shows the same from any other terminal.
"""

import sys
import time
from types import TracebackType

from rr.runtime import status

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts units of work up to a total, and shows the progress while used as a context manager.

    Args:
        name: label shown before the progress.
        total: number of units when the work is complete.
        unit: name of the units, in the plural.
        done: number of units that are done at the start.

    >>> with Progress("pretrain", total=2000, unit="views") as progress:
    ...     progress.advance(512)
    """

    def __init__(self, name: str, total: int, unit: str, done: int = 0) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.note = ""
        self._initial = done
        self._start_time = self._last_line_time = time.monotonic()
        self._bar = _make_bar(unit) if sys.stderr.isatty() else None
        self._task = self._bar.add_task(name, total=total, completed=done, note="") if self._bar else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        self._send_heartbeat(time.monotonic())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None and self.total:
            self._print_line()

    def advance(self, count: int, note: str | None = None) -> None:
        """Add `count` units.

        Args:
            count: number of units that were done since the last call.
            note: text to show after the rate, such as the loss. If None, the previous note is kept.
        """
        now = time.monotonic()
        self.done += count
        self.note = self.note if note is None else note
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=self.note)
        elif now - self._last_line_time >= SECONDS_BETWEEN_LINES:
            self._print_line()
        if now - self._last_heartbeat_time >= status.SECONDS_BETWEEN_HEARTBEATS:
            self._send_heartbeat(now)

    @property
    def rate(self) -> float:
        """Units per second since this object was created."""
        return (self.done - self._initial) / max(time.monotonic() - self._start_time, 1e-9)

    @property
    def percent(self) -> float:
        """Percentage of the total that is done."""
        return 100 * self.done / max(self.total, 1)

    @property
    def seconds_left(self) -> float:
        """Estimated time left at the rate so far."""
        return (self.total - self.done) / max(self.rate, 1e-9)

    def _send_heartbeat(self, now: float) -> None:
        self._last_heartbeat_time = now
        left = self.seconds_left if self.done > self._initial else None
        status.heartbeat(percent=self.percent, rate=self.rate, unit=self.unit, seconds_left=left, note=self.note)

    def _print_line(self) -> None:
        self._last_line_time = time.monotonic()
        text = f"{self.name}: {self.percent:.0f} %, {self.rate:,.0f} {self.unit}/s, {self.seconds_left:.0f} s left"
        print(f"{text}, {self.note}" if self.note else text, file=sys.stderr, flush=True)


def _make_bar(unit: str):  # type: ignore[no-untyped-def]  # rich is imported only if a terminal shows the bar
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def __init__(self) -> None:
            super().__init__(Column(no_wrap=True))

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:,.0f} {unit}/s", style="cyan")

    return RichProgress(
        TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), Rate(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}", style="dim"), console=Console(stderr=True),
    )  # fmt: skip
