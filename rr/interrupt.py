"""Ctrl-C, SIGTERM and SIGUSR1 end a command at once, or where its work can be saved.

A scheduler sends SIGTERM when it takes a machine back, and SIGUSR1, where it is told to, some time before that.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# By the shell's code for a command that a signal has ended: what to say. The command continues when it is run again, so
# a code of 128 and more is for whoever retries, unlike 2, a mistake that a retry repeats, and 1, a bug.
ENDED = {
    128 + signal.SIGINT: "interrupted",
    128 + signal.SIGTERM: "terminated",
    128 + signal.SIGUSR1: "stopped ahead of a limit",
}


def unwind() -> None:
    """Let SIGTERM and SIGUSR1 end the program as Ctrl-C does: by an exception, so that nothing half written stays.

    Also where SIGUSR1 is ignored: the Snakefile has it so, for all but `rr`.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


@contextmanager
def postponed() -> Iterator[list[int]]:
    """Collect the three signals while the body runs, instead of letting them act; the body looks at the list.

    It passes one on by `signal.raise_signal`. After the first, all act at once again: a second Ctrl-C does not wait.
    """
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

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
