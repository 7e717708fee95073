"""Archives of pictures, read without trust: a zip where it lies, a tar unpacked.

An archive that nobody vouches for may name files outside its folder, or grow without end. All limits are the caller's.
"""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rr.errors import UserError


class Limits(NamedTuple):
    """How much an archive may hold: bytes when unpacked, and members."""

    size: int
    members: int


class Tree(NamedTuple):
    """Files of a folder or archive: sorted names with `/` between, and how to read the bytes of one."""

    names: list[str]
    read: Callable[[str], bytes]


def open_tree(path: Path, scratch: Path, limits: Limits) -> Tree:
    """Open a folder, a zip or a tar (which is unpacked into `scratch`); hidden files are passed over.

    A zip's own checksum of a member is compared when it is read.
    Raises UserError for a file that is none of these, and as `unpack` does.
    """
    if path.is_file() and zipfile.is_zipfile(path):
        return _zip(path, limits)
    if path.is_file():
        unpack(path, scratch, limits)
        path = scratch
    if not path.is_dir():
        raise UserError(f"{path} does not exist: correct the path of the copy")
    files = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    return Tree(_visible(files), lambda name: (path / name).read_bytes())


def unpack(archive: Path, folder: Path, limits: Limits) -> None:
    """Unpack a tar, compressed or not, as the new content of `folder`, which is removed again on failure.

    Raises UserError that names the member which leads out of the folder, is no plain file, or exceeds `limits`, and for
    a damaged archive.
    """
    if folder.resolve() in archive.resolve().parents:
        raise UserError(f"{archive} lies where it would be unpacked: move it out of {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    size = count = 0
    name = "its beginning"
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name, size, count = member.name, size + member.size, count + 1
                _check(archive, name, size, count, limits)
                # No data set needs links, devices or pipes.
                if not (member.isfile() or member.isdir()):
                    raise _refusal(archive, f"{name} is neither a file nor a folder")
                tar.extract(member, folder, filter="data")
            # gzip and bzip2 compare their checksums only at their own end, which lies behind that of the tar.
            while tar.fileobj and (rest := tar.fileobj.read(1 << 20)):
                name, size = "what follows the last member", size + len(rest)
                _check(archive, name, size, count, limits)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        shutil.rmtree(folder)
        raise UserError(f"{archive} is damaged, or no zip or tar ({name}: {error}): get it again") from error
    except BaseException as error:
        shutil.rmtree(folder)
        # gzip and bzip2 report damage by OSErrors of no number; those of the disk have one.
        if isinstance(error, OSError) and error.errno is None:
            raise UserError(f"{archive} is damaged ({name}: {error}): get it again") from error
        raise


def _zip(path: Path, limits: Limits) -> Tree:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path} is damaged ({error}): get it again") from error
    size = 0
    # No member gives more bytes than it declares here.
    for count, member in enumerate(archive.infolist(), 1):
        size += member.file_size
        _check(path, member.filename, size, count, limits)

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError) as error:
            raise UserError(f"{path} is damaged ({name}: {error}): get it again") from error

    return Tree(_visible([name for name in archive.namelist() if not name.endswith("/")]), read)


def _check(archive: Path, name: str, size: int, count: int, limits: Limits) -> None:
    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise _refusal(archive, f"{name} leads out of its folder")
    if size > limits.size:
        raise _refusal(archive, f"with {name} it unpacks to more than {limits.size:,} bytes")
    if count > limits.members:
        raise _refusal(archive, f"with {name} it has more than {limits.members:,} members")


def _refusal(archive: Path, why: str) -> UserError:
    return UserError(f"{archive} is not the data set, and nothing of it is used ({why}): get it again from its source")


def _visible(names: list[str]) -> list[str]:
    """Without what file managers leave behind: `.DS_Store`, `__MACOSX/`."""
    return sorted({name for name in names if not any(p.startswith((".", "__MACOSX")) for p in name.split("/"))})
