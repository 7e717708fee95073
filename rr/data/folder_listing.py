"""List the files in a folder and account for every unused file.

All commands that read a folder of images list it only with this module, so they all use the same files.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import cache
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from rr.data.image_decoding import HEIC_FORMAT, UNDECODABLE_FORMATS, UNSUPPORTED_FORMAT, identify_unreadable_content
from rr.data.printable_names import display_name
from rr.errors import UserError

# Reasons why a file is not used. They appear in command output and in the records.
HIDDEN = "hidden"
FROM_PROGRAM = "created by another program"
OTHER_SUFFIX = "not an image"
ARROW = "an Arrow file; to use images that Hugging Face datasets saved, write them to Parquet files with to_parquet"
ARCHIVE = "an archive; if it contains images, extract it"
MISNAMED_IMAGE = "an image with an unusual suffix; rename it"
NOT_REGULAR = "not a regular file"
LISTED_FOLDER = "a link to a folder that is listed already"
BROKEN_LINK = "a broken link"
UNREADABLE_FOLDER = "a folder that cannot be listed"
INCOMPLETE = "only partially downloaded"
UNREADABLE_FILE = "a file that cannot be read"

# Files and folders that operating systems, file servers and other programs create, in lower case.
_PROGRAM_NAMES = {
    "__macosx", ".ds_store", ".appledouble", ".lsoverride", ".documentrevisions-v100", ".fseventsd", ".spotlight-v100",
    ".temporaryitems", "temporary items", "network trash folder", "icon\r", "thumbs.db", "ehthumbs.db",
    "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found",
    "found.000", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot",
    ".ipynb_checkpoints", "__pycache__", ".thumbnails", ".thumb", ".picasaoriginals", "picasa.ini", ".picasa.ini",
    "zbthumbnail.info", "_gsdata_", ".directory", ".stfolder", ".stversions", ".dropbox.cache", ".nomedia",
    "thumbs.db:encryptable", "thumbnails", "@__thumb", "_vti_cnf", "dfsrprivate",
}  # fmt: skip
# Folders that are ignored only if they are next to images. Otherwise, `thumb` may be a class.
_THUMBNAIL_FOLDERS = {"thumb", "thumbs", "thumbnail", "_thumb", "_thumbs"}
_TRASH_FOLDERS = ("RECYCLER", "RECYCLED")  # of old Windows versions; in lower case, they could be classes
_PROGRAM_PREFIXES = (".trash", "._", ".nfs", ".fuse_hidden", ".~lock", "paxheader")  # tar creates the last one
# Metadata from file servers, and the libraries and previews of photo programs.
_PROGRAM_SUFFIXES = ("@synoeastream", "@synoresource", ".lrdata", ".photoslibrary", ".photolibrary", ".aplibrary")
_FORMER_VERSION = re.compile(r".*\.\w+(_original|~)")  # backups that ExifTool and text editors create
_UNFINISHED_SUFFIXES = {
    ".part", ".partial", ".crdownload", ".opdownload", ".download", ".filepart", ".incomplete", ".aria2", ".!qb",
    ".!ut",
}  # fmt: skip
_CLOUD_SUFFIXES = {".nextcloud": "Nextcloud", ".owncloud": "ownCloud"}  # for placeholders such as x.jpg.nextcloud

# Suffixes of images that Pillow cannot read. (Some versions of Pillow can read AVIF.)
_UNSUPPORTED_SUFFIXES = {
    ".avif", ".avifs", ".jxl", ".jxr", ".wdp", ".hdp", ".svg", ".svgz", ".psb", ".ai", ".cdr", ".xcf", ".kra", ".exr",
    ".hdr", ".djvu", ".bpg", ".flif", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".orf",
    ".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".erf", ".kdc", ".mrw", ".mef", ".mos", ".dcr", ".raw",
    ".dcm", ".dicom", ".nii", ".czi", ".lif", ".nd2", ".svs", ".ndpi",
}  # fmt: skip
_HEIC_SUFFIXES = {".heic", ".heif", ".hif", ".heics", ".heifs"}
# Image suffixes that other kinds of files also use. Such a file counts as an image only if Pillow identifies it.
_AMBIGUOUS_SUFFIXES = {".bw", ".fit", ".gbr", ".im", ".msp", ".pcd", ".ras", ".rgb", ".rgba", ".vda", ".vst"}
# Common suffixes of files that are certainly not images. To save time, these files are not opened.
_NON_IMAGE_SUFFIXES = {
    ".txt", ".md", ".rst", ".log", ".json", ".jsonl", ".ndjson", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".toml",
    ".ini", ".cfg", ".html", ".htm", ".py", ".ipynb", ".m", ".mat", ".npy", ".npz", ".pkl", ".pt", ".db", ".sqlite",
    ".parquet", ".xmp", ".aae", ".thm", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav", ".doc",
    ".docx", ".xls", ".xlsx", ".md5", ".sha256", ".lnk", ".url", ".dvc",
}  # fmt: skip
_ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
# Formats whose files start with a signature, so an image is recognized even if it has a different suffix.
_SIGNED_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF", "HEIF", "ICO", "PSD")


# For some reasons why files are not used, what to do so that they can be used.
REMEDIES = {
    UNSUPPORTED_FORMAT: "convert photographs to JPEG to use them",
    HEIC_FORMAT: "install pillow-heif to use them",
}


class SkippedFile(NamedTuple):
    """A file that is not used. `name` is its path relative to the listed folder."""

    name: str
    reason: str


class DamagedFile(NamedTuple):
    """A file or folder that is damaged or incomplete; `problem` explains what is wrong and what to do."""

    name: str
    reason: str
    problem: str


class FolderListing(NamedTuple):
    """Everything in a folder. All paths are relative to the folder and sorted part by part.

    Attributes:
        files: files of the requested kind.
        folders: all subfolders, including those that cannot be listed and broken links that may lead to folders.
        skipped: all other files. A link to a folder counts as a file if it is not followed.
        damaged: files and folders that are damaged or incomplete.
    """

    files: list[str]
    folders: list[str]
    skipped: list[SkippedFile]
    damaged: list[DamagedFile]


class FileKind(NamedTuple):
    """The kind of files to list.

    Attributes:
        suffixes: suffixes of files of this kind, in lower case.
        reason_to_skip: function that takes the path and the suffix of a file. It returns the reason why the file is not
            of this kind, or None if it is.
    """

    suffixes: frozenset[str]
    reason_to_skip: Callable[[str, str], str | None]


def list_folder(root: Path, kind: FileKind) -> FolderListing:
    """List the files of one kind in a folder and its subfolders.

    Hidden files and files that other programs create are skipped. Links to files and folders are followed, unless the
    folder is already listed or contains `root`. Therefore, no folder is listed twice.

    Raises:
        OSError: if `root` itself cannot be listed.
    """
    listing = FolderListing([], [], [], [])
    real_root = os.path.realpath(root)
    listed: set[str] = set()
    todo = [("", str(root), real_root)]  # name, path and real path of each folder
    links: list[tuple[str, str]] = []  # name and path of each link to a folder, as a heap
    while todo or links:
        if todo:
            name, path, real_path = todo.pop()
            is_listed = real_path in listed
        else:  # folders in the tree itself take priority over links to them
            name, path = heappop(links)
            real_path = os.path.realpath(path)
            is_listed = real_path in listed or os.path.commonpath([real_path, real_root]) == real_path
        if is_listed:
            listing.skipped.append(SkippedFile(name, LISTED_FOLDER))
            continue
        listed.add(real_path)
        if name:
            listing.folders.append(name)
        try:
            with os.scandir(path) as iterator:
                entries = list(iterator)
        except OSError as error:
            if not name:
                raise
            listing.damaged.append(DamagedFile(name, UNREADABLE_FOLDER, f"{UNREADABLE_FOLDER} ({error.strerror})"))
            continue
        entry_names = {entry.name for entry in entries}
        for entry in entries:
            entry_name = f"{name}/{entry.name}" if name else entry.name
            if problem := _find_placeholder_problem(entry.name, entry_names, kind.suffixes):
                listing.damaged.append(DamagedFile(entry_name, INCOMPLETE, problem))
            elif reason := _reason_to_ignore(entry) or _reason_to_ignore_thumbnails(entry, entries, kind.suffixes):
                listing.skipped.extend(SkippedFile(file, reason) for file in _list_ignored(entry, entry_name))
            elif entry.is_dir(follow_symlinks=False):
                todo.append((entry_name, entry.path, os.path.join(real_path, entry.name)))
            elif entry.is_symlink() and not _follow_link(entry, entry_name, kind, links, listing):
                continue
            elif not entry.is_file():
                listing.skipped.append(SkippedFile(entry_name, NOT_REGULAR))
            elif reason := kind.reason_to_skip(entry.path, file_suffix(entry.name)):
                listing.skipped.append(SkippedFile(entry_name, reason))
            else:
                listing.files.append(entry_name)
    listing.files.sort(key=_split_path)
    listing.folders.sort(key=_split_path)
    listing.skipped.sort(key=lambda file: _split_path(file.name))
    listing.damaged.sort(key=lambda file: _split_path(file.name))
    return listing


def _split_path(name: str) -> list[str]:
    return name.split("/")


def _follow_link(
    entry: os.DirEntry[str], name: str, kind: FileKind, links: list[tuple[str, str]], listing: FolderListing
) -> bool:
    """Return whether a link leads to a file. Add a link to a folder to the heap `links`, a broken link to `listing`."""
    try:
        if not stat.S_ISDIR(os.stat(entry.path).st_mode):
            return True
        heappush(links, (name, entry.path))
    except OSError as error:
        if file_suffix(name) not in {"", *kind.suffixes}:
            listing.skipped.append(SkippedFile(name, BROKEN_LINK))
        elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            try:
                is_annexed = "annex/objects" in os.readlink(entry.path)
            except OSError:  # the link has just been deleted
                is_annexed = False
            hint = "; run `git annex get` or `datalad get` in this folder" if is_annexed else ""
            listing.damaged.append(DamagedFile(name, BROKEN_LINK, f"{BROKEN_LINK}{hint}"))
            if not file_suffix(name):  # probably a link to a folder
                listing.folders.append(name)
        else:
            listing.damaged.append(DamagedFile(name, UNREADABLE_FILE, f"{UNREADABLE_FILE} ({error.strerror})"))
    return False


def _find_placeholder_problem(name: str, names_in_folder: set[str], suffixes: frozenset[str]) -> str | None:
    """Return the problem if a file is a placeholder for a missing file or an unfinished download, or None."""
    stem, suffix = os.path.splitext(name)
    if suffix == ".icloud" and name.startswith(".") and file_suffix(stem) in suffixes:
        return "not downloaded from iCloud; download it in the Finder" if stem[1:] not in names_in_folder else None
    if suffix == ".dvc" and stem and stem not in names_in_folder and file_suffix(stem) in {"", *suffixes}:
        return f"its data ({display_name(stem)}) is missing; run `dvc pull`"
    if suffix.lower() in _CLOUD_SUFFIXES and file_suffix(stem) in suffixes:
        return f"not downloaded from {_CLOUD_SUFFIXES[suffix.lower()]}; make it available locally"
    # rclone inserts a random suffix, as in x.jpg.3f2a1b4c.partial.
    if suffix.lower() in _UNFINISHED_SUFFIXES and {file_suffix(stem), file_suffix(Path(stem).stem)} & suffixes:
        return "an unfinished download; complete or delete it"
    if suffix.lower() == ".tmp" and name.startswith((".syncthing.", "~syncthing~")) and file_suffix(stem) in suffixes:
        return "an unfinished download; complete or delete it"
    return None


def _reason_to_ignore(entry: os.DirEntry[str]) -> str | None:
    name, lower = entry.name, entry.name.lower()
    if (
        name in _TRASH_FOLDERS
        or lower in _PROGRAM_NAMES
        or lower.startswith(_PROGRAM_PREFIXES)
        or lower.endswith(_PROGRAM_SUFFIXES)
    ):
        return FROM_PROGRAM
    if _FORMER_VERSION.fullmatch(lower) and not os.path.isdir(entry.path):  # a class may be called v1.0_original
        return FROM_PROGRAM
    return HIDDEN if name.startswith(".") else None


def _reason_to_ignore_thumbnails(
    entry: os.DirEntry[str], entries: list[os.DirEntry[str]], suffixes: frozenset[str]
) -> str | None:
    """Return the reason if an entry is a folder with a name such as `thumbs` next to images, or None."""
    if entry.name.lower() not in _THUMBNAIL_FOLDERS or not os.path.isdir(entry.path):
        return None
    return FROM_PROGRAM if any(file_suffix(other.name) in suffixes for other in entries) else None


def _list_ignored(entry: os.DirEntry[str], name: str) -> Iterator[str]:
    """Yield the name of an ignored file, or the names of all files in an ignored folder. Links are not followed."""
    if not entry.is_dir(follow_symlinks=False):
        yield name
        return
    try:
        with os.scandir(entry.path) as iterator:
            entries = list(iterator)
    except OSError:
        yield name
        return
    for child in entries:
        yield from _list_ignored(child, f"{name}/{child.name}")


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that `rr.data.image_decoding` can decode, in lower case."""
    Image.preinit()  # the most common formats, which Pillow then tries before the others
    formats = Image.registered_extensions()  # includes formats that Pillow can only write
    readable = Image.OPEN.keys() - UNDECODABLE_FORMATS
    # MPO, the format of some stereo cameras, is read as JPEG.
    return frozenset({suffix for suffix, name in formats.items() if name in readable} | {".mpo"})


def _reason_not_an_image(path: str, suffix: str) -> str | None:
    if suffix in image_suffixes():
        return OTHER_SUFFIX if suffix in _AMBIGUOUS_SUFFIXES and not _is_identified(path, None) else None
    if suffix in _HEIC_SUFFIXES:
        return HEIC_FORMAT
    if suffix in _UNSUPPORTED_SUFFIXES or suffix in Image.registered_extensions():
        return UNSUPPORTED_FORMAT
    if suffix in _ARCHIVE_SUFFIXES:
        return ARCHIVE
    if suffix == ".arrow":
        return ARROW
    if suffix in _NON_IMAGE_SUFFIXES:
        return OTHER_SUFFIX
    return MISNAMED_IMAGE if _is_identified(path, _SIGNED_FORMATS) else OTHER_SUFFIX


def _is_identified(path: str, formats: tuple[str, ...] | None) -> bool:
    """Return whether Pillow identifies a file as an image in one of the formats (None means all formats)."""
    try:
        with Image.open(path, formats=formats and [name for name in formats if name in Image.OPEN]):
            return True
    except (UnidentifiedImageError, OSError):
        return False
    except Exception:  # a damaged image, or one with too many pixels
        return True


def image_kind() -> FileKind:
    """Return the `FileKind` for all image files that Pillow can read."""
    return FileKind(image_suffixes(), _reason_not_an_image)


def describe_non_folder(path: Path) -> str:
    """Return what a path that should be an image folder actually is, to complete "… is not a folder".

    The text is empty if the path does not exist.

    Raises:
        UserError: if the path is a URL.
    """
    raise_if_url(path)
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        content = identify_unreadable_content(file.read(1024))
    if file_suffix(path.name) in (".npy", ".npz"):
        return " (it contains NumPy arrays; to read them, see 'Read another file format' in docs/guides/datasets.md)"
    if content:
        return f" ({content[0]})"
    is_image = file_suffix(path.name) in image_suffixes()
    return " (it is an image; use its folder)" if is_image else " (it is a file)"


def raise_if_url(path: Path) -> None:
    """Raise UserError if a path does not exist and looks like a URL, such as `https://…` or `s3://…`."""
    scheme = re.match("([A-Za-z][A-Za-z0-9+.-]+):/+", str(path))  # `Path` drops the second slash
    if scheme and not path.exists():
        url = f"{scheme[1]}://{str(path)[scheme.end() :]}"
        raise UserError(f"{display_name(url)} is a URL: download the files, and use the path of the local copy")


def file_suffix(name: str) -> str:
    """Return the suffix of a file name in lower case, such as ".jpg", or an empty string."""
    return os.path.splitext(name)[1].lower()
