"""Select the device, set the number of threads, and compile functions for a GPU."""

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

from rr.errors import UserError


def resolve_device(name: str) -> str:
    """Return the device that `name` stands for, and check that torch can use it.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:<number>". "auto" is "cuda" if torch finds a GPU, and "cpu" otherwise.

    Raises:
        UserError: if the name is unknown, or if this machine has no such GPU.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UserError(f"--device {name}: unknown device; use auto, cpu, cuda or cuda:<number>")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: torch finds no GPU on this machine; use --device cpu, or run rr doctor to check the "
            "installation"
        )
    if number and kind == "cuda" and int(number) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(
            f"--device {name}: this machine has no GPU {number}; its GPUs are numbered 0 to {last}. Choose one of them "
            f"or, with torchrun, start at most {last + 1} processes on this machine"
        )
    return name


def configure_torch(num_threads: int) -> None:
    """Set the number of torch threads, make cuDNN deterministic, and make optimizers start quickly.

    On the CPU, torch results are bit-identical only if the number of threads is the same. The number is therefore a
    project parameter and does not depend on the machine. The numba kernels produce bit-identical results with any
    number of threads.
    """
    import torch

    _detach_optimizers_from_dynamo()
    torch.set_num_threads(num_threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _detach_optimizers_from_dynamo() -> None:
    """Remove the optimizer decorators that load torch._dynamo.

    Loading it takes about as long as loading torch. Only code that `torch.compile` traces needs these decorators, and
    this project compiles no optimizer.
    """
    import torch

    base = torch.optim.Optimizer
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        setattr(base, name, inspect.unwrap(getattr(base, name)))
    for subclass in (torch.optim.Adam, torch.optim.SGD):
        subclass.step = torch.no_grad()(inspect.unwrap(subclass.step))  # type: ignore[method-assign]


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Make torch use a single thread within the `with` block.

    Small operations are faster this way: waking torch's other threads adds 0.6 ms to an Adam step. torch stores the
    number of threads separately for each Python thread. However, a Python thread that first uses torch within the block
    continues to use a single thread.
    """
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


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
