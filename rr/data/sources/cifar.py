"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), downloaded, checked and parsed by torchvision."""

import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rr.data import raw
from rr.errors import UserError
from rr.params import CifarSource

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10


def pictures(source: CifarSource, download: Path, local: Path | None) -> raw.Pictures:
    """Yield the 50,000 training and 10,000 test pictures of 32 × 32 in the official order.

    The kind `cifar100_20` gives the pictures of CIFAR-100 their 20 coarse labels.

    `local` (or `source.path`): the official archive, or a folder with it or its contents. torchvision compares each
    file with its md5 before it unpickles it. Raises UserError for a wrong checksum or a failed download.
    """
    from torchvision import datasets

    if local is None and source.path:
        local = Path(source.path).expanduser()
    kind = datasets.CIFAR10 if source.kind == "cifar10" else datasets.CIFAR100
    root = _unpack(local, kind, download) if local else download
    root.mkdir(parents=True, exist_ok=True)
    parts = []
    for split in raw.SPLITS:
        try:
            parts.append((split, kind(root=str(root), train=split == "train", download=local is None)))
        except RuntimeError as error:
            # The one error torchvision has for a missing file and for a wrong checksum.
            raise UserError(
                f"{local or root}: the files of {source.kind} are missing or their checksum is wrong ({error}); "
                f"delete {root} and try again, or name the official {kind.filename} with --from"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot download {kind.url} ({error}): check the network, or name a copy with --from"
            ) from error

    names = list(parts[0][1].classes)
    labels = {split: part.targets for split, part in parts}
    if source.kind == "cifar100_20":
        folder = root / kind.base_folder
        names = _entry(folder / "meta", "coarse_label_names")
        labels = {split: _entry(folder / split, "coarse_labels") for split in raw.SPLITS}

    def rows() -> Iterator[raw.Picture]:
        for split, part in parts:
            for position, (image, label) in enumerate(zip(part.data, labels[split], strict=True)):
                yield raw.Picture(split, f"{split}/{position}.png", raw.encode(image), label)

    return raw.Pictures(names, rows())


def _entry(path: Path, key: str) -> list:
    """What torchvision leaves unread of one of CIFAR-100's files; it has just compared the file with its md5."""
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")[key]


def _unpack(local: Path, kind: "type[CIFAR10]", download: Path) -> Path:
    """Return a root that torchvision understands for the user's copy."""
    from torchvision.datasets.utils import check_integrity

    if not local.exists():
        raise UserError(f"{local} does not exist: --from takes the official {kind.filename} or the folder made from it")
    if local.is_dir() and local.name == kind.base_folder:
        return local.parent
    if local.is_dir() and (local / kind.base_folder).is_dir():
        return local
    archive = local / kind.filename if local.is_dir() else local
    if not archive.is_file():
        raise UserError(f"{local} holds neither {kind.filename} nor {kind.base_folder}: check the path given to --from")
    if not check_integrity(str(archive), kind.tgz_md5):
        raise UserError(f"{archive}: wrong checksum, md5 {kind.tgz_md5} expected: download it again")
    shutil.rmtree(download / kind.base_folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(download, filter="data")
    return download
