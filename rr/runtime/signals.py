"""Handle Ctrl-C, SIGTERM and SIGUSR1: end the command at once, or at a point where its work can be saved.

A scheduler sends SIGTERM to stop a job. It can be configured to send SIGUSR1 some time before that.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Messages by exit code: 128 plus the signal, as in a shell. Such a command continues if it is run again. So a code of
# 128 or more means "retry", in contrast to 2, a user's mistake that a retry would repeat, and 1, a bug.
EXIT_MESSAGES = {
    128 + signal.SIGINT: "interrupted",
    128 + signal.SIGTERM: "terminated",
    128 + signal.SIGUSR1: "stopped before a time limit",
}


def exit_for_signal(number: int) -> NoReturn:
    """End the program for signal `number` by raising an exception, so that temporary files are deleted."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def install_handlers() -> None:
    """Make SIGTERM and SIGUSR1 end the program as Ctrl-C does, even if SIGUSR1 was ignored.

    The Snakefile ignores SIGUSR1 for Snakemake itself, and `rr` inherits that.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: exit_for_signal(number))


@contextmanager
def defer_signals(*, second_sigint_raises: bool = True) -> Iterator[list[int]]:
    """Collect the three signals in the yielded list while the body runs, instead of ending the program.

    The body must check the list, and end the program with `exit_for_signal`. A second SIGTERM or SIGUSR1 never ends it
    at once, because schedulers and launchers may send several for one event.

    Args:
        second_sigint_raises: Whether a second Ctrl-C ends the program at once, for users who do not want to wait.
    """
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def collect(number: int, frame: object) -> None:
        received.append(number)
        if number == signal.SIGINT and second_sigint_raises:
            signal.signal(number, handlers[signal.SIGINT])

    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # shells ignore SIGINT for background commands
            signal.signal(number, collect)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
