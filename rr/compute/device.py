"""Select the device, and compile functions for a GPU."""

import os
import re
from collections.abc import Callable
from typing import Any

from rr.errors import UserError


def resolve_device(name: str, option: str = "--device") -> str:
    """Return the device that `name` stands for, and check that torch can use it.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:<number>". "auto" means "cuda" if torch finds a GPU, and "cpu" otherwise.
        option: what the user has set to `name`, for error messages.

    Raises:
        UserError: if the name is unknown, or if this machine has no such GPU.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]*))?", name):  # cpu:0 would be a second spelling of cpu
        raise UserError(f"{option} {name}: unknown device; use auto, cpu, cuda or cuda:<number>")
    if name == "cpu":
        return name
    if not torch.cuda.is_available():
        raise UserError(
            f"{option} {name}: torch found no GPU on this machine; use {option} cpu, or run rr doctor to check the "
            "installation"
        )
    number = name.partition(":")[2]
    if number and int(number) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(
            f"{option} {name}: this machine has no GPU {number}; its GPUs are numbered 0 to {last}. Choose one of them "
            f"or, with torchrun, start at most {last + 1} processes on this machine"
        )
    return name


def compile_for_gpu(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Compile `function` with torch.compile if `device` is a GPU; return it unchanged otherwise.

    The compiled function consists of a few kernels, which are replayed as one CUDA graph per input shape. Without a
    graph, the host cannot launch kernels fast enough for the paper's small networks.
    """
    import torch

    return torch.compile(function, mode="reduce-overhead", dynamic=False) if device.startswith("cuda") else function


def device_name(device: str) -> str:
    """Return the model name of a GPU, or "cpu" and the number of cores, for a run's record."""
    if not device.startswith("cuda"):
        return f"cpu ({os.cpu_count()} cores)"
    import torch

    return torch.cuda.get_device_name(device)
