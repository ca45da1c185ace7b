"""systemd's notification socket (sd_notify).

Source: sd_notify(3) and sd_watchdog_enabled(3); systemd.service(5) for what Type=notify,
Type=notify-reload and WatchdogSec= make of it. Without $NOTIFY_SOCKET every method does nothing, so
callers need not ask. A manager that does not listen never holds the server up: sending is bounded,
and a failure is a False.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

# Unit: seconds. The manager's queue is full only while it is stuck itself.
_SEND_TIMEOUT_S = 1.0
_STATUS_LIMIT_BYTES = 512  # one line of `systemctl status`; a datagram has room for more


class ServiceManager:
    """One notification socket. Owned by the process that the manager started (its main process).

    `from_environment` makes it; the constructor takes the value of $NOTIFY_SOCKET and, in seconds,
    the watchdog's limit.
    """

    __slots__ = ("_address", "watchdog_limit_s")

    def __init__(
        self,
        address: str | None = None,
        *,
        watchdog_limit_s: float | None = None,
    ) -> None:
        self._address = _socket_address(address)
        self.watchdog_limit_s = None if self._address is None else watchdog_limit_s

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """Read $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID, and take them out of `environ`.

        Out, so that no worker and nothing that the application starts sends notifications.
        """
        address = environ.pop("NOTIFY_SOCKET", None)
        limit_us = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        limit_s = None
        if limit_us.isdecimal() and int(limit_us) > 0 and pid in ("", str(os.getpid())):
            limit_s = int(limit_us) / 1_000_000
        return cls(address, watchdog_limit_s=limit_s)

    @property
    def watchdog_interval_s(self) -> float | None:
        """Seconds between calls of `watchdog`: half of what the manager allows, as it advises.

        None: it does not watch.
        """
        return None if self.watchdog_limit_s is None else self.watchdog_limit_s / 2

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload, is complete. `status` is a line for people."""
        return self._send(f"READY=1\nMAINPID={os.getpid()}", status)

    def reloading(self) -> bool:
        """A reload has begun; `ready` must follow. The time stamp is for Type=notify-reload."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> bool:
        """Shutdown has begun."""
        return self._send("STOPPING=1")

    def hand_over(self, pid: int) -> bool:
        """Another process is the server from now on."""
        return self._send(f"MAINPID={pid}")

    def watchdog(self) -> bool:
        """Still alive. To be called from what must be alive, not from a timer of its own."""
        return self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> bool:
        """Start-up, reload or shutdown may take so much longer from now on."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _send(self, state: str, status: str = "") -> bool:
        if self._address is None:
            return False
        lines = [state]
        if status:
            # One assignment a line: a status that spans lines could say anything.
            plain = " ".join(status.split()).encode(errors="replace")[:_STATUS_LIMIT_BYTES]
            lines.append("STATUS=" + plain.decode(errors="ignore"))
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(_SEND_TIMEOUT_S)
                connection.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False  # no manager, or one that does not read: the server goes on
        return True


def _socket_address(value: str | None) -> str | None:
    """The address to send to; None for what is not a unix socket (vsock: is for machines)."""
    if not value or not hasattr(socket, "AF_UNIX"):
        return None
    if value.startswith("@"):
        return "\0" + value[1:]  # sd_notify(3): an abstract socket
    return value if value.startswith("/") else None
