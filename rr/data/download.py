"""Files from the network: they go on where they stopped, and take their name only when they are complete and right."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rr.errors import UserError
from rr.runtime.progress import Progress

TIMEOUT = 60.0  # seconds without a byte
WAITS = (1.0, 4.0, 15.0)  # seconds before each further try; counted anew after every try that brought something
_CHUNK = 1 << 18
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may change
_ELSEWHERE = "or name a copy on this machine with --from"


class _Broken(Exception):
    """The network failed: another try may help."""


def download(url: str, target: Path, md5: str | None = None) -> None:
    """Bring `url` to `target`, unless it is there; then compare it with `md5`, where that is known.

    What has arrived stands in `target` + ".part". The next try asks for the rest of it (HTTP Range), on condition that
    the file is still the same one (If-Range); a server that sends the whole file again is heard from the start.
    Raises UserError for a refusal, a network that stays away, a web page in place of the file, and a wrong checksum.
    """
    part = target.with_name(f"{target.name}.part")
    if not target.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        waits = iter(WAITS)
        while True:
            before = _size(part)
            try:
                _receive(url, part)
                break
            except _Broken as error:
                if _size(part) > before:
                    waits = iter(WAITS)
                wait = next(waits, None)
                if wait is None:
                    raise UserError(
                        f"cannot download {url} ({error}): check the network and run the same command again, which "
                        f"goes on after {_size(part):,} bytes, {_ELSEWHERE}"
                    ) from error
                time.sleep(wait)
        verify(part, md5)
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(part, target)
        _validator(part).unlink(missing_ok=True)
    else:
        verify(target, md5)


def verify(path: Path, md5: str | None) -> None:
    """Raises UserError where the file at `path` is not the one with checksum `md5` (32 hexadecimal digits)."""
    if md5 is not None and (found := md5_of(path)) != md5:
        raise UserError(
            f"{path}: wrong checksum, md5 {md5} expected, {found} found: delete it and let rr download it again, "
            "or name another copy with --from"
        )


def md5_of(path: Path) -> str:
    """The md5 of a file's bytes, as data sets are published with; it guards against accidents, not against forgers."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _receive(url: str, part: Path) -> None:
    """Append the rest of `url` to `part`. Raises _Broken when less than that arrives."""
    start, validator = _size(part), _validator(part)
    headers = {"User-Agent": "rr"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator.exists():
            headers["If-Range"] = validator.read_text()
    with ExitStack() as stack:
        try:
            with _network():
                answer = stack.enter_context(
                    urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
                )
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 416:
                raise UserError(
                    f"cannot download {url} (the server answers {error.code} {error.reason}): it may have moved; try "
                    f"again later, {_ELSEWHERE}"
                ) from error
            # Nothing lies beyond our bytes. Either they are the whole file, or the server's has shrunk.
            if (error.headers.get("Content-Range") or "") == f"bytes */{start}":
                return
            part.unlink()
            raise _Broken("the file on the server is shorter than what had arrived") from error
        resumed = answer.status == 206
        if not resumed:
            start = 0
        elif not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _Broken("the server sent another part of the file than was asked for")
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        with _network():
            chunk = answer.read1(_CHUNK)
        if answer.headers.get_content_type() == "text/html" or (not resumed and _is_page(chunk)):
            raise UserError(
                f"{url} is a web page and not the file: it may have moved, or this network asks for a login first; "
                f"try again later, {_ELSEWHERE}"
            )
        _remember(answer.headers, validator)
        file = stack.enter_context(open(part, "ab" if resumed else "wb"))
        # A server need not say how long the file is.
        progress = stack.enter_context(Progress(f"download {part.stem}", total, "bytes", start)) if total else None
        while chunk:
            file.write(chunk)
            start += len(chunk)
            if progress:
                progress.advance(len(chunk))
            with _network():
                chunk = answer.read1(_CHUNK)
        if total is not None and start < total:
            raise _Broken(f"the connection ended after {start:,} of {total:,} bytes")


@contextmanager
def _network() -> Iterator[None]:
    """Tell failures of the network from those of the disk, which are OSErrors as well."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code not in _BUSY:
            raise
        error.close()
        raise _Broken(f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Broken(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from error


def _remember(headers: http.client.HTTPMessage, validator: Path) -> None:
    """Keep what names this version of the file; a weak ETag is none that bytes may be joined by (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag") or ""
    known = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    if known:
        validator.write_text(known)
    else:
        validator.unlink(missing_ok=True)


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_page(first: bytes) -> bool:
    return first[:1000].lstrip().lower().startswith((b"<!doctype html", b"<html"))
