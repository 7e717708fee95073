"""Tests of downloads from a local server with failures, and of reading untrusted archives."""

import bz2
import gzip
import hashlib
import io
import re
import socket
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rr.data import archive, download
from rr.data.archive import ArchiveLimits, extract_tar, open_tree
from rr.errors import UserError

DATA = np.random.default_rng(0).bytes(1_000_000)
MD5 = hashlib.md5(DATA).hexdigest()
MONDAY, TUESDAY = "Mon, 05 Jan 2026 09:30:00 GMT", "Tue, 06 Jan 2026 09:30:00 GMT"


class Server:
    """A local HTTP server that serves `data`, records the requests, and fails as its attributes specify."""

    def __init__(self) -> None:
        self.data = DATA
        self.etag: str | None = '"first"'
        self.last_modified: str | None = None
        self.supports_ranges = True
        self.statuses: list[int] = []  # error codes of the next responses
        self.cut_after: list[int] = []  # number of bytes after which the next responses end
        self.shifts: list[int] = []  # number of bytes by which the next parts start too late
        self.send_length = True
        self.content_type = "application/gzip"
        self.requested_paths: list[str] = []
        self.requested_ranges: list[str | None] = []
        self.sent_bytes: list[int] = []  # of each response
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.respond(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/set.tar.gz"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        self.requested_paths.append(request.path)
        requested = request.headers.get("Range")
        self.requested_ranges.append(requested)
        if self.statuses:
            return request.send_error(self.statuses.pop(0))
        start = 0
        validator = request.headers.get("If-Range")
        is_weak = (validator or "").startswith("W/")  # a weak ETag never matches (RFC 9110, section 13.1.5)
        if requested and self.supports_ranges and not is_weak and validator in (None, self.etag, self.last_modified):
            start = int(re.fullmatch(r"bytes=(\d+)-", requested)[1]) + (self.shifts.pop(0) if self.shifts else 0)
        if start and start >= len(self.data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.data)}")
            request.end_headers()
            return None
        request.send_response(206 if start else 200)
        request.send_header("Content-Type", self.content_type)
        if self.etag:
            request.send_header("ETag", self.etag)
        if self.last_modified:
            request.send_header("Last-Modified", self.last_modified)
        if self.send_length:
            request.send_header("Content-Length", str(len(self.data) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        request.end_headers()
        body = self.data[start:]
        body = body[: self.cut_after.pop(0)] if self.cut_after else body
        self.sent_bytes.append(len(body))
        request.wfile.write(body)
        return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "RETRY_DELAYS", (0.0, 0.0))
    server = Server()
    yield server
    server.close()


def error_of(call: Callable[[], object], expected: str) -> str:
    """Check that the call raises a UserError that contains `expected`, and return its message."""
    with pytest.raises(UserError) as caught:
        call()
    assert expected in str(caught.value)
    return str(caught.value)


class TestDownload:
    def test_complete_file_is_not_requested_again(self, server: Server, tmp_path: Path) -> None:
        target = tmp_path / "new/set.tar.gz"
        download.download_file(server.url, target, MD5)
        assert target.read_bytes() == DATA
        assert [path.name for path in target.parent.iterdir()] == ["set.tar.gz"]
        download.download_file(server.url, target, MD5)
        assert server.requested_ranges == [None]

    def test_proxy_of_the_environment_is_used(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(urllib.request, "_opener", None)  # it would keep the proxies of its first use
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/set.tar.gz"))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        download.download_file("http://images.invalid/set.tar.gz", tmp_path / "set", MD5)
        assert (tmp_path / "set").read_bytes() == DATA
        assert server.requested_paths == ["http://images.invalid/set.tar.gz"]

    def test_existing_file_with_wrong_checksum_raises(self, server: Server, tmp_path: Path) -> None:
        target = tmp_path / "set.tar.gz"
        target.write_bytes(b"something else")
        error_of(lambda: download.download_file(server.url, target, MD5), "wrong checksum")
        assert target.read_bytes() == b"something else"

    @pytest.mark.parametrize(("etag", "last_modified"), [('"first"', None), (None, None), ('W/"first"', MONDAY)])
    def test_interrupted_download_resumes(
        self, server: Server, tmp_path: Path, etag: str | None, last_modified: str | None
    ) -> None:
        server.etag, server.last_modified = etag, last_modified
        server.cut_after = [400_000, 250_000]
        download.download_file(server.url, tmp_path / "set", MD5)
        assert (tmp_path / "set").read_bytes() == DATA
        assert server.sent_bytes == [400_000, 250_000, 350_000]
        assert server.requested_ranges == [None, "bytes=400000-", "bytes=650000-"]

    def test_next_run_resumes_download(self, server: Server, tmp_path: Path) -> None:
        server.cut_after = [300_000, 0, 0]
        message = error_of(
            lambda: download.download_file(server.url, tmp_path / "set", MD5), "resumes after 300,000 bytes"
        )
        assert "300,000 of 1,000,000 bytes" in message
        assert not (tmp_path / "set").exists()
        download.download_file(server.url, tmp_path / "set", MD5)
        assert server.sent_bytes[-1] == 700_000
        assert (tmp_path / "set").read_bytes() == DATA

    def test_attempt_that_receives_bytes_resets_retries(self, server: Server, tmp_path: Path) -> None:
        server.cut_after = [100_000] * 9
        download.download_file(server.url, tmp_path / "set", MD5)
        assert server.sent_bytes == [100_000] * 10

    def test_server_without_ranges_restarts_download(self, server: Server, tmp_path: Path) -> None:
        server.supports_ranges, server.cut_after = False, [400_000]
        download.download_file(server.url, tmp_path / "set", MD5)
        assert server.sent_bytes == [400_000, 1_000_000]
        assert (tmp_path / "set").read_bytes() == DATA

    @pytest.mark.parametrize(
        ("first", "second"), [(('"first"', MONDAY), ('"second"', MONDAY)), (('W/"x"', MONDAY), ('W/"x"', TUESDAY))]
    )
    def test_changed_file_restarts_download(self, server: Server, tmp_path: Path, first: tuple, second: tuple) -> None:
        server.etag, server.last_modified = first
        server.cut_after = [400_000, 0, 0]
        error_of(lambda: download.download_file(server.url, tmp_path / "set"), "cannot download")
        server.data = DATA[::-1]
        server.etag, server.last_modified = second
        download.download_file(server.url, tmp_path / "set")
        assert (tmp_path / "set").read_bytes() == DATA[::-1]

    def test_part_that_was_not_requested_restarts_download(self, server: Server, tmp_path: Path) -> None:
        server.cut_after, server.shifts = [999_000], [500]
        download.download_file(server.url, tmp_path / "set", MD5)
        assert server.requested_ranges == [None, "bytes=999000-", None]
        assert (tmp_path / "set").read_bytes() == DATA

    def test_shorter_file_restarts_download(self, server: Server, tmp_path: Path) -> None:
        server.etag, server.cut_after = None, [400_000, 0, 0]
        error_of(lambda: download.download_file(server.url, tmp_path / "set"), "cannot download")
        server.data = DATA[:1000]
        download.download_file(server.url, tmp_path / "set")
        assert (tmp_path / "set").read_bytes() == DATA[:1000]

    def test_complete_part_requests_no_bytes(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "set.part").write_bytes(DATA)
        download.download_file(server.url, tmp_path / "set", MD5)
        assert server.sent_bytes == []
        assert (tmp_path / "set").read_bytes() == DATA

    def test_response_without_length_is_downloaded(self, server: Server, tmp_path: Path) -> None:
        server.send_length = False
        download.download_file(server.url, tmp_path / "set", MD5)
        assert (tmp_path / "set").read_bytes() == DATA

    def test_wrong_checksum_raises_and_keeps_part(self, server: Server, tmp_path: Path) -> None:
        message = error_of(
            lambda: download.download_file(server.url, tmp_path / "set", "0" * 32), "set.part: wrong checksum"
        )
        assert "0" * 32 in message
        assert MD5 in message
        assert "Delete this file and download it again" in message
        assert (tmp_path / "set.part").read_bytes() == DATA
        assert not (tmp_path / "set").exists()

    @pytest.mark.parametrize(("kind", "page"), [("text/html; charset=utf-8", b"Log in"), ("x/y", b"\n<!DOCTYPE HTML>")])
    def test_web_page_raises(self, server: Server, tmp_path: Path, kind: str, page: bytes) -> None:
        server.content_type, server.data = kind, page
        error_of(
            lambda: download.download_file(server.url, tmp_path / "set"), "returned a web page instead of the file"
        )
        assert not list(tmp_path.iterdir())

    def test_permanent_error_is_not_retried(self, server: Server, tmp_path: Path) -> None:
        server.statuses = [404]
        message = error_of(
            lambda: download.download_file(server.url, tmp_path / "set"), "the server answered 404 Not Found"
        )
        assert server.url in message
        assert "--from" in message
        assert len(server.requested_ranges) == 1

    def test_temporary_error_is_retried(self, server: Server, tmp_path: Path) -> None:
        server.statuses = [503, 429]
        download.download_file(server.url, tmp_path / "set", MD5)
        assert len(server.requested_ranges) == 3

    def test_refused_connection_raises(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "RETRY_DELAYS", (0.0, 0.0))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        message = error_of(lambda: download.download_file(f"http://127.0.0.1:{port}/x", tmp_path / "set"), "refused")
        assert "check the network" in message

    def test_silent_server_times_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "RETRY_DELAYS", ())
        monkeypatch.setattr(download, "TIMEOUT", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
            error_of(lambda: download.download_file(url, tmp_path / "set"), "timed out")

    def test_full_disk_is_not_a_network_error(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "set.part").symlink_to("/dev/full")
        monkeypatch.setattr(download, "_file_size", lambda path: 0)
        with pytest.raises(OSError, match="No space left"):
            download.download_file(server.url, tmp_path / "set")


LIMITS = ArchiveLimits(max_bytes=20_000, max_members=5)


def make_tar(path: Path, *members: tuple[str, object]) -> Path:
    """Write a tar archive of members (name, bytes) or (name, (type of link, target))."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = content
                tar.addfile(entry)
    return path


def make_zip(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


UNSAFE_MEMBERS = [
    ((("../out", b"x"),), "../out lies outside"),
    ((("a/../../out", b"x"),), "a/../../out lies outside"),
    ((("/tmp/out", b"x"),), "/tmp/out lies outside"),
    ((("ok", b"x"), ("zeros", bytes(20_000))), "it expands to more than 20,000 bytes, at member zeros"),
    (tuple((f"{i}", b"") for i in range(6)), "it has more than 5 members, at member 5"),
]


class TestArchives:
    @pytest.mark.parametrize("make", [make_tar, make_zip])
    def test_visible_files_are_listed_and_read(self, tmp_path: Path, make: Callable) -> None:
        path = make(tmp_path / "set", ("b/2", b"two"), ("a/1", b"one"), ("a/.DS_Store", b"?"), ("__MACOSX/a/1", b"?"))
        tree = open_tree(path, tmp_path / "extracted", LIMITS)
        assert [(name, tree.read(name)) for name in tree.names] == [("a/1", b"one"), ("b/2", b"two")]
        assert (tmp_path / "extracted").exists() == (make is make_tar)
        if make is make_tar:
            assert open_tree(tmp_path / "extracted", tmp_path / "unused", LIMITS).names == tree.names

    @pytest.mark.parametrize(("members", "expected"), UNSAFE_MEMBERS)
    @pytest.mark.parametrize("make", [make_tar, make_zip])
    def test_unsafe_member_raises_and_leaves_no_files(
        self, tmp_path: Path, make: Callable, members: tuple, expected: str
    ) -> None:
        path = make(tmp_path / "set", *members)
        message = error_of(lambda: open_tree(path, tmp_path / "deep/extracted", LIMITS), expected)
        assert "is not used, because it is not the expected dataset" in message
        assert [item.name for item in tmp_path.rglob("*") if item.is_file()] == ["set"]

    def test_zip_bomb_raises(self, tmp_path: Path) -> None:
        limits = ArchiveLimits(max_bytes=1 << 20, max_members=10)
        path = make_zip(tmp_path / "set", ("zeros", bytes(20 << 20)))
        assert path.stat().st_size < 100_000
        error_of(lambda: open_tree(path, tmp_path / "extracted", limits), "more than 1,048,576 bytes")

    def test_zip_member_larger_than_declared_raises(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "set", ("zeros", bytes(1_000_000)))
        true_size = (1_000_000).to_bytes(4, "little")
        assert path.read_bytes().count(true_size) == 2
        path.write_bytes(path.read_bytes().replace(true_size, (1000).to_bytes(4, "little")))
        tree = open_tree(path, tmp_path / "extracted", LIMITS)
        error_of(lambda: tree.read("zeros"), "is damaged (zeros: Bad CRC-32")

    @pytest.mark.parametrize(
        "link",
        [
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.SYMTYPE, "../../out"),
            (tarfile.LNKTYPE, "/etc/passwd"),
            (tarfile.FIFOTYPE, ""),
        ],
    )
    def test_links_and_pipes_raise(self, tmp_path: Path, link: tuple) -> None:
        path = make_tar(tmp_path / "set", ("a", b"x"), ("odd", link))
        error_of(lambda: extract_tar(path, tmp_path / "extracted", LIMITS), "odd is neither a file nor a folder")
        assert not (tmp_path / "extracted").exists()

    @pytest.mark.parametrize(
        "make",
        [
            lambda path: make_zip(path, ("a", DATA)),
            lambda path: make_tar(path, ("a", DATA)),
            lambda path: path.write_bytes(bz2.compress(make_tar(path, ("a", DATA)).read_bytes())) and path,
        ],
    )
    @pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
    def test_truncated_archive_raises(self, tmp_path: Path, make: Callable, keep: float) -> None:
        path = make(tmp_path / "set")
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        error_of(
            lambda: open_tree(path, tmp_path / "extracted", ArchiveLimits(1 << 30, 10)),
            f"{path} is damaged or not a zip or tar archive (",
        )
        assert not (tmp_path / "extracted").exists()

    @pytest.mark.parametrize("content", [b"", b"Rar!\x1a\x07\x01\x00", b"<html>not found</html>"])
    def test_file_that_is_no_archive_raises_one_line(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "set").write_bytes(content)
        expected = f"{tmp_path / 'set'} is damaged or not a zip or tar archive (it cannot be opened): replace this file"
        message = error_of(lambda: open_tree(tmp_path / "set", tmp_path / "extracted", LIMITS), expected)
        assert message.endswith("with a new download of the official archive, or use another copy with --from")

    def test_git_lfs_pointer_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "set.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        expected = "set.zip is a Git LFS pointer instead of the file: run `git lfs pull`"
        error_of(lambda: open_tree(tmp_path / "set.zip", tmp_path / "extracted", LIMITS), expected)

    def test_changed_byte_in_zip_raises(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "set", "w") as file:
            file.writestr("good", b"untouched")
            file.writestr("bad", b"content")
        path = tmp_path / "set"
        path.write_bytes(path.read_bytes().replace(b"content", b"conteNt"))
        tree = open_tree(path, tmp_path / "extracted", LIMITS)
        assert tree.read("good") == b"untouched"
        error_of(lambda: tree.read("bad"), "is damaged (bad: Bad CRC-32")

    def test_changed_byte_in_tar_raises(self, tmp_path: Path) -> None:
        path = make_tar(tmp_path / "set", ("a", DATA))
        content = bytearray(path.read_bytes())
        content[500_000] ^= 0xFF
        path.write_bytes(content)
        error_of(lambda: extract_tar(path, tmp_path / "extracted", ArchiveLimits(1 << 30, 10)), "is damaged")

    def test_data_after_the_last_member_counts_towards_the_limit(self, tmp_path: Path) -> None:
        path = make_tar(tmp_path / "set", ("a", b"x"))
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100_000)))
        error_of(
            lambda: extract_tar(path, tmp_path / "extracted", LIMITS),
            "it expands to more than 20,000 bytes, at member data after the last member",
        )
        assert not (tmp_path / "extracted").exists()

    def test_python_without_extraction_filters(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Python 3.11.0 to 3.11.3 have none."""
        monkeypatch.setattr(archive, "_EXTRACTION_FILTER", {})
        extract_tar(make_tar(tmp_path / "set", ("a", DATA)), tmp_path / "extracted", ArchiveLimits(1 << 30, 10))
        assert (tmp_path / "extracted/a").read_bytes() == DATA

    def test_archive_inside_target_folder_is_not_deleted(self, tmp_path: Path) -> None:
        path = make_tar(tmp_path / "set", ("a", b"x"))
        error_of(lambda: archive.extract_tar(path, tmp_path, LIMITS), "move this archive to another folder")
        assert path.exists()
