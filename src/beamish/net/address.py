"""Addresses of sockets: read from the configuration, bound, shown in logs, and grouped for limits per address."""

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Final, NamedTuple

BACKLOG: Final = 1024
"""Connections the kernel completes and holds for us while the loop is busy (it caps this at net.core.somaxconn)."""

_FORMS: Final = 'write "[::]:5222" or "*:5222" (every address), "0.0.0.0:5222" (IPv4 only) or "localhost:5222"'
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?\Z")
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_PORT_ATTEMPTS: Final = 16


class Address(NamedTuple):
    """Where to listen. `host` is an IP address (IPv6 without brackets), a host name, or `*`; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BindError(OSError):
    """A listening address cannot be had; the message names the address and the reason."""


def parse_address(text: str) -> Address:
    """Read `[::]:5222`, `0.0.0.0:0`, `localhost:5222` or `*:5222`; raises `ValueError` saying what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or text.endswith("]"):
        raise ValueError(f"{text!r} must have a host and a port: {_FORMS}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        if _is_ipv6(text):
            raise ValueError(f"{text!r} must have a host and a port: {_FORMS}")
        raise ValueError(f"{text!r}: the port must be a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ipv6(host):
            raise ValueError(f"{text!r}: brackets are for IPv6 addresses, such as [::] or [::1]")
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address needs brackets: [{host}]:{port}")
    elif host != "*":
        digits_only = re.fullmatch(r"[0-9.]+", host) is not None
        if digits_only:
            try:
                ipaddress.IPv4Address(host)
            except ValueError:
                raise ValueError(f"{text!r}: {host!r} is not an IPv4 address") from None
        elif not _HOST_NAME.match(host) or ".." in host:
            raise ValueError(f"{text!r}: {host!r} is neither an IP address nor a host name: {_FORMS}")
    return Address(host, int(port))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def format_peer(name: Any) -> str:
    """A socket's name as the logs show it: `192.0.2.1:5222`, `[2001:db8::1]:5222`, or the path of a Unix socket.

    Takes what `getpeername()` or a transport's `peername` gives; IPv4-mapped addresses are shown as IPv4.
    """
    if isinstance(name, tuple) and len(name) >= 2:
        return str(Address(plain_ip(str(name[0])), int(name[1])))
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    return f"unix:{name}" if name else "unknown"


@lru_cache(maxsize=4096)
def plain_ip(host: str) -> str:
    """An IP address in its one canonical spelling: IPv4-mapped IPv6 as IPv4, without a zone. Other text unchanged."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)


def network_of(name: Any) -> str:
    """The key for limits per address: an IPv4 address itself, for IPv6 its /64, which one subscriber owns whole.

    Takes the text of an address or a transport's `peername`. What is no IP address (a Unix socket) is its own key.
    """
    if isinstance(name, tuple) and name:
        name = name[0]
    plain = plain_ip(name) if isinstance(name, str) else format_peer(name)
    return plain if ":" not in plain else _subscriber(plain)


@lru_cache(maxsize=4096)
def _subscriber(plain: str) -> str:
    try:
        high = int(ipaddress.IPv6Address(plain)) >> 64 << 64
    except ValueError:
        return plain
    return f"{ipaddress.IPv6Address(high)}/64"


def bind_sockets(address: str, *, ipv6_only: bool = False) -> list[socket.socket]:
    """Listening, non-blocking sockets for one address; the caller owns them.

    `[::]` and `*` take IPv4 along on the same socket unless `ipv6_only`, or IPv4 alone if the kernel has no IPv6.
    A host name gives one socket for each of its addresses, on the same port also if that was 0; looking it up blocks.
    Raises `ValueError` for a malformed address and `BindError` if it cannot be had.
    """
    wanted = parse_address(address)
    if wanted.host in ("*", "::"):
        return _bind_every(wanted, ipv6_only)
    try:
        found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise BindError(
            error.errno, f"cannot listen on {wanted}: {wanted.host} is unknown ({error.strerror})"
        ) from None
    targets = list(dict.fromkeys((family, name) for family, _, _, _, name in found))
    if len(targets) > 1 and wanted.port == 0:
        return _bind_same_port(wanted, targets)
    return _bind_targets(wanted, targets)


def bind_all(addresses: Sequence[str]) -> list[socket.socket]:
    """The sockets of several addresses; all or none. `[::]` leaves IPv4 to `0.0.0.0` if that is listed for its port.

    Raises like `bind_sockets`.
    """
    parsed = [parse_address(text) for text in addresses]
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for address in dict.fromkeys(parsed):
            apart = address.port != 0 and Address("0.0.0.0", address.port) in parsed
            for listening in bind_sockets(str(address), ipv6_only=apart):
                opened.callback(listening.close)
                sockets.append(listening)
        opened.pop_all()
        return sockets


def obstacle(address: str) -> str:
    """Why an address cannot be had just now, or the empty text. Nobody is kept from it meanwhile: it is not listened on.

    Ports that need a privilege count as free: who asks may have less than who will listen. Looking up a name blocks.
    """
    wanted = parse_address(address)
    host = "::" if wanted.host == "*" else wanted.host
    try:
        found = socket.getaddrinfo(host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        return f"cannot listen on {wanted}: {wanted.host} is unknown ({error.strerror})"
    failures: list[OSError] = []
    for family, _, _, _, name in found:
        try:
            with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(name)
        except OSError as error:
            failures.append(error)
    for failure in failures:
        nowhere = failure.errno in _NO_IPV6 and len(failures) == len(found) and host != "::"
        if failure.errno == errno.EADDRINUSE or nowhere:
            return str(_explained(wanted, failure).args[-1])
    return ""


def _bind_every(wanted: Address, ipv6_only: bool) -> list[socket.socket]:
    try:
        return [_listen(socket.AF_INET6, ("::", wanted.port), ipv6_only)]
    except OSError as error:
        if ipv6_only or error.errno not in _NO_IPV6:
            raise _explained(wanted, error) from None
    return _bind_targets(wanted, [(socket.AF_INET, ("0.0.0.0", wanted.port))])


def _bind_targets(wanted: Address, targets: Sequence[tuple[int, Any]]) -> list[socket.socket]:
    """One socket per target. Some may be missing (a name with ::1 where there is no IPv6), but not all."""
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        for family, name in targets:
            try:
                listening = _listen(family, name, True)
            except OSError as error:
                if error.errno not in _NO_IPV6 or len(targets) == 1:
                    raise _explained(wanted, error) from None
                missing = error
                continue
            opened.callback(listening.close)
            sockets.append(listening)
        if not sockets and missing is not None:
            raise _explained(wanted, missing) from None
        opened.pop_all()
        return sockets


def _bind_same_port(wanted: Address, targets: Sequence[tuple[int, Any]]) -> list[socket.socket]:
    """A free port of the first address may be taken on the second: try a few."""
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        try:
            first = _bind_targets(wanted, targets[:1])
        except BindError as error:
            if error.errno in _NO_IPV6:
                return _bind_targets(wanted, targets[1:])
            raise
        port = first[0].getsockname()[1]
        rest = [(family, (name[0], port, *name[2:])) for family, name in targets[1:]]
        try:
            return first + _bind_targets(wanted, rest)
        except BindError as error:
            if error.errno in _NO_IPV6:
                return first
            first[0].close()
            if error.errno != errno.EADDRINUSE or attempt == _PORT_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _listen(family: int, name: Any, ipv6_only: bool) -> socket.socket:
    # Named, because asyncio's own loop switches Nagle's algorithm off only where the protocol says TCP; uvloop always does.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setblocking(False)
        # A restarted server must not wait until the kernel has forgotten the connections of the last one.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(ipv6_only))
        listening.bind(name)
        # Listening at once: with SO_REUSEADDR two processes may bind the same port, but only one may listen.
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _explained(wanted: Address, error: OSError) -> BindError:
    if error.errno == errno.EADDRINUSE:
        reason = "already in use; is another server running?"
    elif error.errno == errno.EACCES and wanted.port < 1024:
        reason = "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE"
    elif error.errno == errno.EADDRNOTAVAIL:
        reason = "this machine has no such address"
    else:
        reason = os.strerror(error.errno) if error.errno else str(error)
    return BindError(error.errno, f"cannot listen on {wanted}: {reason}")
