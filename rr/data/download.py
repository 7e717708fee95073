"""Download files over HTTP.

Interrupted downloads are resumed. A file gets its final name only once it is complete and its checksum is correct.
"""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rr.errors import UserError, raise_if_lfs_pointer
from rr.runtime.progress import Progress

TIMEOUT = 60.0  # seconds without any data after which a connection is closed
RETRY_DELAYS = (1.0, 4.0, 15.0)  # seconds before each retry; the sequence restarts after an attempt that received data
_CHUNK_SIZE = 1 << 18
_RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes of temporary errors
_OR_LOCAL_COPY = "or use a local copy with --from"
_DOWNLOAD_AGAIN = "delete this file and download it again, or use another copy with --from"


class _NetworkError(Exception):
    """The download failed or was interrupted. A retry may succeed."""


def download_file(url: str, path: Path, md5: str | None = None) -> None:
    """Download `url` to `path`, unless the file exists, and verify its checksum if `md5` is given.

    The received bytes are kept in `path` + ".part". The next attempt requests the rest (HTTP Range), provided that the
    file on the server has not changed (If-Range). If the server sends the whole file again, the download starts over.

    Raises:
        UserError: if the server refuses the request or returns a web page, if the network fails, or if the checksum
            differs.
    """
    if path.exists():
        return check_md5(path, md5)
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    delays = iter(RETRY_DELAYS)
    while True:
        size_before = _file_size(part)
        try:
            _download_rest(url, part)
            break
        except _NetworkError as error:
            if _file_size(part) > size_before:
                delays = iter(RETRY_DELAYS)
            delay = next(delays, None)
            if delay is None:
                raise UserError(
                    f"cannot download {url} ({error}): check the network and run the same command again (the download "
                    f"resumes after {_file_size(part):,} bytes), {_OR_LOCAL_COPY}"
                ) from error
            time.sleep(delay)
    check_md5(part, md5)
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    _validator_path(part).unlink(missing_ok=True)
    return None


def check_md5(path: Path, md5: str | None, remedy: str = _DOWNLOAD_AGAIN) -> None:
    """Raise UserError if the MD5 of the file differs from `md5` (32 hexadecimal digits); None accepts any file."""
    if md5 is not None and (actual := file_md5(path)) != md5:
        raise_if_lfs_pointer(path)
        raise UserError(f"{path}: wrong checksum: expected md5 {md5}, got {actual}; {remedy}")


def file_md5(path: Path) -> str:
    """Return a file's MD5. Many datasets publish this checksum; it detects accidental damage, but not tampering."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download_rest(url: str, part: Path) -> None:
    """Append the missing bytes of `url` to `part`. Raise _NetworkError if not all of them arrive."""
    size = _file_size(part)
    response = _request_rest(url, part, size)
    if response is None:
        return
    with response:
        is_rest = response.status == 206
        if not is_rest:
            size = 0
        elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {size}-"):
            part.unlink()
            raise _NetworkError("the server sent a different part of the file than requested")
        length = response.headers.get("Content-Length")
        total = size + int(length) if length and length.isdigit() else None
        chunk = _read_chunk(response)
        if response.headers.get_content_type() == "text/html" or (not is_rest and _is_html(chunk)):
            raise UserError(
                f"{url} returned a web page instead of the file: the file may have moved, or this network may "
                f"require a login; open the address in a browser and try again, {_OR_LOCAL_COPY}"
            )
        _save_validator(response.headers, _validator_path(part))
        with (
            open(part, "ab" if is_rest else "wb") as file,
            Progress(f"download {part.stem}", total, "bytes", size) as progress,
        ):
            while chunk:
                file.write(chunk)
                size += len(chunk)
                progress.advance(len(chunk))
                chunk = _read_chunk(response)
        if total is not None and size < total:
            raise _NetworkError(f"the connection ended after {size:,} of {total:,} bytes")


def _request_rest(url: str, part: Path, size: int) -> http.client.HTTPResponse | None:
    """Request the bytes of `url` after the first `size`, which are in `part`. Return None if no bytes are missing.

    Raises:
        UserError: if the server refuses the request.
        _NetworkError: if the server cannot be reached or returns a temporary error, or if its file is shorter than
            `part`, which is then deleted.
    """
    headers = {"User-Agent": "rr"}
    if size:
        headers["Range"] = f"bytes={size}-"
        if (validator_path := _validator_path(part)).exists():
            headers["If-Range"] = validator_path.read_text(encoding="utf-8")
    try:
        with _translate_network_errors():
            request = urllib.request.Request(url, headers=headers)
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
            return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise UserError(
                f"cannot download {url} (the server returned {error.code} {error.reason}): the file may have "
                f"moved; try again later, {_OR_LOCAL_COPY}"
            ) from error
        # The server has no further bytes: either the download is complete, or the file on the server is shorter.
        if (error.headers.get("Content-Range") or "") == f"bytes */{size}":
            return None
        part.unlink()
        raise _NetworkError("the file on the server is shorter than the part received earlier") from error


def _read_chunk(response: http.client.HTTPResponse) -> bytes:
    with _translate_network_errors():
        return response.read1(_CHUNK_SIZE)


@contextmanager
def _translate_network_errors() -> Iterator[None]:
    """Convert network errors to _NetworkError, to distinguish them from disk errors, which are also OSErrors."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code not in _RETRY_STATUS:
            raise
        error.close()
        raise _NetworkError(f"the server returned {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _NetworkError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(str(error) or type(error).__name__) from error


def _save_validator(headers: http.client.HTTPMessage, validator_path: Path) -> None:
    """Save the header that identifies this version of the file, for If-Range.

    A weak ETag does not guarantee equal bytes, so it is not used (RFC 9110, section 13.1.5).
    """
    etag = headers.get("ETag") or ""
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    if validator:
        validator_path.write_text(validator, encoding="utf-8")
    else:
        validator_path.unlink(missing_ok=True)


def _validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _file_size(path: Path) -> int:
    """Return the size of a file in bytes, or 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def _is_html(chunk: bytes) -> bool:
    return chunk[:1000].lstrip().lower().startswith((b"<!doctype html", b"<html"))
