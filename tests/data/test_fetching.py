"""Downloads against a server on this machine: checked, resumed, atomic, and one clear message when nothing answers."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from robustcli.data import fetching
from robustcli.data.sources import SOURCES, File, Source
from robustcli.errors import DataError, UnknownNameError, UsageError

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves `files`; may ignore ranges, or break off after `cut` bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.ranges = True
        self.cut = None
        self.requests = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        start = 0
        if server.ranges and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[start : server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def pinned(name, urls, content=CONTENT):
    return File(name, len(content), "sha256:" + hashlib.sha256(content).hexdigest(), tuple(urls))


@pytest.fixture
def declare(monkeypatch):
    def declare(*bundles):
        monkeypatch.setitem(SOURCES, "mnist", Source(bundles=bundles, folders=("mnist",)))

    return declare


def test_fetch_then_nothing_to_do(server, declare, tmp_path):
    server.files["a.gz"] = CONTENT
    declare((pinned("a.gz", [server.address + "a.gz"]),))
    seen = []
    paths = fetching.fetch("mnist", tmp_path, lambda *step: seen.append(step))
    assert paths == [tmp_path / "mnist/a.gz"]
    assert paths[0].read_bytes() == CONTENT
    assert seen[-1] == ("a.gz", len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["a.gz"]
    fetching.fetch("mnist", tmp_path)
    assert len(server.requests) == 1


def test_mirrors_are_tried_in_order(server, declare, tmp_path):
    server.files["there/a.gz"] = CONTENT
    declare((pinned("a.gz", [server.address + "gone/a.gz", server.address + "there/a.gz"]),))
    assert fetching.fetch("mnist", tmp_path)[0].read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/gone/a.gz", "/there/a.gz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(server, declare, tmp_path, ranges):
    server.files["a.gz"], server.ranges, server.cut = CONTENT, ranges, 600_000
    declare((pinned("a.gz", [server.address + "a.gz"]),))
    with pytest.raises(DataError, match=r"a.gz"):
        fetching.fetch("mnist", tmp_path)
    part = tmp_path / "mnist/.a.gz.part"
    kept = part.stat().st_size
    assert 0 < kept <= 600_000
    assert not (tmp_path / "mnist/a.gz").exists()

    server.cut = None
    seen = []
    assert fetching.fetch("mnist", tmp_path, lambda *step: seen.append(step))[0].read_bytes() == CONTENT
    assert seen[-1] == ("a.gz", len(CONTENT), len(CONTENT))
    assert server.requests[-1] == ("/a.gz", f"bytes={kept}-")
    assert not part.exists()


def test_altered_content_is_refused_and_old_files_survive(server, declare, tmp_path):
    server.files["a.gz"] = CONTENT[:-1] + b"!"
    declare((pinned("a.gz", [server.address + "a.gz"]),))
    old = tmp_path / "mnist/a.gz"
    old.parent.mkdir()
    old.write_bytes(b"the user's own")
    with pytest.raises(DataError, match="another checksum"):
        fetching.fetch("mnist", tmp_path)
    assert old.read_bytes() == b"the user's own"
    assert list(old.parent.iterdir()) == [old]
    server.files["a.gz"] = CONTENT
    fetching.fetch("mnist", tmp_path)
    assert old.read_bytes() == CONTENT


def test_an_overlong_leftover_is_dropped(server, declare, tmp_path):
    server.files["a.gz"] = CONTENT
    declare((pinned("a.gz", [server.address + "a.gz"]),))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/.a.gz.part").write_bytes(CONTENT + b"x")
    assert fetching.fetch("mnist", tmp_path)[0].read_bytes() == CONTENT


def test_second_bundle_when_the_first_cannot_be_had(server, declare, tmp_path):
    server.files["inner.zip"] = CONTENT
    declare(
        (pinned("outer.zip", [server.address + "outer.zip"]),), (pinned("inner.zip", [server.address + "inner.zip"]),)
    )
    assert [path.name for path in fetching.fetch("mnist", tmp_path)] == ["inner.zip"]


def test_offline_names_files_folder_and_size(declare, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Port 9 (discard) is closed on test machines: the connection is refused at once.
    declare((pinned("a.gz", ["http://127.0.0.1:9/a.gz"]), pinned("b.gz", ["http://127.0.0.1:9/b.gz"])))
    done, failed = fetching.fetch_all(["mnist"], tmp_path)
    assert done == {}
    text = str(failed)
    assert "no connection to 127.0.0.1" in text
    assert f"put into {tmp_path / 'mnist'}" in text
    assert "a.gz  (1.0 MB)" in text
    assert "b.gz  (1.0 MB)" in text
    assert text.count("hint:") == 1


def test_nothing_is_downloaded_for_other_names(tmp_path):
    for name in ("digits", "npz:here"):
        with pytest.raises(UsageError, match="not downloaded"):
            fetching.fetch_all([name], tmp_path)
    with pytest.raises(UnknownNameError, match="mnist"):
        fetching.fetch_all(["mnst"], tmp_path)


def test_unwritable_folder(server, declare, tmp_path):
    server.files["a.gz"] = CONTENT
    declare((pinned("a.gz", [server.address + "a.gz"]),))
    (tmp_path / "mnist").write_text("a file where the folder should be")
    with pytest.raises(UsageError, match="cannot write"):
        fetching.fetch("mnist", tmp_path)
