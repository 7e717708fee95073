"""Distribute runs across the GPUs of one host without a scheduler.

`RR_GPUS=0,1,2,3` lists the GPUs in the same format as CUDA_VISIBLE_DEVICES. Each run uses the first free GPU. A GPU
that is listed twice accepts two runs at once: `RR_GPUS=0,1,0,1`.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import TextIO

from rr.errors import UserError
from rr.runtime.lock import try_lock

# All sessions of a user on this host must share this folder. TMPDIR is not used, because it may differ between them.
LOCK_DIR = Path("/tmp", f"rr-gpus-{os.getuid()}")

# The GPU of this process and its lock file, which stays open until the process ends.
_acquired: tuple[str, TextIO] | None = None


def acquire_device(name: str) -> str:
    """Return the torch device for `--device NAME`. If RR_GPUS is set, "auto" and "cuda" acquire one of its GPUs.

    Raises:
        UserError: if torch cannot use the acquired GPU, or if RR_GPUS is set and `name` selects a GPU by its number.
    """
    from rr.compute.device import resolve_device

    listed = os.environ.get("RR_GPUS")
    if not listed or name not in ("auto", "cuda"):
        if listed and name.startswith("cuda"):
            raise UserError(
                f"--device {name} selects one GPU, but RR_GPUS={listed} is set: use --device cuda, or unset RR_GPUS"
            )
        return resolve_device(name)
    gpu = acquire_gpu(listed)  # before torch looks for GPUs
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"RR_GPUS={listed}: torch cannot use GPU {gpu} on this machine. List only GPUs that `nvidia-smi -L` shows, "
            "or unset RR_GPUS. `rr doctor` shows details"
        )
    return "cuda"


def acquire_gpu(listed: str) -> str:
    """Reserve a GPU of `listed` (RR_GPUS) that no other run of this user holds, and make it the only visible one.

    If all are in use, wait until one is free. The kernel releases the lock when this process ends. This function does
    not check whether the GPU exists.

    Returns:
        The number or UUID of the GPU.

    Raises:
        UserError: if RR_GPUS is not a list of GPUs, or if CUDA_VISIBLE_DEVICES is also set, as in many
            cluster jobs.
    """
    global _acquired
    if _acquired is not None:
        return _acquired[0]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        raise UserError("RR_GPUS and CUDA_VISIBLE_DEVICES are both set: unset one of them")
    gpus = [_strip_leading_zeros(gpu) for gpu in listed.split(",")]
    if not all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]*", gpu) for gpu in gpus):
        raise UserError(
            f"RR_GPUS={listed}: must be GPU numbers or UUIDs, separated by commas without spaces, such as 0,1"
        )
    LOCK_DIR.mkdir(mode=0o700, exist_ok=True)
    # A GPU that is listed twice has two lock files.
    lock_files = {LOCK_DIR / f"{gpu}.{gpus[:position].count(gpu)}": gpu for position, gpu in enumerate(gpus)}
    has_announced = False
    while True:
        for path, gpu in lock_files.items():
            file = try_lock(path, "unset RR_GPUS")
            if file is not None:
                _acquired = gpu, file
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                return gpu
        if not has_announced:
            message = f"all GPUs in RR_GPUS={listed} are in use by other runs: waiting for a free one"
            print(message, file=sys.stderr, flush=True)
        has_announced = True
        time.sleep(1)


def _strip_leading_zeros(gpu: str) -> str:
    """Return a number without leading zeros, because 0 and 00 must share a lock; return anything else unchanged."""
    return gpu.lstrip("0") or "0" if re.fullmatch("[0-9]+", gpu) else gpu
