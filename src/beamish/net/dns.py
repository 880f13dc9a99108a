"""Where the server of a domain is: SRV records, addresses, and connecting to them (RFC 6120 §3.2, RFC 2782, XEP-0368).

Records of `_xmpps-server._tcp` (direct TLS) and `_xmpp-server._tcp` (STARTTLS) are one list, ordered by priority and
drawn by weight. A domain without any is looked up itself, on port 5269. What is looked up is bounded in time and number.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from dns.nameserver import Do53Nameserver

from beamish.net.certificate import dns_name

PORT: Final = 5269
"""The port registered for server streams (RFC 6120 §14.7)."""
MAX_TARGETS: Final = 8
MAX_ADDRESSES: Final = 8

_DIRECT: Final = "_xmpps-server._tcp."
_STARTTLS: Final = "_xmpp-server._tcp."
_ROUND_ABOUT: Final = 0.25
"""Seconds before the next address is tried beside one that has not answered (RFC 8305 §5)."""

P = TypeVar("P", bound=asyncio.BaseProtocol)


class LookupFailed(Exception):
    """The name service did not answer, or refused to. Trying later may help."""


class NoSuchDomain(Exception):
    """The domain does not exist, has no addresses, or says that it offers no such service."""


class ConnectFailed(Exception):
    """No address could be connected to. `refused` and `timed_out` say how the most telling attempt ended."""

    def __init__(self, text: str, *, refused: bool = False, timed_out: bool = False) -> None:
        super().__init__(text)
        self.refused = refused
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class Srv:
    """One SRV record; `host` is "" for a service that is decidedly not there (`.`)."""

    priority: int
    weight: int
    port: int
    host: str


@dataclass(frozen=True, slots=True)
class Target:
    """A server to try: a host name or an IP address, a port, and whether TLS begins at once."""

    host: str
    port: int
    direct_tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{' direct TLS' if self.direct_tls else ''}"


class Resolver(Protocol):
    """The part of DNS that federation needs. Both raise `LookupFailed` when the answer cannot be had."""

    async def srv(self, name: str) -> list[Srv]:
        """The SRV records of a name, in any order; none if there are none."""

    async def addresses(self, host: str) -> list[str]:
        """IPv6 and IPv4 addresses of a host, best first; none if there are none."""


class DnsResolver:
    """DNS through the system's name servers; a lookup takes `timeout` seconds at most.

    Names that DNS does not know are looked up the system's way (`/etc/hosts`) in a thread.
    """

    def __init__(self, timeout: float = 10.0, nameservers: Sequence[tuple[str, int]] = ()) -> None:
        """`nameservers` are addresses and ports; without any, those of the system are asked."""
        self._timeout = timeout
        self._nameservers = tuple(nameservers)
        self._resolver: dns.asyncresolver.Resolver | None = None

    def _dns(self) -> dns.asyncresolver.Resolver:
        if self._resolver is None:
            try:
                resolver = dns.asyncresolver.Resolver(configure=not self._nameservers)
            except (dns.exception.DNSException, OSError) as exc:
                raise LookupFailed(f"no name servers are configured ({exc})") from exc
            if self._nameservers:
                resolver.nameservers = [Do53Nameserver(*each) for each in self._nameservers]
            resolver.lifetime = self._timeout
            resolver.cache = dns.resolver.LRUCache(10_000)
            self._resolver = resolver
        return self._resolver

    async def srv(self, name: str) -> list[Srv]:
        """See `Resolver.srv`."""
        try:
            answer = await self._dns().resolve(f"{name}.", dns.rdatatype.SRV, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError) as exc:
            raise LookupFailed(_reason(exc)) from exc
        return [
            Srv(record.priority, record.weight, record.port, record.target.to_text(omit_final_dot=True).rstrip("."))
            for record in answer
        ]

    async def addresses(self, host: str) -> list[str]:
        """See `Resolver.addresses`."""
        kinds = (dns.rdatatype.AAAA, dns.rdatatype.A)
        found = await asyncio.gather(*(self._address(host, kind) for kind in kinds), return_exceptions=True)
        addresses = [address for each in found if isinstance(each, list) for address in each]
        if addresses:
            return addresses
        local = await self._system(host)
        if local:
            return local
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return []

    async def _address(self, host: str, kind: dns.rdatatype.RdataType) -> list[str]:
        try:
            answer = await self._dns().resolve(f"{host}.", kind, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError) as exc:
            raise LookupFailed(_reason(exc)) from exc
        return [record.address for record in answer]

    async def _system(self, host: str) -> list[str]:
        try:
            async with asyncio.timeout(self._timeout):
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError):
            return []
        return list(dict.fromkeys(str(name[0]) for *_, name in found))


def _reason(exc: Exception) -> str:
    if isinstance(exc, dns.exception.Timeout):
        return "the name servers did not answer in time"
    if isinstance(exc, dns.resolver.NoNameservers):
        return "the name servers failed to answer"
    return str(exc) or type(exc).__name__


def order(
    records: Iterable[tuple[Srv, bool]], draw: Callable[[int], int] = lambda most: random.randint(0, most)
) -> list[Target]:
    """Targets in the order to try them (RFC 2782): by priority, within one drawn by weight. The flag is direct TLS.

    `draw(n)` gives a number from 0 to n.
    """
    targets: list[Target] = []
    by_priority: dict[int, list[tuple[Srv, bool]]] = {}
    for record, direct in records:
        if record.host:
            by_priority.setdefault(record.priority, []).append((record, direct))
    for _, group in sorted(by_priority.items()):
        group.sort(key=lambda entry: entry[0].weight)  # those without weight first, so that they have a small chance
        while group:
            chosen = draw(sum(record.weight for record, _ in group))
            running = 0
            for at, (record, direct) in enumerate(group):
                running += record.weight
                if running >= chosen:
                    targets.append(Target(record.host, record.port, direct))
                    del group[at]
                    break
    return targets[:MAX_TARGETS]


async def targets_of(domain: str, resolver: Resolver, overrides: Mapping[str, Target]) -> list[Target]:
    """Where to connect for a domain. Raises `NoSuchDomain` and `LookupFailed`."""
    if (told := overrides.get(domain)) is not None:
        return [told]
    name = dns_name(domain)
    if is_address(name):
        return [Target(name, PORT)]
    direct, plain = await asyncio.gather(
        resolver.srv(_DIRECT + name), resolver.srv(_STARTTLS + name), return_exceptions=True
    )
    records: list[tuple[Srv, bool]] = []
    for found, is_direct in ((direct, True), (plain, False)):
        if isinstance(found, list):
            records += [(record, is_direct) for record in found]
        elif not isinstance(found, LookupFailed):
            raise found
    if targets := order(records):
        return targets
    if isinstance(plain, LookupFailed):
        # RFC 6120 §3.2.1: only a definite "no such record" allows the fallback
        raise plain
    if plain:  # a "." alone (RFC 2782); for direct TLS it says nothing about the other service (XEP-0368 §3)
        if isinstance(direct, LookupFailed):
            raise direct
        raise NoSuchDomain(f"{domain} says that it has no XMPP server")
    return [Target(name, PORT)]


def is_address(host: str) -> bool:
    """Whether this is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def interleaved(addresses: Sequence[str]) -> list[str]:
    """IPv6 and IPv4 by turns, beginning with the family of the first (RFC 8305 §4)."""
    six = [a for a in addresses if ":" in a]
    four = [a for a in addresses if ":" not in a]
    first, second = (six, four) if addresses and ":" in addresses[0] else (four, six)
    mixed: list[str] = []
    for at in range(max(len(first), len(second))):
        mixed += first[at : at + 1] + second[at : at + 1]
    return mixed[:MAX_ADDRESSES]


async def connect(
    target: Target, resolver: Resolver, protocol: Callable[[], P], timeout: float, delay: float = _ROUND_ABOUT
) -> P:
    """Connect to the first address of a target that answers, several at a time (happy eyeballs, RFC 8305).

    Raises `NoSuchDomain`, `LookupFailed` or `ConnectFailed`; `timeout` is for all addresses together.
    """
    addresses = [target.host] if is_address(target.host) else interleaved(await resolver.addresses(target.host))
    if not addresses:
        raise NoSuchDomain(f"{target.host} has no address")
    errors: list[OSError] = []
    won = await _first_reached(addresses, target.port, timeout, delay, errors)
    if won is not None:
        _, made = await asyncio.get_running_loop().create_connection(protocol, sock=won)
        return made
    if any(isinstance(error, ConnectionRefusedError) for error in errors):
        raise ConnectFailed(f"{target} refused the connection", refused=True)
    if errors:
        code = errors[-1].errno
        raise ConnectFailed(f"{target}: {os.strerror(code) if code else errors[-1]}")
    raise ConnectFailed(f"{target} did not answer within {timeout:g} seconds", timed_out=True)


async def _first_reached(
    addresses: Sequence[str], port: int, timeout: float, delay: float, errors: list[OSError]
) -> socket.socket | None:
    """Begin with one more address after each delay, as long as none has answered; why some did not goes into `errors`."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + timeout
    waiting = list(addresses)
    racing: set[asyncio.Task[socket.socket]] = set()
    try:
        while (waiting or racing) and loop.time() < ends:
            if waiting:
                racing.add(loop.create_task(_reach(waiting.pop(0), port)))
            pause = min(delay, ends - loop.time()) if waiting else ends - loop.time()
            done, racing = await asyncio.wait(racing, timeout=max(0.0, pause), return_when=asyncio.FIRST_COMPLETED)
            won: socket.socket | None = None
            for task in done:
                error = task.exception()
                if error is None and won is None:
                    won = task.result()
                elif error is None:
                    task.result().close()
                elif isinstance(error, OSError):
                    errors.append(error)
                else:
                    raise error
            if won is not None:
                return won
        return None
    finally:
        for task in racing:
            task.cancel()
            task.add_done_callback(_close_unwanted)


async def _reach(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _close_unwanted(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
