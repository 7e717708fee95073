"""Tests that compiling a kernel and reading it from numba's cache give the same results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TRAINING = """
import hashlib
import numpy as np, torch
from rr import backbones
from rr.methods.relation.head import RelationHead
from rr.methods.relation.loss import relation_loss
from rr.methods.relation.pairs import roll_negative_rows
from rr.views import Augmentation, make_views

torch.manual_seed(0)
torch.set_num_threads(1)
K, M = 4, 24
images = np.random.default_rng(0).integers(0, 256, (M, 32, 32, 3), np.uint8)
augmentation = Augmentation(crop="resized", flip=0.5, jitter=0.8, brightness=0.4, hue=0.1, grayscale=0.2)
views = make_views(
    images, np.arange(M), augmentation=augmentation, seed=0, epoch=0, num_views=K, mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25), device="cpu",
)
backbone, head = backbones.build("conv4").train(), RelationHead(64)
features = backbone(views).view(K, M, -1)
loss, _ = relation_loss(head, features, roll_negative_rows(K, M))
loss.backward()
digest = hashlib.sha256(views.contiguous().numpy().tobytes())
for parameter in [*backbone.parameters(), *head.parameters()]:
    digest.update(parameter.grad.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_results_do_not_depend_on_the_cache(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    digests = []
    for _ in range(2):
        command = [sys.executable, "-c", _TRAINING]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        digests.append(process.stdout)
    assert list(tmp_path.rglob("*.nbc"))
    assert digests[0] == digests[1]
