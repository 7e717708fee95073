"""Downloads against a server on this machine that misbehaves, and archives that nobody should trust."""

import bz2
import hashlib
import io
import re
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rr.data import archive, download
from rr.data.archive import Limits, open_tree, unpack
from rr.errors import UserError

DATA = np.random.default_rng(0).bytes(1_000_000)
MD5 = hashlib.md5(DATA).hexdigest()


class Server:
    """Serves `data`; counts the bytes of each answer, and does as its switches say."""

    def __init__(self) -> None:
        self.data = DATA
        self.etag: str | None = '"first"'
        self.ranges = True
        self.status: list[int] = []  # refusals to answer with, before anything else
        self.cut: list[int] = []  # after how many bytes to end the next answers
        self.length = True
        self.kind = "application/gzip"
        self.asked: list[str | None] = []  # the Range of each request
        self.served: list[int] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

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

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if self.status:
            return request.send_error(self.status.pop(0))
        start = 0
        if wanted and self.ranges and request.headers.get("If-Range") in (None, self.etag):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start and start >= len(self.data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.data)}")
            request.end_headers()
            return None
        request.send_response(206 if start else 200)
        request.send_header("Content-Type", self.kind)
        if self.etag:
            request.send_header("ETag", self.etag)
        if self.length:
            request.send_header("Content-Length", str(len(self.data) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        request.end_headers()
        body = self.data[start:]
        body = body[: self.cut.pop(0)] if self.cut else body
        self.served.append(len(body))
        request.wfile.write(body)
        return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    running = Server()
    yield running
    running.close()


def refused(call: Callable[[], object], expected: str) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert expected in str(caught.value)
    return str(caught.value)


class TestDownload:
    def test_a_file_arrives_whole_and_is_not_asked_for_again(self, server: Server, tmp_path: Path) -> None:
        target = tmp_path / "new/set.tar.gz"
        download.download(server.url, target, MD5)
        assert target.read_bytes() == DATA
        assert [path.name for path in target.parent.iterdir()] == ["set.tar.gz"]
        download.download(server.url, target, MD5)
        assert server.asked == [None]

    def test_a_file_that_is_there_is_compared_too(self, server: Server, tmp_path: Path) -> None:
        target = tmp_path / "set.tar.gz"
        target.write_bytes(b"something else")
        refused(lambda: download.download(server.url, target, MD5), "wrong checksum")
        assert target.read_bytes() == b"something else"

    @pytest.mark.parametrize("etag", ['"first"', None])
    def test_an_interrupted_download_goes_on(self, server: Server, tmp_path: Path, etag: str | None) -> None:
        server.etag = etag
        server.cut = [400_000, 250_000]
        download.download(server.url, tmp_path / "set", MD5)
        assert (tmp_path / "set").read_bytes() == DATA
        assert server.served == [400_000, 250_000, 350_000]
        assert server.asked == [None, "bytes=400000-", "bytes=650000-"]

    def test_so_does_the_next_run(self, server: Server, tmp_path: Path) -> None:
        server.cut = [300_000, 0, 0]
        message = refused(lambda: download.download(server.url, tmp_path / "set", MD5), "goes on after 300,000 bytes")
        assert "300,000 of 1,000,000 bytes" in message
        assert not (tmp_path / "set").exists()
        download.download(server.url, tmp_path / "set", MD5)
        assert server.served[-1] == 700_000
        assert (tmp_path / "set").read_bytes() == DATA

    def test_tries_that_bring_something_do_not_count(self, server: Server, tmp_path: Path) -> None:
        server.cut = [100_000] * 9
        download.download(server.url, tmp_path / "set", MD5)
        assert server.served == [100_000] * 10

    def test_a_server_without_ranges_is_heard_from_the_start(self, server: Server, tmp_path: Path) -> None:
        server.ranges, server.cut = False, [400_000]
        download.download(server.url, tmp_path / "set", MD5)
        assert server.served == [400_000, 1_000_000]
        assert (tmp_path / "set").read_bytes() == DATA

    def test_halves_of_two_versions_are_never_joined(self, server: Server, tmp_path: Path) -> None:
        server.cut = [400_000, 0, 0]
        refused(lambda: download.download(server.url, tmp_path / "set"), "cannot download")
        server.data, server.etag = DATA[::-1], '"second"'
        download.download(server.url, tmp_path / "set")
        assert (tmp_path / "set").read_bytes() == DATA[::-1]

    def test_a_file_that_has_shrunk_begins_anew(self, server: Server, tmp_path: Path) -> None:
        server.etag, server.cut = None, [400_000, 0, 0]
        refused(lambda: download.download(server.url, tmp_path / "set"), "cannot download")
        server.data = DATA[:1000]
        download.download(server.url, tmp_path / "set")
        assert (tmp_path / "set").read_bytes() == DATA[:1000]

    def test_a_complete_part_needs_no_further_byte(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "set.part").write_bytes(DATA)
        download.download(server.url, tmp_path / "set", MD5)
        assert server.served == []
        assert (tmp_path / "set").read_bytes() == DATA

    def test_a_server_that_does_not_say_how_long_it_is(self, server: Server, tmp_path: Path) -> None:
        server.length = False
        download.download(server.url, tmp_path / "set", MD5)
        assert (tmp_path / "set").read_bytes() == DATA

    def test_a_wrong_checksum_is_said_and_nothing_deleted(self, server: Server, tmp_path: Path) -> None:
        message = refused(lambda: download.download(server.url, tmp_path / "set", "0" * 32), "set.part: wrong checksum")
        assert "0" * 32 in message
        assert MD5 in message
        assert "delete it and let rr download it again" in message
        assert (tmp_path / "set.part").read_bytes() == DATA
        assert not (tmp_path / "set").exists()

    @pytest.mark.parametrize(("kind", "page"), [("text/html; charset=utf-8", b"Log in"), ("x/y", b"\n<!DOCTYPE HTML>")])
    def test_a_web_page_is_no_archive(self, server: Server, tmp_path: Path, kind: str, page: bytes) -> None:
        server.kind, server.data = kind, page
        refused(lambda: download.download(server.url, tmp_path / "set"), "is a web page and not the file")
        assert not list(tmp_path.iterdir())

    def test_a_refusal_is_final(self, server: Server, tmp_path: Path) -> None:
        server.status = [404]
        message = refused(lambda: download.download(server.url, tmp_path / "set"), "the server answers 404 Not Found")
        assert server.url in message
        assert "--from" in message
        assert len(server.asked) == 1

    def test_a_busy_server_is_asked_again(self, server: Server, tmp_path: Path) -> None:
        server.status = [503, 429]
        download.download(server.url, tmp_path / "set", MD5)
        assert len(server.asked) == 3

    def test_nobody_listens(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        message = refused(lambda: download.download(f"http://127.0.0.1:{port}/x", tmp_path / "set"), "refused")
        assert "check the network" in message

    def test_a_server_that_falls_silent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "WAITS", ())
        monkeypatch.setattr(download, "TIMEOUT", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
            refused(lambda: download.download(url, tmp_path / "set"), "timed out")

    def test_a_full_disk_is_not_mistaken_for_the_network(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "set.part").symlink_to("/dev/full")
        monkeypatch.setattr(download, "_size", lambda path: 0)
        with pytest.raises(OSError, match="No space left"):
            download.download(server.url, tmp_path / "set")


SMALL = Limits(size=20_000, members=5)


def make_tar(path: Path, *members: tuple[str, object]) -> Path:
    """Members are (name, bytes) or (name, (kind of link, where it leads))."""
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


BAD_NAMES = [
    ((("../out", b"x"),), "../out leads out"),
    ((("a/../../out", b"x"),), "a/../../out leads out"),
    ((("/tmp/out", b"x"),), "/tmp/out leads out"),
    ((("ok", b"x"), ("zeros", bytes(20_000))), "with zeros it unpacks to more than 20,000 bytes"),
    (tuple((f"{i}", b"") for i in range(6)), "with 5 it has more than 5 members"),
]


class TestArchives:
    @pytest.mark.parametrize("make", [make_tar, make_zip])
    def test_the_files_and_their_bytes(self, tmp_path: Path, make: Callable) -> None:
        path = make(tmp_path / "set", ("b/2", b"two"), ("a/1", b"one"), ("a/.DS_Store", b"?"), ("__MACOSX/a/1", b"?"))
        tree = open_tree(path, tmp_path / "scratch", SMALL)
        assert [(name, tree.read(name)) for name in tree.names] == [("a/1", b"one"), ("b/2", b"two")]
        assert (tmp_path / "scratch").exists() == (make is make_tar)
        if make is make_tar:
            again = open_tree(tmp_path / "scratch", tmp_path / "unused", SMALL)
            assert again.names == tree.names

    @pytest.mark.parametrize(("members", "expected"), BAD_NAMES)
    @pytest.mark.parametrize("make", [make_tar, make_zip])
    def test_what_leads_out_or_grows_is_refused(
        self, tmp_path: Path, make: Callable, members: tuple, expected: str
    ) -> None:
        path = make(tmp_path / "set", *members)
        message = refused(lambda: open_tree(path, tmp_path / "deep/scratch", SMALL), expected)
        assert "nothing of it is used" in message
        assert [item.name for item in tmp_path.rglob("*") if item.is_file()] == ["set"]

    def test_a_small_archive_that_would_fill_the_disk(self, tmp_path: Path) -> None:
        limits = Limits(size=1 << 20, members=10)
        path = make_zip(tmp_path / "set", ("zeros", bytes(20 << 20)))
        assert path.stat().st_size < 100_000
        refused(lambda: open_tree(path, tmp_path / "scratch", limits), "more than 1,048,576 bytes")

    def test_a_zip_that_lies_about_its_size_gives_no_more_than_it_says(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "set", ("zeros", bytes(1_000_000)))
        honest = (1_000_000).to_bytes(4, "little")
        assert path.read_bytes().count(honest) == 2
        path.write_bytes(path.read_bytes().replace(honest, (1000).to_bytes(4, "little")))
        tree = open_tree(path, tmp_path / "scratch", SMALL)
        refused(lambda: tree.read("zeros"), "is damaged (zeros: Bad CRC-32")

    @pytest.mark.parametrize(
        "link",
        [
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.SYMTYPE, "../../out"),
            (tarfile.LNKTYPE, "/etc/passwd"),
            (tarfile.FIFOTYPE, ""),
        ],
    )
    def test_links_and_pipes_are_refused(self, tmp_path: Path, link: tuple) -> None:
        path = make_tar(tmp_path / "set", ("a", b"x"), ("odd", link))
        refused(lambda: unpack(path, tmp_path / "scratch", SMALL), "odd is neither a file nor a folder")
        assert not (tmp_path / "scratch").exists()

    @pytest.mark.parametrize(
        "make",
        [
            lambda path: make_zip(path, ("a", DATA)),
            lambda path: make_tar(path, ("a", DATA)),
            lambda path: path.write_bytes(bz2.compress(make_tar(path, ("a", DATA)).read_bytes())) and path,
        ],
    )
    @pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
    def test_a_truncated_archive(self, tmp_path: Path, make: Callable, keep: float) -> None:
        path = make(tmp_path / "set")
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        refused(
            lambda: open_tree(path, tmp_path / "scratch", Limits(1 << 30, 10)), f"{path} is damaged, or no zip or tar ("
        )
        assert not (tmp_path / "scratch").exists()

    def test_a_changed_byte_in_a_zip(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "set", "w") as file:
            file.writestr("good", b"untouched")
            file.writestr("bad", b"picture")
        path = tmp_path / "set"
        path.write_bytes(path.read_bytes().replace(b"picture", b"pictuRe"))
        tree = open_tree(path, tmp_path / "scratch", SMALL)
        assert tree.read("good") == b"untouched"
        refused(lambda: tree.read("bad"), "is damaged (bad: Bad CRC-32")

    def test_a_changed_byte_in_a_tar(self, tmp_path: Path) -> None:
        path = make_tar(tmp_path / "set", ("a", DATA))
        content = bytearray(path.read_bytes())
        content[500_000] ^= 0xFF
        path.write_bytes(content)
        refused(lambda: unpack(path, tmp_path / "scratch", Limits(1 << 30, 10)), "is damaged")

    def test_an_archive_is_not_wiped_by_its_own_unpacking(self, tmp_path: Path) -> None:
        path = make_tar(tmp_path / "set", ("a", b"x"))
        refused(lambda: archive.unpack(path, tmp_path, SMALL), "move it out of")
        assert path.exists()
