"""Several processes of one run, started as torchrun starts them; and what each of them does in some of the tests.

    python tests/distributed_worker.py norms  compares the synchronised batch norm with torch's
    python tests/distributed_worker.py train OUT BACKBONE NAME…  trains methods in float64; the first writes what it saw into OUT
    python tests/distributed_worker.py hang SECONDS  waits for the last process so long in vain
    python tests/distributed_worker.py slowly ARGUMENT…  is `rr ARGUMENT…` with a disk on which a state takes two seconds

By itself it compares any number of processes with one, for every method that several can train:

    python tests/distributed_worker.py compare 4 conv4  the largest differences, absolute, of losses, weights and buffers
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

import golden

PICTURES, BATCH, EPOCHS = 21, 8, 2  # the last mini-batch of an epoch has 5: no number of processes divides all


# What several processes can train, and one for each of the ways in which that could go wrong: another optimiser, pairs,
# labels for an epoch or of pairs, several views of a view, a second network.
SHARED = [name for name in golden.TRAINED if name != "infomax"]
SOME = ["supervised", "relational", "relational-10", "rotation", "deepcluster", "byol"]


def start(
    size: int, command: Sequence[object], *own: dict[str, str], folders: Sequence[Path] = (), **options: Any
) -> list[subprocess.Popen[str]]:
    """Start `size` processes of `command`; `own` is what each one's environment has beside, `folders` where it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), **(own[rank] if own else {})},
            cwd=folders[rank] if folders else None, **options,
        )
        for rank in range(size)
    ]  # fmt: skip


def ended(processes: list[subprocess.Popen[str]], seconds: float = 120) -> tuple[list[int], str, str]:
    """Wait for all: their exit codes, and what they have printed and complained of, one after the other."""
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "".join(o for o, _ in said), "".join(e for _, e in said)


def norms() -> None:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.testing import assert_close

    from rr.compute.distributed import joined
    from rr.compute.sync_batch_norm import synchronise

    torch.set_num_threads(1)
    with joined() as group:
        random = torch.Generator().manual_seed(1)
        for kind, sides, dtype, offset in (
            (nn.BatchNorm1d, (), torch.float64, 0),
            (nn.BatchNorm2d, (4, 5), torch.float64, 0),
            (nn.BatchNorm2d, (4, 5), torch.float32, 0),
            (nn.BatchNorm2d, (4, 5), torch.float32, 1000),  # where sums of squares in float32 would leave no digit
            (nn.BatchNorm2d, (256, 256), torch.float32, 0),  # where sums one by one would leave three
            (nn.BatchNorm2d, (2, 2), torch.bfloat16, 0),
        ):
            alone, network = kind(3).double(), nn.Sequential(kind(3))
            synchronise(network)
            network.to(torch.float32 if dtype is torch.bfloat16 else dtype)
            tolerance = {torch.float64: 1e-11, torch.float32: 1e-3 if offset else 1e-5, torch.bfloat16: 2e-2}[dtype]
            close = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
            with torch.no_grad():
                for norm in (alone, network[0]):
                    norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
                    norm.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
            for images in (7, 2, 8):  # shares of 4 and 3, of one each, and equal ones
                x = (torch.randn(images, 3, *sides, generator=random) + offset).to(dtype)
                slope = torch.randn(images, 3, *sides, generator=random).to(dtype)
                whole, part = x.double(), x[group.share(images)].clone()
                if sides:
                    part = part.contiguous(memory_format=torch.channels_last)
                whole.requires_grad_()
                part.requires_grad_()
                out, expected = network(part), alone(whole)
                assert out.dtype is dtype
                assert_close(out, expected[group.share(images)], **close)
                network.zero_grad()
                alone.zero_grad()
                out.backward(slope[group.share(images)])
                expected.backward(slope.double())
                assert_close(part.grad, whole.grad[group.share(images)], **close)
                for own, reference in zip(network.parameters(), alone.parameters(), strict=True):
                    total = own.grad.to(torch.float64, copy=True)
                    dist.all_reduce(total)
                    assert_close(total, reference.grad, rtol=tolerance, atol=20 * tolerance)
                for name, value in alone.named_buffers():
                    assert_close(getattr(network[0], name), value, **close)
            assert network[0].num_batches_tracked.item() == 3
            assert_close(network.eval()(part), alone.eval()(whole[group.share(images)]), **close)


def trained(name: str, data: Path, place: Path, group: Any, backbone: str = "conv4") -> dict[str, Any]:
    """Train a method in float64: the loss of each step, (steps,), and all weights after each, (steps, weights).

    Also the files that were written, and buffers and history at the end.
    """
    from unittest import mock

    import numpy as np
    import torch

    from rr import methods
    from rr.compute.device import settle
    from rr.data import loader
    from rr.params import Dynamics
    from rr.pretrain import loop

    settle(1)
    losses, weights, built = [], [], []
    build, forward = methods.build, loop._forward

    def build_double(*arguments: Any) -> Any:
        built.append(build(*arguments).double())
        return built[0]

    def state() -> np.ndarray:
        with torch.no_grad():
            return torch.cat([weight.flatten() for weight in built[0].parameters()]).numpy()

    def observed(*arguments: Any) -> Any:
        weights.append(state())
        loss, fractions = forward(*arguments)
        losses.append(loss.item())
        return loss, fractions

    dynamics = Dynamics(every=1, images=50)
    settings = golden.small(name, epochs=EPOCHS, batch_size=BATCH)
    job = loop.Job(golden.PARAMS.datasets["shapes"], backbone, settings, 10, 1, "float32", dynamics, "test")
    place.mkdir(parents=True, exist_ok=True)
    outputs = golden.Outputs("shapes", backbone, "method", 1, place)
    with (
        mock.patch.object(loop.methods, "build", build_double),
        mock.patch.object(loop, "_forward", observed),
        mock.patch.object(loop, "extract", lambda backbone, *rest: extracted(backbone, *rest)),
        mock.patch("rr.pretrain.dynamics.extract", lambda backbone, *rest: extracted(backbone, *rest)),
        mock.patch.object(loader, "_as_it_is", torch.Tensor.double),
    ):
        loop.pretrain(job, data, outputs, device="cpu", threads=1, group=group)
    found: dict[str, Any] = {"losses": np.array(losses), "weights": np.stack([*weights, state()])[1:]}
    found["buffers"] = torch.cat([value.double().flatten() for value in built[0].buffers()]).numpy()
    if group.first:
        found["history"] = np.genfromtxt(outputs.history, delimiter=",", skip_header=1)
    return found


def extracted(backbone: Any, *rest: Any) -> Any:
    """`rr.evaluate.features.extract` of a backbone in float64."""
    from rr.evaluate.features import extract

    pre = backbone.register_forward_pre_hook(lambda module, inputs: tuple(value.double() for value in inputs))
    try:
        return extract(backbone, *rest)
    finally:
        pre.remove()


def train(out: Path, backbone: str, names: list[str]) -> None:
    import numpy as np
    import torch
    import torch.distributed as dist

    from rr.compute.distributed import joined

    with joined() as group:
        for name in names:
            place = out / name if group.first else out / f"{name} of process {group.rank}"
            found = trained(name, out / "train.beton", place, group, backbone)
            # What the first has found is what each has, to the bit.
            for kind in ("losses", "weights", "buffers"):
                own = torch.from_numpy(found[kind].copy())
                dist.broadcast(own, 0)
                assert np.array_equal(own.numpy(), found[kind]), f"{name}: {kind} differ between processes"
            if group.first:
                np.savez(out / f"{name}.npz", **found)
            else:
                assert not list(place.iterdir()), "only the first process writes"


def hang(seconds: float) -> None:
    from unittest import mock

    from rr import cli
    from rr.compute import distributed

    def wait(*_: object) -> None:
        with distributed.joined() as group, distributed.explained():
            group.alike({"version": "1"})
            if group.rank == group.size - 1:
                time.sleep(600)
            group.alike({"version": "1"})

    distributed.PATIENCE = timedelta(seconds=seconds)
    sys.argv = ["rr", "verify"]
    with mock.patch("rr.stages.verify", wait):
        cli.main()


def slowly(arguments: list[str]) -> None:
    from unittest import mock

    from rr import cli
    from rr.pretrain import loop

    save = loop.save

    def slow(*given: Any) -> None:
        time.sleep(2)
        save(*given)

    sys.argv = ["rr", *arguments]
    with mock.patch.object(loop, "save", slow):
        cli.main()


def train_by(size: int, place: Path, names: list[str], backbone: str = "conv4") -> dict[str, Any]:
    """What the first of `size` processes has seen of each method; raises AssertionError where one fails."""
    import numpy as np

    golden.write_pictures(place / "train.beton", PICTURES)
    codes, _, complaints = ended(start(size, [sys.executable, __file__, "train", place, backbone, *names]))
    assert codes == [0] * size, complaints
    return {name: np.load(place / f"{name}.npz") for name in names}


def compare(size: int, backbone: str) -> None:
    import tempfile

    from rr.compute.distributed import Group

    with tempfile.TemporaryDirectory() as folder:
        found = train_by(size, Path(folder), SHARED, backbone)
        for name in SHARED:
            expected = trained(name, Path(folder, "train.beton"), Path(folder, "alone", name), Group(), backbone)
            worst = {kind: abs(found[name][kind] - expected[kind]).max() for kind in ("losses", "weights", "buffers")}
            print(f"{name:15}", *(f"{kind} {most:.0e}" for kind, most in worst.items()), sep="  ")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["norms"]:
            norms()
        case ["train", out, backbone, *names]:
            train(Path(out), backbone, names)
        case ["compare", size, backbone]:
            compare(int(size), backbone)
        case ["hang", seconds]:
            hang(float(seconds))
        case ["slowly", *arguments]:
            slowly(arguments)
