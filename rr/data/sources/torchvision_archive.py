"""The official archive of a data set that torchvision knows, downloaded or local, unpacked and compared by md5."""

from pathlib import Path
from typing import Protocol

from rr.data.archive import Limits, unpack
from rr.data.download import download, md5_of, verify
from rr.errors import UserError

_LIMITS = Limits(size=4 << 30, members=100)  # STL-10 unpacks to 3 GB


class Official(Protocol):
    """What a data set's class of torchvision says about its archive."""

    url: str
    filename: str
    tgz_md5: str
    base_folder: str


def unpacked(kind: type[Official], files: list[tuple[str, str]], local: Path | None, place: Path) -> Path:
    """Return the folder `base_folder` with `files` (name and md5 of each), every one of them compared.

    `local` is the official archive, or a folder with it or its contents; without, the archive is downloaded. `place`
    keeps the archive and what is unpacked of it.
    Raises UserError for a copy that is neither, a wrong checksum, and as `download` does.
    """
    own = place / "unpacked" / kind.base_folder
    if local is None:
        if _fault(own, files) is None:
            return own
        archive = place / kind.filename
        download(kind.url, archive, kind.tgz_md5)
    else:
        archive = _copy(local, kind)
        if archive.is_dir():
            return _checked(archive, files)
        verify(archive, kind.tgz_md5)
    unpack(archive, own.parent, _LIMITS)
    return _checked(own, files)


def _copy(local: Path, kind: type[Official]) -> Path:
    """The official folder or archive at `local`."""
    if not local.exists():
        raise UserError(f"{local} does not exist: --from takes the official {kind.filename} or the folder made from it")
    if local.is_file() or local.name == kind.base_folder:
        return local
    for found in (local / kind.base_folder, local / kind.filename):
        if found.exists():
            return found
    raise UserError(f"{local} holds neither {kind.filename} nor {kind.base_folder}: check the path given to --from")


def _checked(folder: Path, files: list[tuple[str, str]]) -> Path:
    fault = _fault(folder, files)
    if fault:
        raise UserError(f"{fault}: unpack the official archive again, or name that with --from")
    return folder


def _fault(folder: Path, files: list[tuple[str, str]]) -> str | None:
    for name, md5 in files:
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if (found := md5_of(path)) != md5:
            return f"{path}: its checksum is wrong, md5 {md5} expected, {found} found"
    return None
