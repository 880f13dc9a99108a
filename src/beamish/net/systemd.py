"""What a service manager wants to hear (sd_notify(3)). Outside systemd: nothing.

Telling never fails the server: a notification that cannot be sent is logged and forgotten.
"""

import os
import socket
import time
from collections.abc import Mapping

import structlog

log = structlog.get_logger(__name__)


def ready(status: str = "") -> bool:
    """Start-up, or a reload, is complete."""
    return notify("READY=1", *([f"STATUS={status}"] if status else []))


def reloading(status: str = "") -> bool:
    """A reload began; `ready()` must follow. With the time stamp that Type=notify-reload demands."""
    stamp = f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    return notify("RELOADING=1", stamp, *([f"STATUS={status}"] if status else []))


def stopping(status: str = "", *, seconds: float = 0.0) -> bool:
    """Shutdown began, and may take `seconds` from now on, even if the unit's TimeoutStopSec is less."""
    more = [f"STATUS={status}"] if status else []
    if seconds:
        more.append(_extension(seconds))
    return notify("STOPPING=1", *more)


def watchdog() -> bool:
    """A sign of life; send one every `watchdog_interval()` seconds."""
    return notify("WATCHDOG=1")


def extend_timeout(seconds: float) -> bool:
    """Ask for `seconds` more, from now on, to start or stop."""
    return notify(_extension(seconds))


def _extension(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send `NAME=value` assignments; False if nobody listens or it failed. Line breaks in values become spaces."""
    target = environ.get("NOTIFY_SOCKET", "")
    if not target:
        return False
    if target[0] == "@":
        name = "\0" + target[1:]  # Linux's abstract namespace
    elif target[0] == "/":
        name = target
    else:
        log.warning("notify_socket_unsupported", address=target)
        return False
    message = "\n".join(" ".join(one.splitlines()) for one in assignments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # a full queue must not hold up the loop
            sender.connect(name)
            sender.send(message.encode("utf-8", "replace"))
    except OSError as error:
        log.warning("notify_failed", address=target, reason=str(error))
        return False
    return True


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between signs of life: half of what the unit's WatchdogSec allows. None: no watchdog, or not for us."""
    text = environ.get("WATCHDOG_USEC", "")
    owner = environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or (owner and owner != str(os.getpid())):
        return None
    return int(text) / 2_000_000
