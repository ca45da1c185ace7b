"""What Linux tells about the server: its accept queue and overflows where it is local, CPU and
memory of its processes.

Everything is read from /proc; what cannot be read is None, never an error.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")
LISTEN_STATE = b"0A"  # TCP_LISTEN in net/tcp_states.h
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KIB = 1024
# One page of a seq_file: listening sockets come first, so that a machine with a million connections
# answers as fast.
READ_OCTETS = 4096


@dataclass(slots=True)
class Queue:
    """The state of the listening sockets of one address: connections that wait for accept(), how
    many sockets.
    """

    depth: int
    sockets: int


def _hex_address(family: int, host: str) -> str:
    """An address as /proc/net/tcp writes it: 32-bit groups in the machine's own octet order."""
    packed = socket.inet_pton(family, host)
    groups = (packed[at : at + 4] for at in range(0, len(packed), 4))
    if sys.byteorder == "little":
        return "".join(group[::-1].hex().upper() for group in groups)
    return "".join(group.hex().upper() for group in groups)


def listen_addresses(family: int, address: tuple[Any, ...]) -> dict[str, set[bytes]]:
    """By /proc file, the local addresses on which a socket that takes connections to `address` may
    listen.
    """
    port = f"{address[1]:04X}"
    any_six = _hex_address(socket.AF_INET6, "::")
    hosts = (
        {"net/tcp6": {_hex_address(socket.AF_INET6, str(address[0])), any_six}}
        if family == socket.AF_INET6
        else {
            "net/tcp": {_hex_address(socket.AF_INET, str(address[0])), "00000000"},
            "net/tcp6": {any_six, _hex_address(socket.AF_INET6, f"::ffff:{address[0]}")},
        }
    )
    return {file: {f"{host}:{port}".encode() for host in names} for file, names in hosts.items()}


def accept_queue(addresses: dict[str, set[bytes]]) -> Queue | None:
    """The accept queue of the sockets listening there; None where none does, in this network
    namespace.
    """
    found = Queue(0, 0)
    for file, wanted in addresses.items():
        for name, depth in _listening(file):
            if name in wanted:
                found.depth += depth
                found.sockets += 1
    return found if found.sockets else None


def _listening(file: str) -> list[tuple[bytes, int]]:
    """Listening sockets as (address as /proc writes it, connections in the accept queue)."""
    try:
        return _ask_kernel(socket.AF_INET6 if file.endswith("6") else socket.AF_INET)
    except OSError:  # no netlink here: the table, which the kernel walks through to the end
        lines = (line.split() for line in _listening_lines(PROC / file))
        return [(fields[1], int(fields[4].split(b":")[1], 16)) for fields in lines]


# sock_diag(7): only listening sockets are asked for, so that the kernel does not walk through the
# table of a million connections, as it does for /proc/net/tcp.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TCP_LISTEN = 10
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBBI48x")  # inet_diag_req_v2, any socket
_ANSWER = struct.Struct("=4x2s2x16s16x4x8xII")  # inet_diag_msg: port, address, expires, rqueue


def _ask_kernel(family: int) -> list[tuple[bytes, int]]:
    """What sock_diag(7) says about TCP sockets of `family` that listen. Raises OSError."""
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _TCP_LISTEN)
    size = _HEADER.size + len(request)
    found: list[tuple[bytes, int]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
        while True:
            answer = kernel.recv(65536)
            at = 0
            while at + _HEADER.size <= len(answer):
                length, kind, *_ = _HEADER.unpack_from(answer, at)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise OSError("sock_diag(7) refused")
                port, packed, _, depth = _ANSWER.unpack_from(answer, at + _HEADER.size)
                packed = packed if family == socket.AF_INET6 else packed[:4]
                host = _hex_address(family, socket.inet_ntop(family, packed))
                found.append((f"{host}:{int.from_bytes(port, 'big'):04X}".encode(), depth))
                at += (length + 3) & ~3


def _listening_lines(path: Path) -> list[bytes]:
    lines: list[bytes] = []
    rest = b""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return lines
    try:
        while chunk := os.read(descriptor, READ_OCTETS):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                fields = line.split()
                if len(fields) < 5 or fields[0] == b"sl":
                    continue
                if fields[3] != LISTEN_STATE:
                    return lines
                lines.append(line)
    except OSError:
        pass  # a table that vanishes while it is read: what was read is still true
    finally:
        os.close(descriptor)
    return lines


def listen_overflows() -> int | None:
    """Connections that the kernel dropped because an accept queue was full, of the whole machine
    since it started.
    """
    try:
        rows = [
            line.split()
            for line in (PROC / "net/netstat").read_text().splitlines()
            if line.startswith("TcpExt:")
        ]
        return int(dict(zip(rows[0], rows[1], strict=True))["ListenOverflows"])
    except (OSError, KeyError, IndexError, ValueError):
        return None


def somaxconn() -> int | None:
    """The kernel's cap on accept queues (net.core.somaxconn)."""
    try:
        return int((PROC / "sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return None


# -- processes -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Usage:
    """A process tree at one moment: CPU seconds used so far, and proportional memory in octets
    where readable.
    """

    cpu_s: float
    processes: int


def process_tree(roots: tuple[int, ...]) -> list[int]:
    """`roots` that live and all their descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found and _stat(pid) is not None:
            found.append(pid)
            waiting += children.get(pid, [])
    return found


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat that follow the name (proc_pid_stat(5)): state, ppid, ..."""
    try:
        return (PROC / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None


def usage(roots: tuple[int, ...]) -> Usage:
    """CPU of a process tree: utime + stime of each, and of the children each has waited for."""
    seconds, count = 0.0, 0
    for pid in process_tree(roots):
        fields = _stat(pid)
        if fields is not None:
            waited_for = sum(int(field) for field in fields[13:15]) / TICKS_PER_SECOND
            seconds += _cpu_s(pid, fields) + waited_for
            count += 1
    return Usage(seconds, count)


def _cpu_s(pid: int, fields: list[bytes]) -> float:
    """One process's CPU seconds, of all its threads, by its own clock: nanoseconds, not ticks."""
    try:
        # clock_getcpuclockid(3) computes just this; CPUCLOCK_SCHED is 2 in linux/posix-timers.h.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return sum(int(field) for field in fields[11:13]) / TICKS_PER_SECOND


def memory_octets(roots: tuple[int, ...]) -> int | None:
    """The proportional set size (PSS) of a process tree; None where the kernel does not show it."""
    total = 0
    for pid in process_tree(roots):
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended since the tree was read
        except OSError:
            return None
        total += sum(int(line.split()[1]) * KIB for line in lines if line.startswith("Pss:"))
    return total


def connections_of(pid: int) -> int:
    """How many sockets a process has open, of whatever kind; 0 where it cannot be seen."""
    count = 0
    try:
        for entry in os.scandir(PROC / str(pid) / "fd"):
            try:
                count += os.readlink(entry.path).startswith("socket:")
            except OSError:
                continue  # closed since the directory was read
    except OSError:
        return count
    return count
