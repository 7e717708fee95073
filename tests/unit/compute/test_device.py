"""Test how the --device option is resolved. The functions of torch.cuda are replaced, so no GPU is needed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import PRETRAIN, RunRr

from rr.compute.device import compile_for_gpu, device_name, resolve_device
from rr.compute.process_group import ProcessGroup
from rr.errors import UserError


@pytest.fixture
def set_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes torch find a given number of GPUs."""

    def set_number(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU at {device}")

    return set_number


@pytest.mark.parametrize(
    ("number", "name", "expected"),
    [
        (0, "auto", "cpu"), (0, "cpu", "cpu"), (2, "auto", "cuda"), (2, "cpu", "cpu"), (2, "cuda", "cuda"),
        (2, "cuda:0", "cuda:0"), (2, "cuda:1", "cuda:1"), (11, "cuda:10", "cuda:10"),
    ],
)  # fmt: skip
def test_device_is_resolved(set_gpus: Callable[[int], None], number: int, name: str, expected: str) -> None:
    set_gpus(number)
    assert resolve_device(name) == expected


@pytest.mark.parametrize(
    ("number", "name", "message"),
    [
        (0, "cuda:0", "--device cuda:0: torch found no GPU on this machine; use --device cpu, or run rr doctor"),
        (1, "cuda:1", "--device cuda:1: this machine has no GPU 1; its GPUs are numbered 0 to 0. Choose one of them"),
        (2, "cuda:10", "--device cuda:10: this machine has no GPU 10; its GPUs are numbered 0 to 1. Choose one of"),
        *(
            (2, name, f"--device {name}: unknown device")
            for name in ("cuda:01", "cuda:-1", "cuda:1 ", "CUDA", "gpu", "")
        ),
    ],
)
def test_device_that_does_not_exist_raises(
    set_gpus: Callable[[int], None], number: int, name: str, message: str
) -> None:
    set_gpus(number)
    with pytest.raises(UserError) as caught:
        resolve_device(name)
    assert str(caught.value).startswith(message)


def test_number_of_a_missing_gpu_raises_before_training(
    project_copy: Path, rr: RunRr, set_gpus: Callable[[int], None]
) -> None:
    set_gpus(2)
    outcome = rr(*PRETRAIN, "--device", "cuda:2")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("rr: --device cuda:2: this machine has no GPU 2; its GPUs are numbered 0 to 1.")
    assert not (project_copy / "runs").exists()


def test_more_processes_than_gpus_raises(set_gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(2)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert ProcessGroup(rank=5, world_size=6, local_rank=1).local_device("cuda") == "cuda:1"
    with pytest.raises(UserError, match=r"no GPU 2; .* with torchrun, start at most 2 processes on this machine"):
        ProcessGroup(rank=2, world_size=3, local_rank=2).local_device("cuda")
    assert current == ["cuda:1"]


def test_record_has_the_name_of_the_device(set_gpus: Callable[[int], None]) -> None:
    set_gpus(2)
    assert device_name("cuda:1") == "GPU at cuda:1"
    assert device_name("cpu") == f"cpu ({os.cpu_count()} cores)"


def test_functions_are_not_compiled_for_the_cpu() -> None:
    assert compile_for_gpu(abs, "cpu") is abs
