"""Ctrl-C, SIGTERM and SIGUSR1 end a command at once, or where its work can be saved.

A scheduler sends SIGTERM when it takes a machine back, and SIGUSR1, where it is told to, some time before that.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# By the shell's code for a command that a signal has ended: what to say. The command continues when it is run again, so
# a code of 128 and more is for whoever retries, unlike 2, a mistake that a retry repeats, and 1, a bug.
ENDED = {
    128 + signal.SIGINT: "interrupted",
    128 + signal.SIGTERM: "terminated",
    128 + signal.SIGUSR1: "stopped ahead of a limit",
}


def end(number: int) -> NoReturn:
    """End the program for signal `number`, by an exception, so that nothing half written stays."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def unwind() -> None:
    """Let SIGTERM and SIGUSR1 end the program as Ctrl-C does.

    Also where SIGUSR1 is ignored: the Snakefile has it so, for all but `rr`.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: end(number))


@contextmanager
def postponed(*, second_acts: bool = True) -> Iterator[list[int]]:
    """Collect the three signals while the body runs, instead of letting them act; the body looks at the list.

    It ends itself by `end`. A second Ctrl-C acts at once, for who does not want to wait, unless `second_acts` is False.
    A second SIGTERM or SIGUSR1 never does: schedulers and launchers send them more than once for one thing.
    """
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def note(number: int, frame: object) -> None:
        asked.append(number)
        if number == signal.SIGINT and second_acts:
            signal.signal(number, before[signal.SIGINT])

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as a shell gives it to what it runs in the background
            signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
