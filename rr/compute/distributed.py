"""One run in several processes: who they are, what each takes of a mini-batch, and what they agree on.

torchrun starts them and tells each by the environment which one it is. The first alone writes and prints. This module
loads torch only where there are several.
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
from typing import TYPE_CHECKING, Any

from rr.errors import SaidElsewhere, UserError

if TYPE_CHECKING:
    from torch import Tensor

# How long a process waits for the others, who may be saving or clustering, before it takes one for lost.
PATIENCE = timedelta(minutes=10)
_SECONDS_TO_ASK = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees it: process `rank` of `size`, number `local` on its host."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, images: int, rank: int | None = None) -> slice:
        """The pictures of a mini-batch of `images` that this process (or `rank`) takes.

        The shares follow each other, and their sizes differ by one at most. Of a smaller mini-batch none is larger.
        """
        here = self.rank if rank is None else rank
        whole, rest = divmod(images, self.size)
        start = here * whole + min(here, rest)
        return slice(start, start + whole + (here < rest))

    def device(self, name: str) -> str:
        """The device of this process, where the run is on `name`. Raises UserError for one GPU and several of us."""
        if self.size == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise UserError(f"--device {name} is one GPU, and {self.size} processes need one each: use --device cuda")
        import torch

        from rr.compute.device import choose

        own = choose(f"cuda:{self.local}")
        torch.cuda.set_device(own)
        return own

    def alike(self, facts: dict[str, str]) -> None:
        """Raise UserError, in every process, unless each of `facts`, by its name, is the same in all."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        # Hashes of one size, because torch would unpickle texts.
        own = torch.tensor([list(hashlib.sha256(text.encode()).digest()) for text in facts.values()])
        all_ranks = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(all_ranks, own)
        for rank, found in enumerate(all_ranks):
            other = [
                name for name, same in zip(facts, (found == all_ranks[0]).all(1).tolist(), strict=True) if not same
            ]
            if other:
                raise UserError(
                    f"process {rank} of this run has not the same {' and '.join(other)} as process 0: start all of "
                    "them in the same folder, with the same command and installation"
                )

    def agree(self, asked: list[int], due: bool) -> tuple[int, bool]:
        """The signal to stop for, 0 for none, and whether to save: the same in every process.

        It is the signal that any has got (`asked`), and a save that the first finds `due`.
        """
        number = asked[0] if asked else 0
        if self.size == 1:
            return number, due
        import torch
        import torch.distributed as dist

        said = torch.tensor([number, int(due and self.first)])
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return int(said[0]), bool(said[1])

    def meet(self) -> None:
        """Wait until every process has come here."""
        self.agree([], False)

    def from_first(self, tensor: "Tensor") -> "Tensor":
        """The first process's `tensor`, which is on the CPU and of one shape and type in all."""
        if self.size > 1:
            import torch.distributed as dist

            dist.broadcast(tensor, 0)
        return tensor


def alone(stage: str) -> None:
    """Raise, for a stage that one process makes, where this one is of several: UserError, SaidElsewhere but for one."""
    size = os.environ.get("WORLD_SIZE") or "1"
    if size != "1":
        if os.environ.get("RANK", "0") != "0":
            raise SaidElsewhere(2)
        raise UserError(f"{stage} is made by one process, and this is one of {size} (WORLD_SIZE): start it by itself")


@contextmanager
def joined() -> Iterator[Group]:
    """Meet the other processes of this run, if torchrun has started several; the body's output is the first one's.

    Where they end with an error one of them says it, the first to fail; the others raise SaidElsewhere. Raises
    UserError where the environment is incomplete, and where a process is lost.
    """
    group = _from_environment()
    if group.size == 1:
        yield group
        return
    import torch.distributed as dist

    store: Any = None
    try:
        store = _met(group)
        with contextlib.ExitStack() as stack:
            if not group.first:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            yield group
        dist.destroy_process_group()
    except BaseException as error:
        speaks = _is_first_to_fail(store, group)
        if dist.is_initialized():  # or its threads may abort this process at its end, with a code that says "run again"
            dist.destroy_process_group()
        if not speaks and isinstance(error, (UserError, KeyboardInterrupt, SystemExit)):
            raise SaidElsewhere(_code(error)) from error
        raise


def _met(group: Group) -> Any:
    """Meet the others; the store that all of them write into. Raises UserError where they do not come."""
    import torch
    import torch.distributed as dist

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    # torch waits without looking at signals. Nothing is begun yet, so they may act by themselves.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
        # What the processes agree on goes through gloo also where the training does not: no GPU waits for it.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=group.rank, world_size=group.size, timeout=PATIENCE)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the {group.size} processes of this run did not meet at {place} ({reason}): start all of them, by "
            "torchrun, with an address that all reach and a port that is free"
        ) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return store


@contextmanager
def explained() -> Iterator[None]:
    """Turn what torch says of a lost connection into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise UserError(
            "another process of this run has ended, or does not answer; if it printed no reason itself, it was killed "
            "(rr status shows the run): run the same command again to continue"
        ) from error


def _lost(error: RuntimeError) -> bool:
    """Whether torch could not reach a peer: gloo has no type of its own for that."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and (isinstance(error, distributed.DistError) or "gloo" in str(error))


def _is_first_to_fail(store: Any, group: Group) -> bool:
    """Whether no other process has failed before; True where nobody can be asked any more."""
    try:
        if store is None:
            return True
        speaks = store.add("failed", 1) == 1
        # The store ends with the first process, so that one waits a little for the others to ask, too.
        end = time.monotonic() + _SECONDS_TO_ASK
        while group.first and store.add("failed", 0) < group.size and time.monotonic() < end:
            time.sleep(0.01)
        return speaks
    except RuntimeError:
        return True


def _code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 2


def _from_environment() -> Group:
    if (os.environ.get("WORLD_SIZE") or "1") == "1":
        return Group()
    found = {name: os.environ.get(name, "") for name in _VARIABLES}
    numbers = [found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    port = found["MASTER_PORT"]
    whole = all(found.values()) and all(number.isdecimal() for number in [*numbers, port])
    if not whole or not 0 < int(port) < 1 << 16:
        told = ", ".join(f"{name}={value or '(unset)'}" for name, value in found.items())
        raise UserError(
            f"the environment speaks of several processes, but wrongly or not of all ({told}): start rr by torchrun"
        )
    if os.environ.get("RR_GPUS"):
        raise UserError(
            "RR_GPUS shows a run one GPU, and torchrun's processes need one each: unset it, and name theirs by "
            "CUDA_VISIBLE_DEVICES"
        )
    rank, size, local = map(int, numbers)
    if rank >= size:
        raise UserError(f"RANK={rank} is no process of WORLD_SIZE={size}, counted from 0: start rr by torchrun")
    return Group(rank, size, local)
