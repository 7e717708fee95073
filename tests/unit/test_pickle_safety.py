"""A pickle is a program. Every door through which one could come is shut, and nothing of it is carried out."""

import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import PRETRAIN, ROOT, Outcome, Rr, use, write_params

RESUME = Path("runs/resume/shapes/conv4/relational/1/resume.pt")


class Malicious:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(Path("executed").absolute()),)


def as_torch(path: Path, zipped: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"backbone": Malicious(), "fingerprint": Malicious()}, path, _use_new_zipfile_serialization=zipped)
    return path


def as_pickle(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Malicious(), protocol=2))  # torch's own
    return path


def cifar(name: str, folder: str, file: str) -> Callable[[Path, Rr], Outcome]:
    """A folder, and an archive, that look like the official ones."""

    def attack(project: Path, rr: Rr) -> Outcome:
        from torchvision import datasets

        use(project, {"kind": name}, side=32)
        official = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
        for entry, _ in [*official.train_list, *official.test_list, [official.meta["filename"], ""]]:
            as_pickle(project / folder / entry)
        with tarfile.open(project / official.filename, "w:gz") as tar:
            tar.add(project / folder, folder)
        return rr("fetch", "--dataset", "mine", "--from", project / file)

    return attack


def resume(write: Callable[[Path], Path]) -> Callable[[Path, Rr], Outcome]:
    def attack(project: Path, rr: Rr) -> Outcome:
        for stage in ("fetch", "convert"):
            assert rr(stage, "--dataset", "shapes").code == 0
        write(project / RESUME)
        return rr(*PRETRAIN)

    return attack


def imported(write: Callable[[Path], Path]) -> Callable[[Path, Rr], Outcome]:
    return lambda project, rr: rr("import", write(project / "evil.tar"), "--backbone", "conv4")


def weights(write: Callable[[Path], Path]) -> Callable[[Path, Rr], Outcome]:
    """In the place of a backbone.safetensors: of `rr export`, and of a search."""

    def attack(project: Path, rr: Rr) -> Outcome:
        file = write(project / "backbone.safetensors")
        assert rr("retrieve", file, "--gallery", project, "--weights", file).code == 2
        return rr("export", file, "--format", "safetensors", "--output", "out.safetensors")

    return attack


def yaml(project: Path, rr: Rr) -> Outcome:
    (project / "params.yaml").write_text("grid: !!python/object/apply:os.mkdir [executed]\n")
    return rr("plan")


def suite(project: Path, rr: Rr) -> Outcome:
    (project / "workflow/suites").mkdir(parents=True)
    (project / "workflow/suites/evil.yaml").write_text("suites: !!python/object/apply:os.mkdir [executed]\n")
    return rr("suite", "use", "evil")


LOADERS: dict[str, tuple[Callable[[Path, Rr], Outcome], str]] = {
    "CIFAR-10, folder": (cifar("cifar10", "cifar-10-batches-py", "cifar-10-batches-py"), "checksum is wrong"),
    "CIFAR-10, archive": (cifar("cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz"), "wrong checksum"),
    "CIFAR-100, folder": (cifar("cifar100", "cifar-100-python", "cifar-100-python"), "checksum is wrong"),
    "coarse CIFAR-100": (cifar("cifar100_20", "cifar-100-python", "cifar-100-python"), "checksum is wrong"),
    "resume, zip": (resume(as_torch), ""),
    "resume, legacy": (resume(lambda path: as_torch(path, zipped=False)), ""),
    "resume, pickle": (resume(as_pickle), ""),
    "import, zip": (imported(as_torch), "would run code"),
    "import, legacy": (imported(lambda path: as_torch(path, zipped=False)), "would run code"),
    "import, pickle": (imported(as_pickle), "evil.tar"),
    "weights, zip": (weights(as_torch), "no backbone of this project"),
    "weights, pickle": (weights(as_pickle), "no backbone of this project"),
    "params.yaml": (yaml, "is not valid YAML"),
    "suite": (suite, "is not valid YAML"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_nothing_in_a_file_is_carried_out(project: Path, rr: Rr, name: str) -> None:
    attack, message = LOADERS[name]
    write_params(project, lambda params: params["methods"]["relational"].update(epochs=1, views=2))
    outcome = attack(project, rr)
    assert not (project / "executed").exists()
    if message:
        assert outcome.code == 2
        assert message in outcome.err
    else:  # a state that cannot be trusted is none: training begins anew
        assert outcome.code == 0
        assert "continuing" not in outcome.out


def test_the_attack_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open(as_pickle(tmp_path / "evil"), "rb") as file:
        pickle.load(file)
    assert (tmp_path / "executed").exists()


def test_no_other_door_has_been_built() -> None:
    """What can unpickle stands in the table above; a new call must join it."""
    found = set()
    for path in (ROOT / "rr").rglob("*.py"):
        for line in path.read_text().splitlines():
            if re.search(r"pickle\.|torch\.load\(|joblib|marshal|shelve|allow_pickle|trust_remote", line):
                found.add((path.relative_to(ROOT / "rr").as_posix(), "weights_only=True" in line))
    assert found == {
        ("data/sources/cifar.py", False),  # after the md5 of each file has been compared
        ("exchange/importing.py", True),
        ("exchange/exporting.py", True),
        ("resume.py", True),
    }
