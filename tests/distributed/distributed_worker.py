"""Start the processes of a distributed run as torchrun does. As a program, this file is one of these processes.

    python tests/distributed/distributed_worker.py batch_norm
        compares the synchronized batch norm with torch's batch norm
    python tests/distributed/distributed_worker.py train FOLDER BACKBONE METHOD…
        trains methods in float64; the main process writes what it observed to FOLDER
    python tests/distributed/distributed_worker.py hang SECONDS
        runs a command whose last process hangs; the others wait with this timeout
    python tests/distributed/distributed_worker.py slow_checkpoints ARGUMENT…
        runs `rr ARGUMENT…` as if saving a checkpoint took two seconds

The following command is independent of the tests. It trains every method that supports several processes, once with the
specified number of processes and once with a single one. Then it prints the largest absolute differences between the
two runs in losses, weights and buffers:

    python tests/distributed/distributed_worker.py compare 4 conv4
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rr.paths import PretrainFolder

sys.path.insert(0, str(Path(__file__).parents[1]))  # for golden, if this file is run as a program

import golden

# The last mini-batch of an epoch has 5 images, so no number of processes divides every mini-batch evenly.
NUM_IMAGES, BATCH_SIZE, NUM_EPOCHS = 21, 8, 2

DATA_PARALLEL_METHODS = [name for name in golden.TRAINABLE if name != "infomax"]


def start_processes(
    world_size: int,
    command: Sequence[object],
    *,
    environments: Sequence[dict[str, str]] = (),
    folders: Sequence[Path] = (),
) -> list[subprocess.Popen[str]]:
    """Start the processes of a distributed run.

    Args:
        world_size: the number of processes.
        command: the command of each process.
        environments: environment variables to add for each process.
        folders: the working directory of each process.
    """
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), **(environments[rank] if environments else {})},
            cwd=folders[rank] if folders else None,
        )
        for rank in range(world_size)
    ]  # fmt: skip


def wait_for_exit(processes: list[subprocess.Popen[str]], timeout: float = 120) -> tuple[list[int], str, str]:
    """Wait for all processes, and return their exit codes, and their concatenated standard output and error output."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    return codes, "".join(out for out, _ in outputs), "".join(err for _, err in outputs)


def compare_batch_norm() -> None:
    """Compare the synchronized batch norm's outputs, gradients and statistics with the results of a single process."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.testing import assert_close

    from rr.compute.process_group import process_group
    from rr.compute.sync_batch_norm import convert_sync_batchnorm

    torch.set_num_threads(1)
    with process_group() as group:
        generator = torch.Generator().manual_seed(1)
        for norm_class, sides, dtype, offset in (
            (nn.BatchNorm1d, (), torch.float64, 0),
            (nn.BatchNorm2d, (4, 5), torch.float64, 0),
            (nn.BatchNorm2d, (4, 5), torch.float32, 0),
            (nn.BatchNorm2d, (4, 5), torch.float32, 1000),  # sums of squares in float32 would lose all digits
            (nn.BatchNorm2d, (256, 256), torch.float32, 0),  # sequential sums in float32 would keep three digits
            (nn.BatchNorm2d, (2, 2), torch.bfloat16, 0),
        ):
            reference, network = norm_class(3).double(), nn.Sequential(norm_class(3))
            convert_sync_batchnorm(network)
            network.to(torch.float32 if dtype is torch.bfloat16 else dtype)
            tolerance = {torch.float64: 1e-11, torch.float32: 1e-3 if offset else 1e-5, torch.bfloat16: 2e-2}[dtype]
            options = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
            with torch.no_grad():
                for norm in (reference, network[0]):
                    norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
                    norm.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
            for batch_size in (7, 2, 8):  # local batches of 4 and 3, 1 and 1, 4 and 4
                local = group.local_slice(batch_size)
                x = (torch.randn(batch_size, 3, *sides, generator=generator) + offset).to(dtype)
                grad = torch.randn(batch_size, 3, *sides, generator=generator).to(dtype)
                global_x, local_x = x.double(), x[local].clone()
                if sides:
                    local_x = local_x.contiguous(memory_format=torch.channels_last)
                global_x.requires_grad_()
                local_x.requires_grad_()
                out, expected = network(local_x), reference(global_x)
                assert out.dtype is dtype
                assert_close(out, expected[local], **options)
                network.zero_grad()
                reference.zero_grad()
                out.backward(grad[local])
                expected.backward(grad.double())
                assert_close(local_x.grad, global_x.grad[local], **options)
                for parameter, expected_parameter in zip(network.parameters(), reference.parameters(), strict=True):
                    total = parameter.grad.to(torch.float64, copy=True)
                    dist.all_reduce(total)
                    assert_close(total, expected_parameter.grad, rtol=tolerance, atol=20 * tolerance)
                for name, value in reference.named_buffers():
                    assert_close(getattr(network[0], name), value, **options)
            assert network[0].num_batches_tracked.item() == 3
            assert_close(network.eval()(local_x), reference.eval()(global_x[local]), **options)


def observe_training(name: str, data: Path, folder: Path, group: Any, backbone: str = "conv4") -> dict[str, Any]:
    """Train a method in float64, and return values to compare.

    Returns:
        "losses" of the steps, (steps,); "weights", all weights after each step, (steps, weights); "buffers" at the end;
        and "history", in the main process.
    """
    from unittest import mock

    import numpy as np
    import torch

    from rr import methods
    from rr.compute.torch_threads import configure_torch
    from rr.data import view_loader
    from rr.params import DynamicsConfig
    from rr.pretrain import loop

    configure_torch(1)
    losses, weights, built_methods = [], [], []
    build, forward = methods.build, loop._forward

    def build_double(*arguments: Any) -> Any:
        built_methods.append(build(*arguments).double())
        return built_methods[0]

    def current_weights() -> np.ndarray:
        with torch.no_grad():
            return torch.cat([weight.flatten() for weight in built_methods[0].parameters()]).numpy()

    def observed_forward(*arguments: Any) -> Any:
        weights.append(current_weights())
        loss, metrics = forward(*arguments)
        losses.append(loss.item())
        return loss, metrics

    config = golden.small_config(name, epochs=NUM_EPOCHS, batch_size=BATCH_SIZE)
    dynamics = DynamicsConfig(every_n_epochs=1, images=50)
    job = loop.Job(golden.PARAMS.datasets["shapes"], backbone, config, 10, 1, "float32", dynamics, "test")
    folder.mkdir(parents=True, exist_ok=True)
    outputs = PretrainFolder("shapes", backbone, "method", 1, folder)
    with (
        mock.patch.object(loop.methods, "build", build_double),
        mock.patch.object(loop, "check_saved_layers"),  # rejects layers in float64
        mock.patch.object(loop, "_forward", observed_forward),
        mock.patch.object(loop, "extract_features", extract_features_in_double),
        mock.patch("rr.pretrain.dynamics.extract_features", extract_features_in_double),
        mock.patch.object(view_loader, "_identity", torch.Tensor.double),
    ):
        loop.pretrain(job, data, outputs, device="cpu", threads=1, group=group)
    observations: dict[str, Any] = {"losses": np.array(losses), "weights": np.stack([*weights, current_weights()])[1:]}
    observations["buffers"] = torch.cat([value.double().flatten() for value in built_methods[0].buffers()]).numpy()
    if group.is_main:
        observations["history"] = np.genfromtxt(outputs.history, delimiter=",", skip_header=1)
    return observations


def extract_features_in_double(backbone: Any, *arguments: Any) -> Any:
    """Call `rr.evaluate.feature_extraction.extract_features` with a float64 backbone."""
    from rr.evaluate.feature_extraction import extract_features

    hook = backbone.register_forward_pre_hook(lambda module, inputs: tuple(value.double() for value in inputs))
    try:
        return extract_features(backbone, *arguments)
    finally:
        hook.remove()


def train(folder: Path, backbone: str, names: list[str]) -> None:
    """Train methods in this process group, and check that all processes make bit-identical observations."""
    import numpy as np
    import torch
    import torch.distributed as dist

    from rr.compute.process_group import process_group

    with process_group() as group:
        for name in names:
            run_folder = folder / name if group.is_main else folder / f"{name} of process {group.rank}"
            observations = observe_training(name, folder / "train.beton", run_folder, group, backbone)
            for kind in ("losses", "weights", "buffers"):
                values = torch.from_numpy(observations[kind].copy())
                dist.broadcast(values, 0)
                assert np.array_equal(values.numpy(), observations[kind]), f"{name}: {kind} differ between processes"
            if group.is_main:
                np.savez(folder / f"{name}.npz", **observations)
            else:
                assert not list(run_folder.iterdir()), "only the main process may write files"


def hang(seconds: float) -> None:
    """Run a command whose last process hangs. The other processes wait with a short timeout."""
    from unittest import mock

    from rr import cli
    from rr.compute import process_group

    def hang_in_last_process(*_: object) -> None:
        with process_group.process_group() as group:
            group.check_identical({"version": "1"})
            if group.rank == group.world_size - 1:
                time.sleep(600)
            group.check_identical({"version": "1"})

    process_group.TIMEOUT = timedelta(seconds=seconds)
    sys.argv = ["rr", "verify"]
    with mock.patch("rr.commands.run_verify", hang_in_last_process):
        cli.run()


def run_with_slow_checkpoints(arguments: list[str]) -> None:
    """Run `rr` with checkpoints that take two seconds to save."""
    from unittest import mock

    from rr import cli
    from rr.pretrain import loop

    save_checkpoint = loop.save_checkpoint

    def save_slowly(*save_arguments: Any) -> bool:
        time.sleep(2)
        return save_checkpoint(*save_arguments)

    sys.argv = ["rr", *arguments]
    with mock.patch.object(loop, "save_checkpoint", save_slowly):
        cli.run()


def train_distributed(world_size: int, folder: Path, names: list[str], backbone: str = "conv4") -> dict[str, Any]:
    """Train methods with several processes, and return the main process's observations by method.

    Raises:
        AssertionError: if a process fails.
    """
    import numpy as np

    golden.write_images(folder / "train.beton", NUM_IMAGES)
    command = [sys.executable, __file__, "train", folder, backbone, *names]
    codes, _, err = wait_for_exit(start_processes(world_size, command))
    assert codes == [0] * world_size, err
    return {name: np.load(folder / f"{name}.npz") for name in names}


def compare_with_single_process(world_size: int, backbone: str) -> None:
    """Print the largest differences between training with several processes and with one."""
    import tempfile

    from rr.compute.process_group import ProcessGroup

    with tempfile.TemporaryDirectory() as folder:
        observations = train_distributed(world_size, Path(folder), DATA_PARALLEL_METHODS, backbone)
        for name in DATA_PARALLEL_METHODS:
            run_folder = Path(folder, "single process", name)
            expected = observe_training(name, Path(folder, "train.beton"), run_folder, ProcessGroup(), backbone)
            differences = {
                kind: abs(observations[name][kind] - expected[kind]).max() for kind in ("losses", "weights", "buffers")
            }
            print(f"{name:15}", *(f"{kind} {value:.0e}" for kind, value in differences.items()), sep="  ")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["batch_norm"]:
            compare_batch_norm()
        case ["train", folder, backbone, *names]:
            train(Path(folder), backbone, names)
        case ["compare", world_size, backbone]:
            compare_with_single_process(int(world_size), backbone)
        case ["hang", seconds]:
            hang(float(seconds))
        case ["slow_checkpoints", *arguments]:
            run_with_slow_checkpoints(arguments)
