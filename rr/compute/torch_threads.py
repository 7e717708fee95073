"""Set the number of threads for a process or for a block of code."""

import contextlib
from collections.abc import Iterator


def configure_torch(num_threads: int) -> None:
    """Set the number of threads, make cuDNN deterministic, and keep optimizers from importing dynamo.

    On the CPU, torch results are bit-identical only if the number of threads is the same. The number is therefore a
    project parameter and does not depend on the machine. The numba kernels produce bit-identical results with any
    number of threads, but runs that share a machine must not use more cores than they are given. numba limits the
    number of threads, by default to the number of cores.
    """
    import numba
    import torch

    from rr.compute.optimizers import detach_optimizers_from_dynamo

    detach_optimizers_from_dynamo()
    torch.set_num_threads(num_threads)
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


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
