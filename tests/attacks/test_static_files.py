"""Attacks static files: paths that lead out, links, races with them, what is no file, files that
change while they are sent, and more requests than there are threads and descriptors.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import h2.events
import pytest

from asgi_poller.asgi import static_lookup
from asgi_poller.asgi.static_lookup import PIECE_BYTES
from tests.support.client import Client, get, handshake, read_to_end
from tests.support.command import Command
from tests.support.http2 import http2_client
from tests.support.server import Served
from tests.support.static_site import SECRET, StaticSite, static_site, write
from tests.support.waiting import DEADLINE_S, in_threads, wait_until

LARGE_BYTES = 32 * 1024 * 1024
SWAPS = 2000
APP = "tests.attacks.echo:app"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[StaticSite]:
    """`root` among other files: what is above it and beside it is secret."""
    root = tmp_path / "root"
    write(root / "a.txt", b"public")
    write(root / "sub" / "b.txt", b"public")
    write(root / ".env", SECRET)
    write(root / ".git" / "config", SECRET)
    write(root / "sub" / ".hidden", SECRET)
    write(root / "back\\slash.txt", SECRET)
    write(tmp_path / "secret.txt", SECRET)
    write(tmp_path / "root-beside" / "secret.txt", SECRET)
    with static_site(root) as it:
        yield it


PATHS = [
    *("../secret.txt", "sub/../../secret.txt", "sub/../a.txt", "..", "../", ".", "./a.txt"),
    *("%2e%2e/secret.txt", "%2E%2E%2Fsecret.txt", "..%2fsecret.txt", "%2e./secret.txt"),
    *("%252e%252e/secret.txt", "%252e%252e%252fsecret.txt", "..%252fsecret.txt"),
    *("..%c0%afsecret.txt", "%c0%ae%c0%ae/secret.txt", "%e0%80%ae%e0%80%ae/secret.txt"),
    *("..%ef%bc%8fsecret.txt", "%uff0e%uff0e/secret.txt", "....//secret.txt", "..;/secret.txt"),
    *(
        "..\\secret.txt",
        "..%5csecret.txt",
        "sub%5c..%5c..%5csecret.txt",
        "sub\\b.txt",
        "sub%5cb.txt",
    ),
    *("../root-beside/secret.txt", "-beside/secret.txt", "%2e%2e/root-beside/secret.txt"),
    *("sub%2fb.txt", "%2fa.txt", "/a.txt", "//a.txt", "sub//b.txt", "sub/b.txt/", "a.txt/b"),
    *("a.txt%00", "a.txt%00.html", "%00", "sub/%00/b.txt", "a.txt%0a", "a.txt%0d%0aX:y", "%7f"),
    *("%2fetc%2fpasswd", "/etc/passwd", "//etc/passwd", "C:/secret.txt", "C:%5csecret.txt", "~/x"),
    *(".env", "%2eenv", ".git/config", "sub/.hidden", "sub/%2ehidden", ".git/", ".well-known/x"),
    *("back\\slash.txt", "back%5Cslash.txt", "a.txt::$DATA", "a.txt.", "a.txt%20", "A.TXT", "%"),
    *("a" * 256, "a" * 8000, "a/" * 4000, "%61" * 300, "..%2f" * 1000 + "etc/passwd", "%2e" * 2000),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40].replace("\x00", "0"))
def test_no_spelling_leads_out(site: StaticSite, path: str) -> None:
    for method in ("GET", "HEAD"):
        response = site.get(f"/static/{path}", method=method)
        assert (response.status, response.header("location")) == (404, None), response
    assert site.asked == [], "nor to the application"
    assert site.get("/static/a.txt").body == b"public"


def test_nor_does_a_prefix_that_only_looks_like_ours(site: StaticSite) -> None:
    for path in ("/static%2fa.txt", "/%2fstatic/a.txt", "/static%5ca.txt", "/static/%2e%2e"):
        response = site.get(path)
        assert response.body in (b"Not Found", b"the application"), path


def test_no_spelling_leads_out_over_http2(site: StaticSite) -> None:
    with http2_client(site.port) as client:
        for path in [path for path in PATHS if len(path) < 3000]:
            stream = client.request(f"/static/{path}")
            status, _, body = client.response(stream)
            assert status in (400, 404), path
            assert SECRET not in body
    assert site.asked == []


def test_links_are_not_followed(site: StaticSite) -> None:
    root, above = site.root, site.root.parent
    (root / "file").symlink_to(above / "secret.txt")
    (root / "relative").symlink_to("../secret.txt")
    (root / "folder").symlink_to(above)
    (root / "sub" / "folder").symlink_to("../..")
    (root / "inside").symlink_to("a.txt")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nothing")
    (root / "proc").symlink_to("/proc/self/root")
    (root / "d").mkdir()
    (root / "d" / "index.html").symlink_to(above / "secret.txt")
    (root / "a.txt.gz").symlink_to(above / "secret.txt")
    for path in ("file", "relative", "folder/secret.txt", "sub/folder/secret.txt", "inside"):
        assert site.get(f"/static/{path}").status == 404
    for path in ("loop", "loop/a", "dangling", "proc/etc/passwd", "d/", "d", "folder", "folder/"):
        assert site.get(f"/static/{path}").status == 404
    assert site.get("/static/a.txt", "Accept-Encoding: gzip").body == b"public"
    assert site.asked == []


def test_a_link_that_is_swapped_in_while_clients_read_is_never_followed(site: StaticSite) -> None:
    """The file, and a directory on the way to it, are now themselves, now links to the secret."""
    root, above = site.root, site.root.parent
    write(root / "d" / "x.txt", b"public")
    write(above / "elsewhere" / "x.txt", SECRET)
    over = threading.Event()
    (root / "link").symlink_to(above / "secret.txt")
    (root / "folders").symlink_to(above / "elsewhere")
    write(root / "file", b"public")
    write(root / "y.txt", b"public")
    seen: list[bytes] = []

    def exchange(one: Path, other: Path) -> None:
        spare = one.with_name(one.name + ".spare")
        one.rename(spare)
        other.rename(one)
        spare.rename(other)

    def swap(_: int) -> None:
        for _ in range(SWAPS):
            exchange(root / "y.txt", root / "link")
            exchange(root / "d", root / "folders")
        over.set()

    def read(number: int) -> None:
        bodies = set()
        with site.connect() as client:
            while not over.is_set():
                for path in ("y.txt", "d/x.txt", "d", "d/"):
                    client.sendall(get(f"/static/{path}"))
                    response = client.response()
                    assert response.status in (200, 404), response
                    bodies.add(response.body)
        seen.extend(bodies)

    with in_threads(read, range(3)), in_threads(swap, [0]):
        pass
    assert SECRET not in seen
    assert set(seen) == {b"public", b"Not Found"}, "both sides of the race were seen"


def test_what_is_no_file_is_not_served_and_blocks_nobody(site: StaticSite) -> None:
    root = site.root
    os.mkfifo(root / "fifo")
    os.mkfifo(root / "a.txt.gz")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "socket"))
    with listener, contextlib.suppress(PermissionError):
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    for path in ("fifo", "socket", "null", "fifo/a", "socket/"):
        assert site.get(f"/static/{path}").status == 404
    assert site.get("/static/a.txt", "Accept-Encoding: gzip").body == b"public"


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_takes_a_file_s_place_just_before_it_is_opened(
    site: StaticSite, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """After the last look at it, and more often than there are threads that could hang."""
    root = site.root
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("../secret.txt")
    look = static_lookup._regular
    looks: list[bytes] = []

    def look_and_lose(name: bytes, parent: int) -> os.stat_result | None:
        found = look(name, parent)
        if name == b"file":
            looks.append(name)
            (root / "file").unlink()
            if not len(looks) % 2:  # the second look is the one before it opens
                os.link(root / kind, root / "file", follow_symlinks=False)
            else:
                write(root / "file", b"public")
        return found

    monkeypatch.setattr(static_lookup, "_regular", look_and_lose)
    for _ in range(8):
        (root / "file").unlink(missing_ok=True)
        write(root / "file", b"public")
        response = site.get("/static/file")
        assert (response.status, response.body) == (404, b"Not Found")
    assert len(looks) == 16
    assert site.get("/static/a.txt").body == b"public"


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """As a user who may not read everything, if we are root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_403() -> None:
    with tempfile.TemporaryDirectory() as name:  # where that user may go
        root = Path(name)
        root.chmod(0o755)
        write(root / "a.txt", SECRET)
        write(root / "a.txt.gz", SECRET)
        write(root / "sub" / "b.txt", SECRET)
        (root / "a.txt").chmod(0)
        (root / "sub").chmod(0)
        with static_site(root) as site:
            with nobody():
                for path in ("a.txt", "sub/b.txt", "sub/none.txt"):
                    assert site.get(f"/static/{path}").status == 403
            (root / "a.txt").chmod(0o644)
            (root / "a.txt.gz").chmod(0)
            with nobody():
                packed = site.get("/static/a.txt", "Accept-Encoding: gzip")
                assert (packed.body, packed.header("content-encoding")) == (SECRET, None)
        (root / "sub").chmod(0o755)


# What changes meanwhile


def sparse(path: Path, byte: bytes) -> None:
    """A large file that says what it is at its ends."""
    with path.open("wb") as file:
        file.truncate(LARGE_BYTES)
        file.write(byte)
        file.seek(LARGE_BYTES - 1)
        file.write(byte)


def begun(site: Served, path: str) -> tuple[Client, int]:
    """A client that has read the head of a large file and takes nothing else yet; its length."""
    client = site.connect(receive_buffer=16384)
    client.sendall(get(path, "Connection: close"))
    return client, int(client.head().header("content-length") or 0)


def test_who_has_begun_gets_the_old_file_to_its_end(site: StaticSite) -> None:
    sparse(site.root / "large", b"1")
    client, length = begun(site, "/static/large")
    with client:
        sparse(site.root / "next", b"2")
        (site.root / "next").rename(site.root / "large")
        body = client.rest()
    assert (len(body), body[:1], body[-1:]) == (length, b"1", b"1")
    assert site.get("/static/large", "Range: bytes=-1").body == b"2"


def test_a_file_that_shrinks_while_it_is_sent_breaks_the_response(
    site: StaticSite, caplog: pytest.LogCaptureFixture
) -> None:
    sparse(site.root / "large", b"1")
    client, length = begun(site, "/static/large")
    with client:
        os.truncate(site.root / "large", PIECE_BYTES)
        assert len(read_to_end(client)) < length, "and nothing is made up"
    wait_until(lambda: bool(caplog.records), "it is logged")
    [record] = caplog.records
    assert "shorter while it was sent" in record.getMessage()
    assert record.exc_info is None, "in one line"
    assert site.get("/static/a.txt").body == b"public"


def test_over_http2_it_breaks_its_stream_alone(site: StaticSite) -> None:
    sparse(site.root / "large", b"1")
    with http2_client(site.port, opens_windows=False) as client:
        broken = client.request("/static/large")
        assert client.status(broken) == 200
        os.truncate(site.root / "large", PIECE_BYTES)
        client.opens_windows = True
        client.h2.increment_flow_control_window(LARGE_BYTES, broken)
        client.h2.increment_flow_control_window(LARGE_BYTES)
        client.flush()
        assert client.wait(h2.events.StreamReset, broken).error_code == 2  # INTERNAL_ERROR
        other = client.request("/static/a.txt")
        assert client.response(other)[2] == b"public"


def open_files() -> list[str]:
    """Their paths, of this process."""
    paths = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            paths.append(os.readlink(f"/proc/self/fd/{fd}"))
    return paths


def test_a_stop_that_cuts_responses_off_closes_their_files(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"a")
    sparse(tmp_path / "large", b"1")
    with contextlib.ExitStack() as stack:
        with static_site(tmp_path, timeout_graceful_shutdown=0.1) as site:
            for _ in range(10):
                stack.enter_context(begun(site, "/static/large")[0])
            with http2_client(site.port, opens_windows=False) as client:
                for stream in [client.request("/static/large") for _ in range(10)]:
                    assert client.status(stream) == 200
                assert str(tmp_path / "large") in open_files()
                site.server.stop(DEADLINE_S)
        assert str(tmp_path / "large") not in open_files()


def test_a_directory_that_is_gone_and_comes_back(site: StaticSite) -> None:
    gone = site.root.with_name("gone")
    site.root.rename(gone)
    assert site.get("/static/a.txt").status == 404
    gone.rename(site.root)
    assert site.get("/static/a.txt").body == b"public"


# Many at once


def descriptors(site: StaticSite | None = None) -> int:
    """Open in this process: `site` has no connections any more, but has had one."""
    if site is not None:
        site.get("/static/a.txt")
        wait_until(lambda: site.connections() == 0, "the connection has ended")
    return len(os.listdir("/proc/self/fd"))


def test_clients_that_leave_take_their_files_along(site: StaticSite) -> None:
    sparse(site.root / "large", b"1")
    before = descriptors(site)
    clients = [begun(site, "/static/large")[0] for _ in range(30)]
    assert descriptors() >= before + 3 * len(clients), "both ends and a file each"
    for client in clients:
        client.reset()
    wait_until(lambda: descriptors() <= before, "nothing is open any more")


def test_files_on_their_way_leave_descriptors_for_connections(tmp_path: Path) -> None:
    """An eighth of 160 is for files, which may take three each; others are told to come again."""
    write(tmp_path / "a.txt", b"small")
    sparse(tmp_path / "large", b"1")
    limited = f'ulimit -n 160; exec {sys.executable} -m asgi_poller {APP} "$@"'
    command = Command(
        *("--port", "0", "--lifespan", "off", "--static-path-mount", f"/static:{tmp_path}"),
        program=["sh", "-c", limited, "sh"],
    )
    with contextlib.ExitStack() as stack:
        stack.callback(command.close)
        command.wait_for("running on")
        site = Served(command.address[1])
        statuses = []
        for _ in range(40):
            client = stack.enter_context(site.connect(receive_buffer=16384))
            client.sendall(get("/static/large"))
            statuses.append(client.head().status)
        assert statuses == [200] * 20 + [503] * 20
        with site.connect() as client:
            client.sendall(get("/static/a.txt"))
            assert client.response().body == b"small"
            client.sendall(get("/static/large"))
            assert client.response().header("retry-after") == "1"


def test_a_thousand_requests_at_once_on_few_threads(site: StaticSite) -> None:
    def ask(number: int) -> None:
        with site.connect() as client:
            client.sendall(get("/static/a.txt") * 50)
            for _ in range(50):
                assert client.response().body == b"public"

    with in_threads(ask, range(20)):
        pass
    names = [thread.name for thread in threading.enumerate()]
    assert 0 < sum(name.startswith("StaticFiles") for name in names) <= 4


def test_a_disk_that_hangs_holds_files_and_nothing_else(
    site: StaticSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, moves = static_lookup._regular, threading.Event()

    def look_slowly(name: bytes, parent: int) -> os.stat_result | None:
        assert moves.wait(DEADLINE_S)
        return look(name, parent)

    sparse(site.root / "large", b"1")
    before = descriptors(site)
    monkeypatch.setattr(static_lookup, "_regular", look_slowly)
    try:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(site.connect()) for _ in range(20)]
            for client in clients:
                client.sendall(get("/static/a.txt"))
            for _ in range(10):
                begun_in_vain = site.connect()
                begun_in_vain.sendall(get("/static/large"))
                begun_in_vain.reset()
            assert site.get("/").body == b"the application"
            with site.websocket() as client:
                site.echo(client)
            moves.set()
            for client in clients:
                assert client.response().body == b"public"
    finally:
        moves.set()
    wait_until(lambda: descriptors() <= before, "also the files of those that left are closed")


def test_streams_that_take_nothing_hold_one_connection_and_no_other(site: StaticSite) -> None:
    sparse(site.root / "large", b"1")
    before = descriptors(site)
    with http2_client(site.port, opens_windows=False) as client:
        streams = [client.request("/static/large") for _ in range(50)]
        for stream in streams:
            assert client.status(stream) == 200
        assert site.get("/static/a.txt").body == b"public"
    wait_until(lambda: descriptors() <= before, "nothing is open any more")


def test_a_websocket_s_handshake_leads_to_no_file_and_no_application(site: StaticSite) -> None:
    for path in ("/static/a.txt", "/static/../secret.txt", "/static", "/static/%2e%2e/chat"):
        with site.connect() as client:
            client.sendall(handshake(path=path))
            response = client.response()
            assert (response.status, response.body) == (404, b"Not Found")
    assert site.asked == []
