"""Ctrl-C and SIGTERM end a command at once, or where its work can be saved."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The shell's codes for a command that a signal has ended.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def unwind_on_sigterm() -> None:
    """Let SIGTERM end the program as Ctrl-C does: by an exception, so that nothing half written stays."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextmanager
def postponed() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while the body runs, instead of letting them act; the body looks at the list.

    It passes one on by `signal.raise_signal`. After the first, both act at once again: a second Ctrl-C does not wait.
    """
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        asked.append(number)
        restore()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as a shell gives it to what it runs in the background
            signal.signal(number, note)
    try:
        yield asked
    finally:
        restore()
