"""Several GPUs of one host, and a run on each: who takes which, without a server between them.

`RR_GPUS=0,1,2,3` names them as CUDA_VISIBLE_DEVICES would. One that stands there twice takes two runs at once; the
first that is free is taken, so `0,1,0,1` spreads them.
"""

import fcntl
import os
import re
import sys
import time
from pathlib import Path

from rr.errors import UserError

# One place for all sessions of a user on this host, so not below TMPDIR, which batch systems and shells set anew.
LOCKS = Path("/tmp", f"rr-gpus-{os.getuid()}")

_taken: tuple[str, int] | None = None  # this process's GPU and its file; open, and so locked, until the process ends


def device(name: str) -> str:
    """The device that `name` means, as `rr.compute.device.choose` says; with RR_GPUS, "auto" and "cuda" are a GPU of those.

    Raises UserError where torch does not see the one that was taken, and for a GPU that `name` names by itself.
    """
    from rr.compute.device import choose

    named = os.environ.get("RR_GPUS")
    if not named or name not in ("auto", "cuda"):
        if named and name.startswith("cuda"):
            raise UserError(f"--device {name} is one GPU, and RR_GPUS={named} gives them out: unset one of the two")
        return choose(name)
    gpu = take()  # before torch looks which there are
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"RR_GPUS={named}: torch sees no GPU {gpu} here (nvidia-smi -L lists them, rr doctor says more); name "
            "those that are there, or unset RR_GPUS"
        )
    return "cuda"


def take() -> str | None:
    """Show this process one GPU of RR_GPUS that no other run of this user has, and return its name.

    Waits while there is none; whether this host has it is for others to find out. None without RR_GPUS. The kernel
    gives a GPU back when its process ends, however that ends. Raises UserError for names that are none, and where
    CUDA_VISIBLE_DEVICES has been given, as a cluster does.
    """
    global _taken
    named = os.environ.get("RR_GPUS")
    if not named:
        return None
    if _taken is not None:
        return _taken[0]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        raise UserError("RR_GPUS and CUDA_VISIBLE_DEVICES are both set: unset the one that shall not decide")
    gpus = [_one_spelling(gpu) for gpu in named.split(",")]
    if not all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]*", gpu) for gpu in gpus):
        raise UserError(f"RR_GPUS={named}: give numbers or UUIDs of GPUs with commas between, such as 0,1")
    LOCKS.mkdir(exist_ok=True)
    waiting = False
    while True:
        for place, gpu in enumerate(gpus):
            file = os.open(LOCKS / f"{gpu}.{gpus[:place].count(gpu)}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                _taken, os.environ["CUDA_VISIBLE_DEVICES"] = (gpu, file), gpu
                return gpu
        if not waiting:
            print(f"every GPU of RR_GPUS={named} has its run: waiting for one", file=sys.stderr, flush=True)
        waiting = True
        time.sleep(1)


def _one_spelling(gpu: str) -> str:
    """A number without leading zeros, because 0 and 00 are one GPU and must be one lock; else what it was."""
    return gpu.lstrip("0") or "0" if re.fullmatch("[0-9]+", gpu) else gpu
