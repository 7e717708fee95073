"""The processes of one run: how they divide mini-batches, and what they synchronize.

torchrun starts the processes and describes them in environment variables. Only the main process writes files and
prints. This module imports torch only if there are several processes.
"""

import contextlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rr.errors import ReportedByAnotherProcess, UserError
from rr.runtime.formatting import format_count, format_duration
from rr.runtime.progress import Progress, is_main_process

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others, which may be saving or clustering, before it considers them lost."""

_REPORT_WAIT_SECONDS = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, from the point of view of one of them. The default is a single process.

    Attributes:
        rank: index of this process in the run, starting at 0.
        world_size: number of processes in the run.
        local_rank: index of this process on its host, starting at 0.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, the only one that writes files and prints."""
        return self.rank == 0

    def local_slice(self, batch_size: int, rank: int | None = None) -> slice:
        """Return the slice of a mini-batch that this process (or the process `rank`) works on.

        The slices of successive processes are adjacent, and their sizes differ by at most one. In a smaller mini-batch,
        no process has a larger slice than in a full one.
        """
        rank = self.rank if rank is None else rank
        base, remainder = divmod(batch_size, self.world_size)
        start = rank * base + min(rank, remainder)
        return slice(start, start + base + (rank < remainder))

    def local_device(self, name: str) -> str:
        """Return this process's device for `--device name`, and make it torch's current device.

        Raises:
            UserError: if `name` refers to a single GPU and there are several processes, or if this process has no GPU.
        """
        if self.world_size == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise UserError(
                f"--device {name} is a single GPU, but {self.world_size} processes need one each: use --device cuda"
            )
        import torch

        from rr.compute.device import resolve_device

        device = resolve_device(f"cuda:{self.local_rank}")
        torch.cuda.set_device(device)
        return device

    def check_identical(self, facts: dict[str, str]) -> None:
        """Raise UserError in every process if any value in `facts` differs between processes.

        Args:
            facts: the values to compare. The error message shows their keys, which must be the same in all processes.
        """
        if self.world_size == 1:
            return
        import torch
        import torch.distributed as dist

        # Exchange hashes as tensors of a fixed size: torch would pickle strings, and unpickling can run code.
        hashes = torch.tensor([list(hashlib.sha256(text.encode()).digest()) for text in facts.values()])
        all_hashes = [torch.empty_like(hashes) for _ in range(self.world_size)]
        dist.all_gather(all_hashes, hashes)
        for rank, rank_hashes in enumerate(all_hashes):
            is_equal = (rank_hashes == all_hashes[0]).all(1).tolist()
            differing = [name for name, equal in zip(facts, is_equal, strict=True) if not equal]
            if differing:
                raise UserError(
                    f"process {rank} does not have the same {' and '.join(differing)} as process 0: start all "
                    "processes of a run in the same folder, with the same command and the same installation"
                )

    def sync_stop_and_save(self, received_signals: list[int], save_due: bool) -> tuple[int, bool]:
        """Agree with the other processes on whether a signal stops the run, and on whether to save a checkpoint.

        Args:
            received_signals: numbers of the signals that this process has received.
            save_due: whether a checkpoint is due; only the value of the main process counts.

        Returns:
            The number of a signal that any process has received (0 if none), and whether to save. Both are the same in
            every process.
        """
        number = received_signals[0] if received_signals else 0
        if self.world_size == 1:
            return number, save_due
        import torch
        import torch.distributed as dist

        maxima = torch.tensor([number, int(save_due and self.is_main)])
        dist.all_reduce(maxima, dist.ReduceOp.MAX)
        return int(maxima[0]), bool(maxima[1])

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        self.sync_stop_and_save([], False)

    def broadcast(self, tensor: "Tensor") -> "Tensor":
        """Overwrite `tensor` in every process with the main process's values, and return it.

        The tensor must be on the CPU and have the same shape and dtype in all processes.
        """
        if self.world_size > 1:
            import torch.distributed as dist

            dist.broadcast(tensor, 0)
        return tensor


def require_single_process(stage: str) -> None:
    """Raise an error if this process is one of several (WORLD_SIZE > 1).

    Raises:
        UserError: in process 0.
        ReportedByAnotherProcess: in the other processes, so that only one message is printed.
    """
    size = os.environ.get("WORLD_SIZE") or "1"
    if size != "1":
        if not is_main_process():
            raise ReportedByAnotherProcess(2)
        raise UserError(
            f"{stage} runs in a single process, but WORLD_SIZE is {size}: run the command without torchrun, and with "
            "WORLD_SIZE unset"
        )


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Connect to the other processes of this run if torchrun has started several, and yield the group.

    Within the `with` block, the output of all processes but the main one is discarded. After one process has
    failed, a UserError, an interrupt or an exit in another process is raised as ReportedByAnotherProcess.

    Raises:
        UserError: if torchrun's environment variables are invalid, if the processes cannot connect, or if they lose the
            connection.
    """
    group = _read_environment()
    if group.world_size == 1:
        yield group
        return
    import torch.distributed as dist

    store: Store | None = None
    try:
        store = _rendezvous(group)
        with contextlib.ExitStack() as stack:
            if not group.is_main:
                devnull = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(devnull))
                stack.enter_context(contextlib.redirect_stderr(devnull))
            stack.enter_context(translate_comm_errors())
            yield group
        dist.destroy_process_group()
    except BaseException as error:
        is_first_failure = _register_failure_and_check_first(store, group)
        if dist.is_initialized():  # the threads of an open group may abort this process with their own exit code
            dist.destroy_process_group()
        if not is_first_failure and isinstance(error, (UserError, KeyboardInterrupt, SystemExit)):
            raise ReportedByAnotherProcess(_exit_code(error)) from error
        raise


def _rendezvous(group: ProcessGroup) -> "Store":
    """Connect to the other processes, and return the key-value store that they all share.

    Raises:
        UserError: if the processes cannot connect within TIMEOUT.
    """
    import torch
    import torch.distributed as dist

    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    others = format_count(group.world_size - 1, "other processes", "other process")
    note = f"waiting for {others} of this run at {address} (WORLD_SIZE is {group.world_size})"
    # Python's signal handlers do not run while torch waits. No work has begun yet, so a signal may simply end the
    # process.
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
    try:
        with Progress("pretrain", note=note, use_bar=False):  # a signal would leave a progress bar behind
            store, _, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
            # The processes agree on signals through gloo, even if they train on GPUs, so that no GPU has to wait.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, store=store, rank=group.rank, world_size=group.world_size, timeout=TIMEOUT)
    except RuntimeError as error:
        if "timed out" in str(error).lower():
            raise UserError(
                f"the {group.world_size} processes of this run did not all connect to {address} within "
                f"{format_duration(TIMEOUT.total_seconds())}: start all of them with torchrun, with a master address "
                "that every host can reach, or unset WORLD_SIZE to run a single process"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the {group.world_size} processes of this run could not connect to {address} ({reason}): start all of "
            "them with torchrun, with a master address that every host can reach and a free port"
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return store


@contextmanager
def translate_comm_errors() -> Iterator[None]:
    """Convert torch's errors about a lost connection into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not _is_comm_error(error):
            raise
        raise UserError(
            "another process of this run has ended or is not responding. If no other error is printed, that process "
            "was killed or is hanging (see rr status). Run the same command again to continue"
        ) from error


def _is_comm_error(error: RuntimeError) -> bool:
    """Return whether `error` means that torch could not reach another process. gloo has no exception class for this."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and (isinstance(error, distributed.DistError) or "gloo" in str(error))


def _register_failure_and_check_first(store: "Store | None", group: ProcessGroup) -> bool:
    """Record that this process failed. Return whether it failed first, or True if the store cannot be reached."""
    try:
        if store is None:
            return True
        is_first = store.add("failed", 1) == 1
        # The main process hosts the store, so it waits until the other processes have also called this function.
        deadline = time.monotonic() + _REPORT_WAIT_SECONDS
        while group.is_main and store.add("failed", 0) < group.world_size and time.monotonic() < deadline:
            time.sleep(0.01)
        return is_first
    except RuntimeError:
        return True


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 2


def _read_environment() -> ProcessGroup:
    """Return the process group that torchrun's environment variables describe.

    Raises:
        UserError: if the variables are incomplete or invalid, or if RR_GPUS is also set.
    """
    if (os.environ.get("WORLD_SIZE") or "1") == "1":
        return ProcessGroup()
    values = {name: os.environ.get(name, "") for name in _TORCHRUN_VARIABLES}
    port = values["MASTER_PORT"]
    numbers = [values[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    is_complete = all(values.values()) and all(number.isdecimal() for number in [*numbers, port])
    if not is_complete or not 0 < int(port) < 1 << 16:
        settings = ", ".join(f"{name}={value or '(unset)'}" for name, value in values.items())
        raise UserError(
            f"torchrun's environment variables are incomplete or invalid ({settings}): start rr with torchrun, or "
            "unset WORLD_SIZE to run a single process"
        )
    if os.environ.get("RR_GPUS"):
        raise UserError(
            "RR_GPUS assigns one GPU to each run, but each torchrun process needs its own GPU: unset RR_GPUS, "
            "and select the GPUs with CUDA_VISIBLE_DEVICES"
        )
    rank, world_size, local_rank = map(int, numbers)
    if rank >= world_size:
        raise UserError(
            f"RANK={rank} is out of range: with WORLD_SIZE={world_size}, it must be 0 to {world_size - 1}. Start rr "
            "with torchrun, which sets both variables"
        )
    return ProcessGroup(rank, world_size, local_rank)
