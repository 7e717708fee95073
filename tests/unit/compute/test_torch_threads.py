"""Tests of the thread counts of torch and numba, and of the cuDNN settings."""

from collections.abc import Iterator

import numba
import pytest
import torch

from rr.compute.torch_threads import configure_torch, single_threaded


@pytest.fixture(autouse=True)
def restored_settings() -> Iterator[None]:
    """Restore the settings of torch and numba after the test."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), numba.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
    cudnn.deterministic, cudnn.benchmark = before[2:]


@pytest.mark.parametrize("num_threads", [1, 2, 1000])
def test_number_of_threads_is_set_up_to_the_limit_of_numba(num_threads: int) -> None:
    torch.set_num_threads(3)
    configure_torch(num_threads)
    assert torch.get_num_threads() == num_threads
    assert numba.get_num_threads() == min(num_threads, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def test_cudnn_is_deterministic() -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    configure_torch(1)
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


def test_single_threaded_restores_the_number_of_threads() -> None:
    torch.set_num_threads(3)
    with single_threaded():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), single_threaded():
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3
