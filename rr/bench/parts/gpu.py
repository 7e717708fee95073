"""Part `gpu`: the training loop of rr on a GPU."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from rr.bench.measure import PartResult, Timing, summarize
from rr.bench.settings import DATASET, IMAGES, VIEWS, Settings, paper_config
from rr.compute.device import configure_backends, device_name
from rr.data import beton
from rr.workflow.throughput import StopTraining, train_until_stopped

NO_GPU = "Nothing was measured, because torch finds no GPU."


def run(settings: Settings) -> PartResult:
    """Time the relational method on random images: Conv-4 in float32 and bfloat16, and ResNet-32 in bfloat16."""
    result = PartResult()
    if not torch.cuda.is_available():
        result.notes.append(NO_GPU)
        return result
    num_images, block_size = (2 * IMAGES, 2) if settings.smoke_test else (200 * IMAGES, 50)
    cases = [("conv4", "float32"), ("conv4", "bfloat16"), ("resnet32", "bfloat16")]
    for threads in settings.available_thread_counts(2):
        for backbone, precision in cases:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "train.beton")
                images = np.random.default_rng(0).integers(0, 256, (num_images, 32, 32, 3), np.uint8)
                beton.write(path, images, np.arange(num_images) % 10, np.arange(num_images))
                configure_backends(threads)
                timer = StepTimer(block_size, settings.steps)
                train_until_stopped(
                    paper_config("relational", VIEWS, IMAGES), DATASET, 10, path, Path(folder), timer.on_step,
                    device="cuda", threads=threads, backbone=backbone, precision=precision,
                )  # fmt: skip
            name = f"{backbone}, {precision}, K={VIEWS}, M={IMAGES}, {block_size} steps"
            candidate = (f"rr on {device_name('cuda')}", block_size * IMAGES * VIEWS)
            result.cases.append(summarize(name, "views", threads, [candidate], [timer.timings]))
    result.notes.append("Only rr is timed. A repeat is a block of steps and ends when the GPU has finished them.")
    return result


class StepTimer:
    """Time blocks of training steps. The first block is the warm-up.

    Args:
        block_size: number of steps per block.
        repeats: number of blocks to time.
    """

    def __init__(self, block_size: int, repeats: int) -> None:
        self.block_size, self.repeats = block_size, repeats
        self.timings: list[Timing] = []
        self._steps = 0
        self._wall = self._cpu = 0.0

    def on_step(self, num_views: int) -> None:
        """Count a step. At the end of a block, wait for the GPU and record the time of the block.

        Raises:
            StopTraining: if `repeats` blocks have been timed.
        """
        self._steps += 1
        if self._steps % self.block_size:
            return
        torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        if self._steps > self.block_size:
            self.timings.append(Timing(wall - self._wall, cpu - self._cpu))
        if len(self.timings) == self.repeats:
            raise StopTraining
        self._wall, self._cpu = wall, cpu
