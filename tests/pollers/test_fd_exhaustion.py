"""No descriptors left: clients get an answer, the log gets two lines, and nothing spins."""

from __future__ import annotations

import errno
import textwrap

import pytest

from asgi_poller.pollers.accept4 import accept_call
from asgi_poller.pollers.fd_exhaustion import (
    EPISODE_QUIET_S,
    PATIENCE_S,
    Episodes,
    Patience,
    Refuser,
)
from tests.pollers.fakes import connect, make_listener
from tests.support.command import run_python
from tests.support.waiting import in_threads

pytest.importorskip("resource")


def assert_is_503(answer: bytes) -> None:
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\ndate: " in answer
    assert b"\r\nretry-after: " in answer
    assert answer.endswith(b"\n")


class TestPatience:
    def test_lasts_once_for_a_shortage(self) -> None:
        now = 0.0
        patience = Patience(lambda: now)
        assert patience.lasts(1000)
        now = PATIENCE_S * 0.9
        assert patience.lasts(1000)
        now = PATIENCE_S
        assert not patience.lasts(1001)
        now = PATIENCE_S * 2  # still the same shortage
        assert not patience.lasts(1002)

    def test_starts_again_while_descriptors_come_free(self) -> None:
        now = 0.0
        patience = Patience(lambda: now)
        for accepted in range(0, 10_000, 100):
            assert patience.lasts(accepted)
            now += PATIENCE_S * 0.9

    def test_starts_again_at_the_next_shortage(self) -> None:
        now = 0.0
        patience = Patience(lambda: now)
        assert patience.lasts(0)
        now = PATIENCE_S
        assert not patience.lasts(0)
        now += EPISODE_QUIET_S
        assert patience.lasts(0)


class TestRefuser:
    def test_says_503_and_closes(self) -> None:
        listener = make_listener()
        refuser = Refuser()
        accept = accept_call(listener.socket)
        with pytest.raises(BlockingIOError):
            refuser.refuse_one(accept, tls=False)
        with connect(listener) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert refuser.refuse_one(accept, tls=False)
            with client.makefile("rb") as answer:
                assert_is_503(answer.read())
        refuser.close()
        listener.close()

    def test_a_tls_peer_is_only_closed(self) -> None:
        listener = make_listener(tls=True)
        refuser = Refuser()
        with connect(listener) as client:
            assert refuser.refuse_one(accept_call(listener.socket), tls=True)
            assert client.recv(1) == b""
        refuser.close()
        listener.close()

    def test_without_its_reserve_it_says_so_and_takes_it_back(self) -> None:
        listener = make_listener()
        refuser = Refuser()
        refuser.close()
        with connect(listener):
            assert not refuser.refuse_one(accept_call(listener.socket), tls=False)
            assert refuser.refuse_one(accept_call(listener.socket), tls=False)
        refuser.close()
        listener.close()

    def test_a_reserve_that_does_not_help_is_kept(self) -> None:
        def none_left() -> tuple[int, object]:
            raise OSError(errno.ENFILE, "none left")

        refuser = Refuser()
        assert not refuser.refuse_one(none_left, tls=False)
        assert not refuser.refuse_one(none_left, tls=False)
        refuser.close()


STOLEN = textwrap.dedent("""
    import errno, os, resource, socket
    from asgi_poller.pollers.accept4 import accept_call
    from asgi_poller.pollers.fd_exhaustion import Refuser
    from tests.pollers.fakes import connect, make_listener

    refuser = Refuser()
    listener = make_listener()
    unlucky, other = connect(listener), connect(listener)
    accept = accept_call(listener.socket)
    used = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, used + 4))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        assert error.errno == errno.EMFILE

    def accept_too_late():
        # another poller was faster
        taken.append(accept()[0])
        return accept()

    assert refuser.is_whole
    assert not refuser.refuse_one(accept_too_late, tls=False)
    assert not refuser.is_whole
    assert not refuser.refuse_one(accept, tls=False)
    assert refuser.mend(taken.pop(), tls=False)
    assert unlucky.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert refuser.is_whole
    assert refuser.refuse_one(accept, tls=False)
    assert other.recv(4096).startswith(b"HTTP/1.1 503 ")
    os.close(taken.pop())
    assert not refuser.mend(-1, tls=False)
""")


def test_a_reserve_that_another_poller_took_is_taken_back() -> None:
    run_python("-c", STOLEN, check=True)


class TestEpisodes:
    def test_two_log_entries_for_thousands_of_failures(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("WARNING", "asgi_poller.error")
        now = 100.0
        episodes = Episodes(lambda: now)
        assert not episodes
        for _ in range(1000):
            now += 0.01
            episodes.note(errno.EMFILE, refused=True)
            episodes.settle()
        assert episodes
        now += EPISODE_QUIET_S
        episodes.settle()
        assert not episodes
        episodes.settle()
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
        assert "EMFILE" in caplog.messages[0]
        assert "ulimit -n" in caplog.messages[0]
        assert "lasted 10.0 s, 1000 connections" in caplog.messages[1]

    def test_the_next_episode_starts_anew(self, caplog: pytest.LogCaptureFixture) -> None:
        episodes = Episodes()
        for number, words in ((errno.ENFILE, "fs.file-max"), (errno.ENOMEM, "no memory")):
            episodes.note(number, refused=False)
            assert words in caplog.messages[-1]
            episodes.settle(ended=True)
            assert "0 connections" in caplog.messages[-1]

    def test_many_threads_make_one_episode(self, caplog: pytest.LogCaptureFixture) -> None:
        episodes = Episodes()
        with in_threads(lambda number: episodes.note(number, refused=True), [errno.EMFILE] * 8):
            pass
        episodes.settle(ended=True)
        assert len(caplog.messages) == 2
        assert "8 connections" in caplog.messages[1]
