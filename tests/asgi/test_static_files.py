"""Static files through the running server: what is sent, to whom, and with which headers."""

from __future__ import annotations

import gzip
import http.client
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from asgi_poller.asgi.static_lookup import PIECE_BYTES, OpenFile
from tests.support.client import get, handshake
from tests.support.http2 import http2_client
from tests.support.static_site import LONG_AGO_NS, StaticSite, static_site, write
from tests.support.tls import client_context, write_pair
from tests.support.waiting import wait_until

CSS = b"body { color: red }\n" * 100
LARGE = os.urandom(5 * PIECE_BYTES + 17)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticSite]:
    root = tmp_path_factory.mktemp("static")
    write(root / "site.css", CSS)
    write(root / "empty.txt", b"")
    write(root / "large.bin", LARGE)
    write(root / "exact.bin", LARGE[:PIECE_BYTES])
    write(root / "index.html", b"<p>root")
    write(root / "docs" / "index.html", b"<p>docs")
    write(root / "docs" / "größe 1.txt", "größe".encode())
    write(root / "bare" / "a.js", b"1")
    with static_site(root) as it:
        yield it


def test_a_file_and_its_headers(site: StaticSite) -> None:
    response = site.get("/static/site.css")
    assert (response.status, response.body) == (200, CSS)
    headers = dict(response.headers)
    assert headers["content-type"] == "text/css; charset=utf-8"
    assert headers["content-length"] == str(len(CSS))
    assert headers["last-modified"] == "Sun, 13 Sep 2020 12:26:40 GMT"
    assert headers["cache-control"] == "max-age=86400"
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["etag"].strip("W/").strip('"').isalnum()
    assert not {"vary", "content-encoding", "transfer-encoding"} & headers.keys()
    assert site.asked == []


def test_what_is_not_below_the_prefix_is_the_application_s(site: StaticSite) -> None:
    for path in ("/", "/staticfiles/site.css", "/a/static/site.css", "//static/site.css", "/stati"):
        assert site.get(path).body == b"the application"
    assert site.asked == ["/", "/staticfiles/site.css", "/a/static/site.css", *site.asked[3:]]
    assert len(site.asked) == 5
    site.asked.clear()


def test_a_query_and_an_encoded_path_lead_to_the_same_file(site: StaticSite) -> None:
    for path in ("/static/site.css?v=1", "/st%61tic/site%2Ecss", "http://test/static/site.css"):
        assert site.get(path).body == CSS
    assert site.get("/static/docs/gr%C3%B6%C3%9Fe%201.txt").body == "größe".encode()
    assert site.asked == []


@pytest.mark.parametrize("name", ["empty.txt", "exact.bin", "large.bin", "site.css"])
def test_head_says_what_get_does_and_the_connection_goes_on(site: StaticSite, name: str) -> None:
    data = (site.root / name).read_bytes()
    with site.connect() as client:
        client.sendall(get(f"/static/{name}", method="HEAD"))
        head = client.response(has_body=False)
        client.sendall(get(f"/static/{name}") * 2)
        first, second = client.response(), client.response()
    assert first.body == second.body == data
    dates = ("date",)
    assert [h for h in head.headers if h[0] not in dates] == [
        h for h in first.headers if h[0] not in dates
    ]


def test_pieces_are_those_of_the_file(site: StaticSite) -> None:
    for first, last in ((0, 0), (5, PIECE_BYTES + 5), (1, len(LARGE) - 1), (len(LARGE) - 1, 10**9)):
        response = site.get("/static/large.bin", f"Range: bytes={first}-{last}")
        end = min(last, len(LARGE) - 1)
        assert response.status == 206
        assert response.body == LARGE[first : end + 1]
        assert response.header("content-range") == f"bytes {first}-{end}/{len(LARGE)}"
        assert response.header("content-length") == str(end + 1 - first)
    beyond = site.get("/static/large.bin", f"Range: bytes={len(LARGE)}-")
    assert (beyond.status, beyond.header("content-range")) == (416, f"bytes */{len(LARGE)}")
    several = site.get("/static/large.bin", "Range: bytes=0-1,5-6")
    assert (several.status, several.body) == (200, LARGE)
    empty = site.get("/static/empty.txt", "Range: bytes=0-")
    assert (empty.status, empty.header("content-range")) == (416, "bytes */0")


def test_who_has_it_already_gets_304(site: StaticSite) -> None:
    first = site.get("/static/site.css")
    tag, date = first.header("etag"), first.header("last-modified")
    for field in (f"If-None-Match: {tag}", "If-None-Match: *", f"If-Modified-Since: {date}"):
        for method in ("GET", "HEAD"):
            again = site.get("/static/site.css", field, method=method)
            assert (again.status, again.body) == (304, b"")
            assert again.header("etag").removeprefix("W/") == tag.removeprefix("W/")  # type: ignore[union-attr]
            assert again.header("cache-control") == "max-age=86400"
            assert again.header("content-length") is None
    assert site.get("/static/site.css", 'If-None-Match: "x"').body == CSS
    assert site.get("/static/site.css", 'If-Match: "x"').status == 412
    assert site.get("/static/none.css", f"If-None-Match: {tag}").status == 404


def test_a_tag_becomes_strong_and_changes_with_the_file(tmp_path: Path) -> None:
    """Whatever its dates and its size: the time of the inode's change is in the tag."""
    write(tmp_path / "a.txt", b"one")
    with static_site(tmp_path) as site:
        strong = (site.get("/static/a.txt").header("etag") or "").removeprefix("W/")
        wait_until(lambda: site.get("/static/a.txt").header("etag") == strong, "it is strong")
        part = site.get("/static/a.txt", "Range: bytes=1-", f"If-Range: {strong}")
        assert (part.status, part.body) == (206, b"ne")
        write(tmp_path / "b.txt", b"two")
        (tmp_path / "b.txt").rename(tmp_path / "a.txt")
        assert os.stat(tmp_path / "a.txt").st_mtime_ns == LONG_AGO_NS
        again = site.get("/static/a.txt", f"If-None-Match: {strong}")
        assert (again.status, again.body) == (200, b"two")
        part = site.get("/static/a.txt", "Range: bytes=1-", f"If-Range: {strong}")
        assert (part.status, part.body) == (200, b"two")


def test_a_file_from_the_future_has_no_date(tmp_path: Path) -> None:
    for seconds in (4_000_000_000, 300_000_000_000):  # the second is after the year 9999
        write(tmp_path / "a.txt", b"a", at_ns=seconds * 10**9)
        with static_site(tmp_path) as site:
            response = site.get("/static/a.txt")
            assert response.body == b"a"
            assert response.header("last-modified") is None
            assert (response.header("etag") or "").startswith('W/"'), "it may still change"
    write(tmp_path / "a.txt", b"a", at_ns=-86400 * 10**9)
    with static_site(tmp_path) as site:
        assert site.get("/static/a.txt").header("last-modified") == "Wed, 31 Dec 1969 00:00:00 GMT"


def test_a_directory_is_its_index_and_has_a_slash(site: StaticSite) -> None:
    assert site.get("/static/").body == b"<p>root"
    docs = site.get("/static/docs/")
    assert (docs.body, docs.header("content-type")) == (b"<p>docs", "text/html; charset=utf-8")
    for path, location in (
        ("/static", "/static/"),
        ("/static/docs", "/static/docs/"),
        ("/static/d%6Fcs?a=//b", "/static/d%6Fcs/?a=//b"),
    ):
        for method in ("GET", "HEAD"):
            response = site.get(path, method=method)
            assert (response.status, response.header("location")) == (307, location)
    for path in ("/static/bare", "/static/bare/", "/static/site.css/", "/static/docs/index.html/"):
        assert site.get(path).status == 404
    assert site.asked == []


def test_other_methods_are_told_which_there_are(site: StaticSite) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        response = site.get("/static/site.css", "Content-Length: 0", method=method)
        assert (response.status, response.header("allow")) == (405, "GET, HEAD")
    assert site.asked == []


def test_a_websocket_below_the_prefix_is_404(site: StaticSite) -> None:
    with site.connect() as client:
        client.sendall(handshake(path="/static/site.css"))
        assert client.response().status == 404
    assert site.asked == []
    with site.websocket(path="/chat") as client:
        site.echo(client)
    assert site.asked == ["/chat"]
    site.asked.clear()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.MJS", "text/javascript; charset=utf-8"),
        ("a.HTML", "text/html; charset=utf-8"),
        ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.csv", "text/csv; charset=utf-8"),
        ("a.tar.gz", "application/gzip"),
        ("b.js.br", "application/octet-stream"),
        ("a.no-such-ending", "application/octet-stream"),
        ("data:text", "application/octet-stream"),
        ("plain", "application/octet-stream"),
    ],
)
def test_types(site: StaticSite, name: str, kind: str) -> None:
    write(site.root / "types" / name, b"x")
    response = site.get(f"/static/types/{name}", "Accept-Encoding: gzip, br")
    assert (response.status, response.header("content-type")) == (200, kind)
    assert response.header("content-encoding") is None


# Precompressed files


def test_a_client_gets_the_coding_that_it_wants_most(tmp_path: Path) -> None:
    packed = {"gzip": gzip.compress(CSS), "br": b"as if br", "zstd": b"as if zstd"}
    write(tmp_path / "a.css", CSS)
    for coding, ending in (("gzip", ".gz"), ("br", ".br"), ("zstd", ".zst")):
        write(tmp_path / f"a.css{ending}", packed[coding])
    with static_site(tmp_path) as site:
        tags = set()
        for accepted, wanted in (
            ("gzip, deflate, br, zstd", "br"),
            ("gzip, deflate", "gzip"),
            ("br;q=0.1, zstd;q=0.2", "zstd"),
            ("gzip;q=0", ""),
            ("identity", ""),
        ):
            response = site.get("/static/a.css", f"Accept-Encoding: {accepted}")
            data = packed.get(wanted, CSS)
            assert (response.status, response.body) == (200, data)
            assert (response.header("content-encoding") or "") == wanted
            assert response.header("content-type") == "text/css; charset=utf-8"
            assert response.header("vary") == "accept-encoding"
            tags.add(response.header("etag"))
        assert len(tags) == 4, "each has a tag of its own"
        assert site.get("/static/a.css").body == CSS
        part = site.get("/static/a.css", "Accept-Encoding: gzip", "Range: bytes=0-3")
        assert (part.status, part.body) == (206, packed["gzip"][:4])
        assert part.header("content-range") == f"bytes 0-3/{len(packed['gzip'])}"


def test_one_that_is_older_than_the_file_is_not_sent(tmp_path: Path) -> None:
    write(tmp_path / "a.css", CSS)
    write(tmp_path / "a.css.gz", gzip.compress(b"old"), at_ns=LONG_AGO_NS - 1)
    write(tmp_path / "only.css.gz", gzip.compress(CSS))
    (tmp_path / "a.css.br").mkdir()
    (tmp_path / "a.css.zst").symlink_to(tmp_path / "a.css.gz")
    with static_site(tmp_path) as site:
        response = site.get("/static/a.css", "Accept-Encoding: gzip, br, zstd")
        assert (response.body, response.header("content-encoding")) == (CSS, None)
        assert response.header("vary") is None
        assert site.get("/static/only.css", "Accept-Encoding: gzip").status == 404
        assert site.get("/static/only.css.gz").status == 200


# Options


def test_a_directory_s_file_and_the_time_that_files_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "a" / "start.htm", b"start")
    write(tmp_path / "a" / "index.html", b"index")
    options = {"static_path_dir_to_file": "start.htm", "static_path_expires": "2h"}
    with static_site(tmp_path, **options) as site:
        response = site.get("/static/a/")
        assert (response.body, response.header("cache-control")) == (b"start", "max-age=7200")
    with static_site(tmp_path, static_path_dir_to_file="none", static_path_expires=0) as site:
        assert site.get("/static/a/").status == site.get("/static/a").status == 404
        assert site.get("/static/a/index.html").header("cache-control") == "no-cache"


def test_several_mounts_the_longest_prefix_first(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.txt", b"one")
    write(tmp_path / "two" / "a.txt", b"two")
    mounts = [f"/s:{tmp_path}/one", f"/s/two/:{tmp_path}/two"]
    with static_site(tmp_path, static_path_mount=mounts) as site:
        assert site.get("/s/a.txt").body == b"one"
        assert site.get("/s/two/a.txt").body == b"two"
        assert site.get("/s/twofold/a.txt").status == 404


def test_below_a_root_path(tmp_path: Path) -> None:
    """The proxy has taken it off, as for the application."""
    write(tmp_path / "d" / "index.html", b"d")
    with static_site(tmp_path, root_path="/api") as site:
        assert site.get("/static/d/").body == b"d"
        assert site.get("/static/d").header("location") == "/api/static/d/"
        assert site.get("/api/static/d/").body == b"the application"
        assert site.asked == ["/api/api/static/d/"]


def test_the_directory_may_be_a_link_and_is_the_one_of_the_start(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write(tmp_path / name / "a.txt", name.encode())
    current = tmp_path / "current"
    current.symlink_to("old")
    with static_site(current) as site:
        assert site.get("/static/a.txt").body == b"old"
        (tmp_path / "next").symlink_to("new")
        (tmp_path / "next").rename(current)
        assert site.get("/static/a.txt").body == b"old"
    with static_site(current) as site:
        assert site.get("/static/a.txt").body == b"new"


# What surrounds them


def test_the_access_log_has_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.txt", b"a")
    with (
        caplog.at_level(logging.INFO, "asgi_poller.access"),
        static_site(tmp_path, access_log=True) as site,
    ):
        site.get("/static/a.txt?b")
        site.get("/static/none")
        wait_until(lambda: len(_access_lines(caplog)) == 2, "both are logged")
    lines = _access_lines(caplog)
    assert '"GET /static/a.txt?b HTTP/1.1" 200' in lines[0]
    assert '"GET /static/none HTTP/1.1" 404' in lines[1]


def _access_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "asgi_poller.access"]


def test_they_are_counted_as_any_request(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"a")
    with static_site(tmp_path) as site:
        site.get("/static/a.txt")
        site.get("/static/none")
        serving = site.server._serving
        assert serving is not None
        [loop_server] = serving.loop_servers
        assert loop_server.requests == 2
        assert list(loop_server.state.counts.responses)[:3] == [1, 0, 1]


def test_over_http2(site: StaticSite) -> None:
    with http2_client(site.port) as client:
        streams = [client.request(f"/static/{name}") for name in ("large.bin", "site.css") * 5]
        for stream, data in zip(streams, (LARGE, CSS) * 5, strict=True):
            status, fields, body = client.response(stream)
            assert (status, body) == (200, data)
            assert fields["content-length"] == str(len(data))
        stream = client.request("/static/large.bin", headers=[("range", "bytes=7-")])
        assert client.response(stream)[2] == LARGE[7:]
        stream = client.request("/static/large.bin", method="HEAD")
        status, fields, body = client.response(stream)
        assert (status, fields["content-length"], body) == (200, str(len(LARGE)), b"")
    assert site.asked == []


def test_over_tls(site: StaticSite, tmp_path: Path) -> None:
    authority = trustme.CA()
    files = write_pair(tmp_path, "localhost", authority.issue_cert("localhost"))
    context = client_context(authority)
    with static_site(site.root, ssl_certfile=files.both) as secure:
        connection = http.client.HTTPSConnection("localhost", secure.port, context=context)
        for name, data in (("large.bin", LARGE), ("site.css", CSS)):
            connection.request("GET", f"/static/{name}")
            assert connection.getresponse().read() == data
        connection.close()


def test_without_the_option_there_is_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"static_path_mount": ()}
    with static_site(tmp_path, **options) as site:
        assert site.get("/static/").body == b"the application"
        serving = site.server._serving
        assert serving is not None
        [loop_server] = serving.loop_servers
        assert loop_server._static is None


@pytest.mark.parametrize("turns", ["kernel", "threads", "both in turn"])
def test_what_is_in_memory_the_kernel_sends_and_threads_read_the_rest(
    site: StaticSite, monkeypatch: pytest.MonkeyPatch, turns: str
) -> None:
    data = LARGE * 4
    write(site.root / "larger.bin", data)
    asked: list[int] = []
    by_kernel: list[int] = []
    sendfile = os.sendfile

    def is_in_memory(_: OpenFile, first: int, count: int) -> bool:
        asked.append(first)
        return turns == "kernel" or (turns != "threads" and len(asked) % 2 == 0)

    def counted(out: int, file: int, offset: int, count: int) -> int:
        sent = sendfile(out, file, offset, count)
        by_kernel.append(sent)
        return sent

    monkeypatch.setattr(OpenFile, "is_in_memory", is_in_memory)
    monkeypatch.setattr(os, "sendfile", counted)
    with site.connect() as client:
        client.sendall(get("/static/larger.bin") + get("/static/larger.bin", "Range: bytes=9-"))
        assert client.response().body == data
        assert client.response().body == data[9:]
        client.sendall(get("/static/site.css"))
        assert client.response().body == CSS
    if turns == "kernel":
        assert sum(by_kernel) == 2 * len(data) - 9
    elif turns == "threads":
        assert by_kernel == []
    else:
        assert 0 < sum(by_kernel) < 2 * len(data) - 9


def test_a_file_is_known_to_be_in_memory(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", LARGE)
    fd = os.open(tmp_path / "a.bin", os.O_RDONLY)
    file = OpenFile(fd, threading.Semaphore(0))
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError:
        assert not file.is_in_memory(0, len(LARGE)), "this file system cannot tell"
    else:
        assert file.is_in_memory(0, len(LARGE))
    assert not file.is_in_memory(0, len(LARGE) + 1), "there is no end"
    file.close()
    assert not file.is_in_memory(0, 1)
