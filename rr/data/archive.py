"""Read zip archives in place and extract tar archives, without trusting their contents.

The names in an archive may lead outside the folder into which it is extracted, and an archive may expand to more bytes
than the disk can hold. Unsafe names are rejected, and the caller limits the size and the number of members.
"""

import errno
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rr.data.folder_listing import UNREADABLE_FOLDER, FileKind, file_suffix, image_suffixes, list_folder
from rr.data.printable_names import display_name
from rr.errors import UserError, raise_if_lfs_pointer
from rr.runtime.formatting import format_names
from rr.runtime.progress import Progress

# Python 3.11.4 introduced this filter. Here, it changes only permissions and owners, because `extract_tar` rejects all
# unsafe members itself.
_EXTRACTION_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
_HEADER_TYPES = {
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
}  # fmt: skip
_MAX_HEADER_BYTES = 2**20
_HINT = "replace this file with a new download of the official archive, or use another copy with --from"


class ArchiveLimits(NamedTuple):
    """Upper limits on the total size of an archive's members in bytes, and on their number."""

    max_bytes: int
    max_members: int


class FileTree(NamedTuple):
    """The files of a folder or an archive: their sorted names (separator `/`) and a function that reads one file."""

    names: list[str]
    read: Callable[[str], bytes]


def open_tree(path: Path, extract_dir: Path, limits: ArchiveLimits) -> FileTree:
    """Open a folder, a zip archive or a tar archive as a `FileTree` without hidden files.

    A tar archive is extracted into `extract_dir`. Reading a member of a zip archive verifies its checksum.

    Raises:
        UserError: if `path` does not exist, if a folder is incomplete, or if an archive is damaged, exceeds `limits`
            or has unsafe members.
    """
    if path.is_file() and zipfile.is_zipfile(path):
        return _open_zip(path, limits)
    if path.is_file():
        extract_tar(path, extract_dir, limits)
        path = extract_dir
    if not path.is_dir():
        raise UserError(f"{path} does not exist: fix --from, or the source's 'path' in params.yaml")
    suffixes = image_suffixes()
    listing = list_folder(path, FileKind(suffixes, lambda path, suffix: None))
    damaged = [f for f in listing.damaged if f.reason == UNREADABLE_FOLDER or file_suffix(f.name) in suffixes]
    if damaged:
        names = format_names([f"{display_name(file.name)}: {file.problem}" for file in damaged])
        raise UserError(f"{path} is incomplete ({names}): complete this copy, or use another one with --from")
    return FileTree(_drop_hidden(listing.files), lambda name: (path / name).read_bytes())


class _TarInfo(tarfile.TarInfo):
    """A member of a tar archive. tarfile loads headers for long names into memory, so their size is limited."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADER_TYPES and self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header has {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def extract_tar(path: Path, target_dir: Path, limits: ArchiveLimits) -> None:
    """Extract a tar archive to `target_dir`, replacing the folder's contents; remove the folder on failure.

    The archive may be compressed.

    Raises:
        UserError: if the archive is damaged, exceeds `limits` or is inside `target_dir`, or if a member is a link or a
            device, or lies outside the folder.
    """
    if target_dir.resolve() in path.resolve().parents:
        raise UserError(f"{path}: extraction replaces the folder {target_dir}, so move this archive to another folder")
    shutil.rmtree(target_dir, ignore_errors=True)
    target_dir.mkdir(parents=True)
    size = count = 0
    name = ""
    try:
        with (
            tarfile.open(path, tarinfo=_TarInfo) as tar,
            Progress("fetch", unit="files", note=f"extracting {path}") as progress,
        ):
            for member in tar:
                name, size, count = member.name, size + member.size, count + 1
                _check_member(path, name, size, count, limits)
                # Datasets do not need links, devices or pipes.
                if not (member.isfile() or member.isdir()):
                    raise _rejection_error(path, f"member {name} is neither a file nor a folder")
                tar.extract(member, target_dir, **_EXTRACTION_FILTER)
                progress.advance(1)
            # gzip and bzip2 verify their checksums at the end of the file, after the end of the tar data.
            while tar.fileobj and (rest := tar.fileobj.read(1 << 20)):
                name, size = "data after the last member", size + len(rest)
                _check_member(path, name, size, count, limits)
    except BaseException as error:
        shutil.rmtree(target_dir)
        if _indicates_damage(error):
            raise_if_lfs_pointer(path)
            # If no member could be read, tarfile's long message lists the error for each compression method.
            reason = f"{name}: {error}" if name else "it cannot be opened"
            raise UserError(f"{path} is damaged or not a zip or tar archive ({reason}): {_HINT}") from error
        raise


def _open_zip(path: Path, limits: ArchiveLimits) -> FileTree:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path} is damaged ({error}): {_HINT}") from error
    size = 0
    # zipfile never reads more bytes of a member than its `file_size`.
    for count, member in enumerate(archive.infolist(), 1):
        size += member.file_size
        _check_member(path, member.filename, size, count, limits)

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except Exception as error:
            if _indicates_damage(error):
                raise UserError(f"{path} is damaged ({name}: {error}): {_HINT}") from error
            raise

    return FileTree(_drop_hidden([name for name in archive.namelist() if not name.endswith("/")]), read)


def _indicates_damage(error: BaseException) -> bool:
    """Return whether an exception means that an archive is damaged or cannot be read."""
    # zipfile raises RuntimeError if a member is encrypted or its compression method is not supported.
    if isinstance(error, tarfile.TarError | zipfile.BadZipFile | zlib.error | lzma.LZMAError | EOFError | RuntimeError):
        return True
    # gzip and bzip2 raise OSErrors without errno. EINVAL: a damaged zip archive refers to a position before its start.
    return isinstance(error, OSError) and error.errno in (None, errno.EINVAL)


def _check_member(path: Path, name: str, size: int, count: int, limits: ArchiveLimits) -> None:
    """Raise UserError if member `name` lies outside the folder or makes the archive exceed the limits."""
    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise _rejection_error(path, f"member {name} lies outside the folder of the archive")
    if size > limits.max_bytes:
        raise _rejection_error(path, f"it expands to more than {limits.max_bytes:,} bytes; limit reached at {name}")
    if count > limits.max_members:
        raise _rejection_error(path, f"it has more than {limits.max_members:,} members; limit reached at {name}")


def _rejection_error(path: Path, reason: str) -> UserError:
    return UserError(f"{path} was rejected, because it is not the expected dataset ({reason}): {_HINT}")


def _drop_hidden(names: list[str]) -> list[str]:
    """Return the sorted names, without hidden files and files that file managers add (`.DS_Store`, `__MACOSX/`)."""
    return sorted({name for name in names if not any(p.startswith((".", "__MACOSX")) for p in name.split("/"))})
