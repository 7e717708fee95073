"""Tests that no file makes `rr` unpickle untrusted data, because unpickling can run code."""

import hashlib
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import PRETRAIN, ROOT, Malicious, Outcome, RunRr, add_dataset, write_params

CHECKPOINT = Path("runs/resume/shapes/conv4/relational/1/resume.pt")


def write_torch(path: Path, zipped: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"backbone": Malicious(), "fingerprint": Malicious()}, path, _use_new_zipfile_serialization=zipped)
    return path


def write_pickle(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Malicious(), protocol=2))  # the protocol of torch
    return path


def attack_by_cifar(name: str, folder: str, file: str) -> Callable[[Path, RunRr], Outcome]:
    """Return an attack with a folder, or an archive, laid out like the official one."""

    def attack(project: Path, rr: RunRr) -> Outcome:
        from torchvision import datasets

        add_dataset(project, {"kind": name}, image_size=32)
        dataset = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
        for entry, _ in [*dataset.train_list, *dataset.test_list, [dataset.meta["filename"], ""]]:
            write_pickle(project / folder / entry)
        with tarfile.open(project / dataset.filename, "w:gz") as tar:
            tar.add(project / folder, folder)
        return rr("fetch", "--dataset", "mine", "--from", project / file)

    return attack


def attack_by_checkpoint(write: Callable[[Path], Path]) -> Callable[[Path, RunRr], Outcome]:
    """Return an attack with a checkpoint that starts with the correct hash of its content."""

    def attack(project: Path, rr: RunRr) -> Outcome:
        for stage in ("fetch", "convert"):
            assert rr(stage, "--dataset", "shapes").code == 0
        content = write(project / CHECKPOINT).read_bytes()
        (project / CHECKPOINT).write_bytes(hashlib.sha256(content).digest() + content)
        return rr(*PRETRAIN)

    return attack


def attack_by_import(write: Callable[[Path], Path]) -> Callable[[Path, RunRr], Outcome]:
    return lambda project, rr: rr("import", write(project / "evil.tar"), "--backbone", "conv4")


def attack_by_weights(write: Callable[[Path], Path]) -> Callable[[Path, RunRr], Outcome]:
    """Return an attack with a fake backbone.safetensors for `rr export` and `rr retrieve`."""

    def attack(project: Path, rr: RunRr) -> Outcome:
        file = write(project / "backbone.safetensors")
        assert rr("retrieve", file, "--gallery", project, "--weights", file).code == 2
        return rr("export", file, "--format", "safetensors", "--output", "out.safetensors")

    return attack


def attack_by_params(project: Path, rr: RunRr) -> Outcome:
    (project / "params.yaml").write_text("grid: !!python/object/apply:os.mkdir [executed]\n")
    return rr("plan")


def attack_by_suite(project: Path, rr: RunRr) -> Outcome:
    (project / "workflow/suites").mkdir(parents=True)
    (project / "workflow/suites/evil.yaml").write_text("suites: !!python/object/apply:os.mkdir [executed]\n")
    return rr("suite", "use", "evil")


LOADERS: dict[str, tuple[Callable[[Path, RunRr], Outcome], str]] = {
    "CIFAR-10, folder": (attack_by_cifar("cifar10", "cifar-10-batches-py", "cifar-10-batches-py"), "wrong checksum"),
    "CIFAR-10, archive": (
        attack_by_cifar("cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
        "wrong checksum",
    ),
    "CIFAR-100, folder": (attack_by_cifar("cifar100", "cifar-100-python", "cifar-100-python"), "wrong checksum"),
    "coarse CIFAR-100": (attack_by_cifar("cifar100_20", "cifar-100-python", "cifar-100-python"), "wrong checksum"),
    "resume, zip": (attack_by_checkpoint(write_torch), ""),
    "resume, legacy": (attack_by_checkpoint(lambda path: write_torch(path, zipped=False)), ""),
    "resume, pickle": (attack_by_checkpoint(write_pickle), ""),
    "import, zip": (attack_by_import(write_torch), "would run code"),
    "import, legacy": (attack_by_import(lambda path: write_torch(path, zipped=False)), "would run code"),
    "import, pickle": (attack_by_import(write_pickle), "evil.tar"),
    "weights, zip": (attack_by_weights(write_torch), "damaged or not a safetensors file"),
    "weights, pickle": (attack_by_weights(write_pickle), "damaged or not a safetensors file"),
    "params.yaml": (attack_by_params, "is not valid YAML"),
    "suite": (attack_by_suite, "is not valid YAML"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_code_in_a_file_does_not_run(project: Path, rr: RunRr, name: str) -> None:
    attack, message = LOADERS[name]
    write_params(project, lambda params: params["methods"]["relational"].update(epochs=1, views=2))
    outcome = attack(project, rr)
    assert not (project / "executed").exists()
    if message:
        assert outcome.code == 2
        assert message in outcome.err
    else:  # an unsafe checkpoint is ignored, and training starts from the beginning
        assert outcome.code == 0
        assert f"the checkpoint {CHECKPOINT} is damaged and is not used" in outcome.err
        assert "continuing" not in outcome.err


def test_attack_works_on_plain_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open(write_pickle(tmp_path / "evil"), "rb") as file:
        pickle.load(file)
    assert (tmp_path / "executed").exists()


def test_no_other_code_unpickles() -> None:
    """All calls that can unpickle are listed here. Each that reads a file from elsewhere has a test above."""
    calls = set()
    for path in (ROOT / "rr").rglob("*.py"):
        for line in path.read_text().splitlines():
            if re.search(r"pickle\.|torch\.load\(|joblib|marshal|shelve|allow_pickle|trust_remote", line):
                calls.add((path.relative_to(ROOT / "rr").as_posix(), "weights_only=True" in line))
    assert calls == {
        ("data/sources/cifar.py", False),  # only after comparing the MD5 checksum of each file
        ("exchange/import_weights.py", True),
        ("exchange/export_weights.py", True),  # reads only the file that it has written
        ("pretrain/checkpoint.py", True),
    }
