"""Part `gpu`: the product's training loop on a GPU, where there is one."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from rr.bench.measure import Part, Seconds, row
from rr.bench.settings import IMAGES, VIEWS, Settings, settings_of
from rr.compute.device import describe, settle
from rr.data import beton
from rr.workflow.throughput import Enough, train

NO_GPU = "no GPU here: unmeasured"


def run(settings: Settings) -> Part:
    """Relational, M = 64, on pictures of noise: Conv-4 at K = 32 in float32 and bfloat16, ResNet-32 in bfloat16."""
    part = Part()
    if not torch.cuda.is_available():
        part.notes.append(NO_GPU)
        return part
    count, block = (2 * IMAGES, 2) if settings.small else (200 * IMAGES, 50)
    cases = [("conv4", "float32"), ("conv4", "bfloat16"), ("resnet32", "bfloat16")]
    for threads in settings.threads_or(2):
        for backbone, precision in cases:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "train.beton")
                pictures = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
                beton.write(path, pictures, np.arange(count) % 10, np.arange(count))
                settle(threads)
                blocks = _Blocks(block, settings.steps)
                train(
                    settings_of("relational", VIEWS, IMAGES), 10, path, Path(folder), blocks.step, device="cuda",
                    threads=threads, backbone=backbone, precision=precision,
                )  # fmt: skip
            amount = block * IMAGES * VIEWS
            case = f"{backbone}, {precision}, K={VIEWS}, M={IMAGES}, {block} steps"
            part.rows.append(row(case, "views", threads, [(f"rr on {describe('cuda')}", amount)], [blocks.runs]))
    part.notes.append("ours alone; a repeat is a block of steps that ends when the GPU has finished them")
    return part


class _Blocks:
    """Times blocks of `block` steps, the first of which is the warm-up."""

    def __init__(self, block: int, repeats: int) -> None:
        self.block, self.repeats = block, repeats
        self.runs: list[Seconds] = []
        self.steps = 0
        self.wall = self.cpu = 0.0

    def step(self, units: int) -> None:
        self.steps += 1
        if self.steps % self.block:
            return
        torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        if self.steps > self.block:
            self.runs.append(Seconds(wall - self.wall, cpu - self.cpu))
        if len(self.runs) == self.repeats:
            raise Enough
        self.wall, self.cpu = wall, cpu
