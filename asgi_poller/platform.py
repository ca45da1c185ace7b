"""The one place where Linux, macOS and Windows differ.

Everything above asks here and never looks at `sys.platform`. What a system cannot do is either a
constant that says so, or a `require_*` call that raises an OperatorFault with one clear line.
Nothing here needs privilege: what is refused is reported in the return value.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable

from asgi_poller.errors import OperatorFault

LINUX = sys.platform == "linux"
WINDOWS = sys.platform == "win32"

#: epoll flag that wakes one poller and not all of them for a new connection (epoll_ctl(2)); 0 where
#: there is none.
EPOLL_EXCLUSIVE: int = getattr(select, "EPOLLEXCLUSIVE", 0)
#: Linux sockets inherit TCP_NODELAY from their listener (tcp(7)): set once there, it costs nothing
#: per connection.
NODELAY_IS_INHERITED = LINUX
HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX")
HAS_FORK = hasattr(os, "fork")
HAS_FD_PASSING = HAS_UNIX_SOCKETS and hasattr(socket, "SCM_RIGHTS") and hasattr(os, "fork")
#: The kind of unix socket pair that keeps message boundaries and shows the death of the other side
#: (unix(7)). macOS has no SOCK_SEQPACKET for it; its SOCK_DGRAM keeps boundaries, and the other
#: side's death is learnt from the process.
FD_SOCKET_TYPE: int = socket.SOCK_SEQPACKET if LINUX else socket.SOCK_DGRAM


#: What servers and supervisors handle; what does not exist on this system is left out.
HANDLED_SIGNALS = tuple(
    getattr(signal, f"SIG{name}")
    for name in ("INT", "TERM", "QUIT", "HUP", "TTIN", "TTOU", "USR1", "USR2")
    if hasattr(signal, f"SIG{name}")
)
#: What fits into the kernel's name of a thread (TASK_COMM_LEN without its end).
_TASK_NAME_BYTES = 15


def require_unix_sockets(option: str) -> None:
    """Raise an OperatorFault naming `option` where there are no unix sockets."""
    if not HAS_UNIX_SOCKETS:
        raise OperatorFault(f"{option}: this system ({sys.platform}) has no unix sockets")


def require_fd_passing(option: str) -> None:
    """Raise an OperatorFault naming `option` where sockets cannot be passed to another process."""
    if not HAS_FD_PASSING:
        raise OperatorFault(
            f"{option}: this system ({sys.platform}) cannot pass sockets to worker processes;"
            " leave the option out"
        )


def require_fork(option: str) -> None:
    """Raise an OperatorFault naming `option` where a process cannot fork."""
    if not HAS_FORK:
        raise OperatorFault(f"{option}: this system ({sys.platform}) has no fork()")


def set_thread_nice(nice: int) -> int | None:
    """Give the calling thread the nice value `nice` and return the one it has now; None where
    threads have none.

    Lowering it takes privilege (CAP_SYS_NICE or RLIMIT_NICE): what is refused is left as it was,
    and not an error. Linux alone gives each thread its own (setpriority(2), "C library/kernel
    differences").
    """
    if not LINUX:
        return None
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    except OSError:
        pass  # not permitted: the answer below says what holds
    try:
        return os.getpriority(os.PRIO_PROCESS, thread)
    except OSError:
        return None  # a sandbox that forbids even asking


def permit_nice(nice: int) -> None:
    """Let threads of this process take nice values down to `nice` after it has lost its privilege,
    where it may permit that to itself (RLIMIT_NICE, getrlimit(2): Linux).
    """
    try:
        import resource

        limit = 20 - nice
        resource.setrlimit(resource.RLIMIT_NICE, (limit, limit))
    except (ImportError, AttributeError, OSError, ValueError):
        pass  # not this system, or not permitted: the pollers keep the priority they have


def name_process(role: str) -> None:
    """Show this process as `asgi-poller: ROLE`, such as `asgi-poller: worker 2`, in ps and top.

    `ps` shows it whole where setproctitle is installed. The kernel's own name of the process, which
    top, pgrep and pkill go by, has room for 15 characters: `asgi-poller: su`, `asgi-poller: w2`.
    """
    title = f"asgi-poller: {role}"
    try:
        importlib.import_module("setproctitle").setproctitle(title)
    except ImportError:
        pass  # an optional one: the short name is what there is
    word, _, number = role.partition(" ")
    _name_task(os.getpid(), f"asgi-poller: {word[0]}{number}" if number.isdigit() else title)


def name_thread() -> None:
    """Show the calling thread in `top -H` under the name that Python has for it. CPython does that
    itself from 3.14 on.
    """
    _name_task(threading.get_native_id(), threading.current_thread().name)


def begin_service_thread() -> None:
    """Name the calling thread, and leave signals to the main thread. Not for threads that run the
    application: the processes it starts would inherit the mask.

    A signal that another thread receives does not wake the main thread from a blocking call: its
    handler would run only once that call has ended (signal(7), "Signal mask and pending signals").
    """
    name_thread()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)


def _name_task(task: int, name: str) -> None:
    """The kernel's name of a thread; the first thread's is its process's (proc_pid_comm(5))."""
    if not LINUX:
        return
    try:
        with open(f"/proc/self/task/{task}/comm", "wb") as file:
            file.write(name.encode("ascii", "replace")[:_TASK_NAME_BYTES])
    except OSError:
        pass  # a sandbox without /proc: only a name


def process_is_alive(pid: int) -> bool:
    """Whether there is a process of this number, of any user."""
    if WINDOWS:
        return False  # os.kill() would end it there, whatever the signal
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False  # larger than any process's number
    except OSError:
        return True  # another user's
    return pid > 0


def somaxconn() -> int | None:
    """The kernel's cap on a listener's backlog (listen(2)); None where it cannot be read."""
    try:
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None  # not Linux, or a sandbox without /proc


def reuse_address(connection: socket.socket) -> None:
    """Let a restarted server have its port back at once, and no other process while it listens."""
    if WINDOWS:
        # there, SO_REUSEADDR would let another process steal the port
        option: int = getattr(socket, "SO_EXCLUSIVEADDRUSE", -5)
    else:
        option = socket.SO_REUSEADDR
    connection.setsockopt(socket.SOL_SOCKET, option, 1)


def descriptor_limit() -> int | None:
    """The number of descriptors this process may have open (RLIMIT_NOFILE, soft); None where there
    is no such limit.
    """
    try:
        import resource
    except ImportError:
        return None  # Windows
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> int | None:
    """Lift the soft RLIMIT_NOFILE to the hard one, which needs no privilege; returns what holds
    now.
    """
    try:
        import resource
    except ImportError:
        return None  # Windows
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # macOS refuses values above kern.maxfilesperproc: the old limit stays
    return descriptor_limit()


def close_descriptors_but(keep: Iterable[int]) -> None:
    """Close every descriptor above 2 that is not in `keep`: for a forked child, before it does
    anything else.

    A fork copies the connections that pollers hold at that instant; a copy left open in a worker
    would keep a client waiting for an end that never comes.
    """
    start = 3
    for fd in sorted({fd for fd in keep if fd >= start}):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, _highest_descriptor() + 1)


def _highest_descriptor() -> int:
    try:
        return max(map(int, os.listdir("/dev/fd")))
    except (OSError, ValueError):
        return descriptor_limit() or 65536


class Wakeup:
    """Wakes threads that wait on `fd`, once and for all of them: after `set()` it stays readable.
    Any thread.

    An eventfd on Linux, a socket pair elsewhere (Windows can only wait for sockets). Never a
    connection to self.
    """

    __slots__ = ("_ends", "_lock", "_set", "fd")

    def __init__(self) -> None:
        self._ends: tuple[socket.socket, ...] = ()
        if LINUX:
            self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._ends = socket.socketpair()
            self.fd = self._ends[0].fileno()
        self._lock = threading.Lock()
        self._set = threading.Event()

    def set(self) -> None:
        """Wake every waiter, now and later. Idempotent; nothing after `close()`."""
        with self._lock:
            if self._set.is_set():
                return
            self._set.set()
            if self.fd < 0:
                return
            if self._ends:
                self._ends[1].send(b"x")
            else:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Undo `set()`. For a single waiter, before it looks at what it was woken for."""
        with self._lock:
            if not self._set.is_set() or self.fd < 0:
                return
            self._set.clear()
            if self._ends:
                self._ends[0].recv(1)
            else:
                os.eventfd_read(self.fd)

    def is_set(self) -> bool:
        """Whether `set()` has been called."""
        return self._set.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Rest for `timeout_s` seconds or until `set()`; True if it was set."""
        return self._set.wait(timeout_s)

    def close(self) -> None:
        """Give the descriptors back. No thread may wait on `fd` any more. Idempotent."""
        with self._lock:
            if self.fd < 0:
                return
            if self._ends:
                for end in self._ends:
                    end.close()
            else:
                os.close(self.fd)
            self.fd = -1


class ReserveDescriptor:
    """One descriptor kept for the moment when there are none left. Not for two threads at once.

    At the limit the kernel's queue cannot be emptied, and a level-triggered wait would spin: so the
    reserve is given up (`spend`), the connection accepted in its place and refused, and the reserve
    taken back (`restore`).
    """

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = -1
        self.restore()

    @property
    def is_there(self) -> bool:
        """Whether it is in reserve. Any thread."""
        return self._fd >= 0

    def spend(self) -> bool:
        """Free one descriptor; False if there was none in reserve."""
        if self._fd < 0:
            return False
        # In this order: while it closes, another thread may accept with the free descriptor, and
        # must see then that the reserve is out.
        fd, self._fd = self._fd, -1
        os.close(fd)
        return True

    def restore(self) -> bool:
        """Take the reserve back; False if another thread was faster."""
        if self._fd < 0:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY)
            except OSError:
                return False  # still at the limit: tried again before the next use
        return True

    def close(self) -> None:
        """Give it up for good."""
        self.spend()


def shared_memory(name: str, size: int) -> int:
    """A descriptor of memory that processes can share: a nameless file where there is no memfd.

    Its size is sealed (fcntl(2), "File sealing"): a process that maps it would die of SIGBUS if a
    process that was given the descriptor, an application's code in it, made it smaller.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, size)
        return fd
    import fcntl

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:  # no caller has the descriptor yet
        os.close(fd)
        raise
    return fd
