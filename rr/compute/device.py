"""Where a stage computes: the device, and how many threads each library may use."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from rr.errors import UserError


def choose(name: str) -> str:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device that exists. Raises UserError for one that does not."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UserError(f"--device {name}: unknown; known: auto, cpu, cuda, cuda:<number>")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch sees no GPU here (rr doctor says more); use --device cpu")
    if number and kind == "cuda" and int(number) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: no such GPU; those here are numbered 0 to {torch.cuda.device_count() - 1}")
    return name


def settle(threads: int) -> None:
    """Give torch and numba `threads` threads each, and make cuDNN repeatable.

    Results on the CPU are bit-identical only for one number of threads, so it is a parameter and not the machine's
    number of cores. numba cannot use more than there are cores; its kernels give the same bits for any number.
    """
    import numba
    import torch

    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work alone on what is small: waking its threads costs more than they save (0.6 ms in an Adam step).

    The number belongs to each thread; one that first meets torch while another is in here keeps 1.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compiled(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """On a GPU, `function` as a few kernels replayed as a CUDA graph, one for each shape it meets; elsewhere itself.

    The small networks of the paper would otherwise wait for the host, which cannot launch kernels fast enough.
    """
    import torch

    return torch.compile(function, mode="reduce-overhead", dynamic=False) if device.startswith("cuda") else function


def describe(device: str) -> str:
    """The device's name for a record."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu ({os.cpu_count()} cores)"
