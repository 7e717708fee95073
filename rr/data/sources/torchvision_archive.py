"""Download or find the official archive of a torchvision dataset, extract it, and verify its files by MD5."""

from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rr.data.archive import ArchiveLimits, extract_tar
from rr.data.download import check_md5, download_file
from rr.errors import UserError

_LIMITS = ArchiveLimits(max_bytes=4 << 30, max_members=100)  # STL-10 expands to 3 GB


class TorchvisionDataset(Protocol):
    """The attributes of a torchvision dataset class that describe its archive."""

    url: str
    filename: str
    tgz_md5: str
    base_folder: str


def ensure_extracted(
    dataset: type[TorchvisionDataset], files: list[tuple[str, str]], local_copy: Path | None, download_dir: Path
) -> Path:
    """Return the folder with the extracted files of a dataset, after verifying all of `files`.

    Args:
        dataset: a class in `torchvision.datasets`.
        files: name and MD5 of each required file.
        local_copy: the official archive, or a folder that holds the archive or its contents. If None, the archive
            is downloaded.
        download_dir: folder for the archive and the extracted files.

    Raises:
        UserError: if the copy is incomplete, if a checksum differs, or if the download fails.
    """
    extracted = download_dir / "unpacked" / dataset.base_folder
    if local_copy is None:
        with suppress(UserError):
            _check_files(extracted, files)
            return extracted
        archive = download_dir / dataset.filename
        download_file(dataset.url, archive, dataset.tgz_md5)
    else:
        archive = _find_local_copy(local_copy, dataset)
        if archive.is_dir():
            _check_files(archive, files)
            return archive
        check_md5(archive, dataset.tgz_md5)
    extract_tar(archive, extracted.parent, _LIMITS)
    _check_files(extracted, files)
    return extracted


def _find_local_copy(local_copy: Path, dataset: type[TorchvisionDataset]) -> Path:
    """Return the path of the extracted folder or of the archive, which may be `local_copy` or inside it."""
    if not local_copy.exists():
        raise UserError(
            f"{local_copy} does not exist: fix --from, or the source's 'path' in params.yaml, so that it points to "
            f"{dataset.filename} or to the folder extracted from it"
        )
    if local_copy.is_file() or local_copy.name == dataset.base_folder:
        return local_copy
    for path in (local_copy / dataset.base_folder, local_copy / dataset.filename):
        if path.exists():
            return path
    raise UserError(
        f"{local_copy} contains neither {dataset.filename} nor {dataset.base_folder}: fix --from, or the source's "
        "'path' in params.yaml"
    )


def _check_files(folder: Path, files: list[tuple[str, str]]) -> None:
    """Raise UserError if a file is missing or its MD5 differs."""
    remedy = "extract the official archive again, or use the archive itself with --from"
    for name, md5 in files:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: {remedy}")
        check_md5(folder / name, md5, remedy)
