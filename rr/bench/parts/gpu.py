"""The `gpu` part: rr's training loop on a GPU."""

import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from rr.bench.measure import PartResult, Timing, summarize
from rr.bench.settings import IMAGES, VIEWS, Settings, paper_config
from rr.bench.training_loop import StopTraining, run_training_loop
from rr.compute.device import device_name
from rr.compute.torch_threads import configure_torch
from rr.data import beton

NO_GPU = "Nothing was measured, because torch did not find a GPU."
_CASES = [(backbone, precision) for backbone in ("conv4", "resnet32") for precision in ("float32", "bfloat16")]
_MAX_SECONDS_PER_CASE = 30


def run(settings: Settings) -> PartResult:
    """Time the relational method on random images, and compare the losses in the first steps with the CPU's losses."""
    result = PartResult()
    if not torch.cuda.is_available():
        result.notes.append(NO_GPU)
        return result
    num_images, block_size = (2 * IMAGES, 2) if settings.smoke_test else (200 * IMAGES, 50)
    for threads in settings.choose_thread_counts(2):
        configure_torch(threads)
        for backbone, precision in _CASES:
            torch.compiler.reset()  # otherwise, all cases would count toward the limit of compilations per function
            with tempfile.TemporaryDirectory() as folder:
                path = _write_images(Path(folder), num_images)
                timer = BlockTimer(block_size, settings.steps)
                run_training_loop(
                    paper_config("relational", VIEWS, IMAGES), 10, path, Path(folder), timer.on_step,
                    device="cuda", threads=threads, backbone=backbone, precision=precision,
                )  # fmt: skip
            name = f"{backbone}, {precision}, K={VIEWS}, M={IMAGES}, {block_size} steps"
            candidate = (f"rr on {device_name('cuda')}", block_size * IMAGES * VIEWS)
            result.cases.append(summarize(name, "views", threads, [candidate], [timer.timings]))
    losses = {device: first_losses(device) for device in ("cpu", "cuda")}
    result.cases[0].facts["first_losses"] = losses
    difference = max(abs(a - b) / b for a, b in zip(losses["cuda"], losses["cpu"], strict=True))
    result.notes = [
        "Only rr is timed. A repeat is a block of steps and ends when the GPU has finished them.",
        f"The mean losses of the first three epochs, of five steps each (Conv-4, float32, K=4, M={IMAGES}), differ "
        f"from the CPU's losses by at most {difference:.1e} (relative difference).",
    ]
    return result


def first_losses(device: str) -> list[float]:
    """Return the mean losses of the first three epochs, of five steps each, with K = 4."""
    torch.compiler.reset()
    config = paper_config("relational", 4, IMAGES).model_copy(update={"epochs": 3})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = _write_images(folder, 5 * IMAGES)
        run_training_loop(config, 10, path, folder, device=device, threads=1)
        with open(folder / "history.csv", encoding="utf-8", newline="") as file:
            return [float(row["loss"]) for row in csv.DictReader(file)]


def _write_images(folder: Path, num_images: int) -> Path:
    """Write random images to a beton in `folder`, and return its path."""
    path = folder / "train.beton"
    images = np.random.default_rng(0).integers(0, 256, (num_images, 32, 32, 3), np.uint8)
    beton.write(path, images, np.arange(num_images) % 10, np.arange(num_images))
    return path


class BlockTimer:
    """Time blocks of training steps. The first block is a warm-up.

    Up to `repeats` blocks are timed. Timing stops early if it takes longer than half a minute.
    """

    def __init__(self, block_size: int, repeats: int) -> None:
        self.block_size, self.repeats = block_size, repeats
        self.timings: list[Timing] = []
        self._steps = 0
        self._wall = self._cpu = self._first_wall = 0.0

    def on_step(self, num_views: int) -> None:
        """Count a step. At the end of a block, wait for the GPU and record how long the block took.

        Raises:
            StopTraining: if `repeats` blocks have been timed, or if the time is up.
        """
        self._steps += 1
        if self._steps % self.block_size:
            return
        torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        if self._steps > self.block_size:
            self.timings.append(Timing(wall - self._wall, cpu - self._cpu))
        else:
            self._first_wall = wall
        if len(self.timings) == self.repeats or (self.timings and wall - self._first_wall > _MAX_SECONDS_PER_CASE):
            raise StopTraining
        self._wall, self._cpu = wall, cpu
