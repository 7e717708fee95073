"""Small copies of official archives."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write CIFAR-10 with 20 random images per batch, and make torchvision expect the MD5 hashes of these files."""
    from torchvision.datasets import CIFAR10

    def write(name: str, content: dict) -> str:
        data = pickle.dumps(content, protocol=2)
        (folder / CIFAR10.base_folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    (folder / CIFAR10.base_folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    lists: dict[str, list] = {"train_list": [], "test_list": []}
    for position, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {"data": rng.integers(0, 256, (20, 3072), np.uint8), "labels": [i % 10 for i in range(20)]}
        lists["train_list" if position < 5 else "test_list"].append([name, write(name, batch)])
    meta = write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    for name, value in lists.items():
        monkeypatch.setattr(CIFAR10, name, value)
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return folder / CIFAR10.base_folder
