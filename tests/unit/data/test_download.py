"""Tests of downloads from a local server that simulates failures."""

import hashlib
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import error_of

from rr.data import download

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
        assert "delete this file and download it again" in message
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
            lambda: download.download_file(server.url, tmp_path / "set"), "the server returned 404 Not Found"
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
