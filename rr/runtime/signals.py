"""Handle signals such as Ctrl-C: end the command at once, or at a point where its work can be saved.

A scheduler sends SIGTERM to stop a job. It can be configured to send SIGUSR1 some time beforehand.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

# Messages by exit code, which is 128 plus the signal number, as in a shell. A code of 128 or more means that the
# command continues if it is run again. After code 2 (a user error) or 1 (a bug), it would fail again.
EXIT_MESSAGES = {
    128 + signal.SIGINT: "interrupted",
    128 + signal.SIGTERM: "terminated",
    128 + signal.SIGUSR1: "stopped before a time limit",
}
# Exit code if the program that reads the output, such as `head`, has ended. No message is printed.
CLOSED_PIPE_CODE = 128 + signal.SIGPIPE


def exit_for_signal(signum: int) -> NoReturn:
    """End the program for signal `signum` by raising an exception, so that temporary files are deleted."""
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + signum)


def install_handlers() -> None:
    """Make SIGTERM and SIGUSR1 end the program as Ctrl-C does, even if SIGUSR1 was ignored.

    The Snakefile makes Snakemake ignore SIGUSR1, and `rr` inherits this setting.
    """
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, lambda signum, frame: exit_for_signal(signum))


@contextmanager
def defer_signals(*, second_sigint_raises: bool = True) -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGUSR1 in the yielded list while the body runs, instead of ending the program.

    The body must check the list and end the program with `exit_for_signal`. A second SIGTERM or SIGUSR1 never ends the
    program at once, because schedulers and launchers may send several for one event. A second Ctrl-C does, for users
    who do not want to wait, unless `second_sigint_raises` is false.
    """
    received: list[int] = []
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def collect(signum: int, frame: object) -> None:
        received.append(signum)
        if signum == signal.SIGINT and second_sigint_raises:
            signal.signal(signum, handlers[signal.SIGINT])

    for signum, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # shells ignore SIGINT for background commands
            signal.signal(signum, collect)
    try:
        yield received
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def run_command(command: Sequence[str | os.PathLike[str]], environment: Mapping[str, str]) -> int:
    """Run a command that runs stages, such as `dvc repro`, and return its exit code.

    The command and its children run in their own process group. If this process receives a signal, it sends SIGINT to
    the whole group, waits until the command ends, and then exits. It always sends SIGINT because DVC waits for the
    current stage to save its work after SIGINT, but not after SIGTERM. Later signals are ignored, because a second
    SIGINT would end the stage at once. Only a second Ctrl-C is passed on, so that users can end the stage. Ctrl-Z also
    stops the whole group.
    """
    received: list[int] = []
    is_interrupted = False  # whether the group has received SIGINT
    process: subprocess.Popen[bytes] | None = None

    def signal_group(signum: int) -> None:
        if process and process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signum)

    def interrupt_group(signum: int, frame: object) -> None:
        nonlocal is_interrupted
        is_repeated_ctrl_c = signum == signal.SIGINT and received[:1] == [signal.SIGINT]
        if process and (not received or is_repeated_ctrl_c):  # all other signals after the first are ignored
            is_interrupted = True
            signal_group(signal.SIGINT)
        received.append(signum)

    def suspend_group(signum: int, frame: object) -> None:
        signal_group(signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, suspend_group)  # after `fg` or `bg`
        signal_group(signal.SIGCONT)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)
    handlers: dict[int, Any] = {**dict.fromkeys(signals, interrupt_group), signal.SIGTSTP: suspend_group}
    # Signals that are ignored, such as SIGHUP after nohup, stay ignored.
    handlers = {number: value for number, value in handlers.items() if signal.getsignal(number) is not signal.SIG_IGN}
    # If SIGINT is ignored, as for a background command in a script, the command must not inherit this setting.
    handlers.setdefault(signal.SIGINT, lambda signum, frame: None)
    former = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        process = subprocess.Popen(command, env=environment, process_group=0)
        if received and not is_interrupted:  # a signal arrived before the group existed
            signal_group(signal.SIGINT)
        code = process.wait()
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
    if received:
        exit_for_signal(received[0] if 128 + received[0] in EXIT_MESSAGES else signal.SIGTERM)
    return code
