"""A name service for tests: records in a dict, answered in the process or over UDP for servers that are no part of it."""

from __future__ import annotations

import asyncio
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from beamish.net.dns import NoSuchDomain, Srv


class Directory:
    """What a domain's records say is what the test wrote into it. A `Resolver`."""

    def __init__(self) -> None:
        self.records: dict[str, list[Srv]] = {}
        self.hosts: dict[str, list[str]] = {}
        self.host = ""
        """The host that all records name from now on; "" gives every domain one of its own."""
        self.broken: Exception | None = None
        """Raised by every look-up, if set."""
        self.asked: list[str] = []
        """Names that were looked up in the process, in their order."""

    def serve(self, domain: str, port: int, *, direct_tls: bool = False, priority: int = 0, weight: int = 0) -> None:
        """The server of a domain is on this port of the loopback."""
        service = "_xmpps-server" if direct_tls else "_xmpp-server"
        host = self.host or f"host.{domain}"
        self.records.setdefault(f"{service}._tcp.{domain}", []).append(Srv(priority, weight, port, host))
        self.hosts[host] = ["127.0.0.1"]

    def forget(self, domain: str) -> None:
        """The domain has no records any more."""
        for service in ("_xmpps-server", "_xmpp-server"):
            self.records.pop(f"{service}._tcp.{domain}", None)

    def move(self, domain: str, port: int) -> None:
        """The server of a domain is on this port alone, from now on."""
        self.forget(domain)
        self.serve(domain, port)

    async def srv(self, name: str) -> list[Srv]:
        """See `Resolver.srv`."""
        self.asked.append(name)
        if self.broken is not None:
            raise self.broken
        return self.records.get(name, [])

    async def addresses(self, host: str) -> list[str]:
        """See `Resolver.addresses`."""
        self.asked.append(host)
        if self.broken is not None:
            raise self.broken
        if host not in self.hosts:
            raise NoSuchDomain(f"{host} has no address")
        return self.hosts[host]


class NameServer(asyncio.DatagramProtocol):
    """An async context manager that answers DNS queries over UDP from a `Directory`; `port` is where, on 127.0.0.1."""

    port: int

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._transport: asyncio.DatagramTransport | None = None
        self.asked: list[str] = []
        """Names and types of the questions, in their order."""

    async def __aenter__(self) -> NameServer:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        assert self._transport is not None
        self.port = self._transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.DatagramProtocol`."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """See `asyncio.DatagramProtocol`."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked.append(f"{name} {dns.rdatatype.to_text(question.rdtype)}")
        response = dns.message.make_response(query, recursion_available=True)
        known = name in self.directory.records or name in self.directory.hosts
        values: list[str] = []
        if self.directory.broken is not None:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif question.rdtype == dns.rdatatype.SRV:
            values = [
                f"{each.priority} {each.weight} {each.port} {each.host}."
                for each in self.directory.records.get(name, ())
            ]
        elif question.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            six = question.rdtype == dns.rdatatype.AAAA
            values = [each for each in self.directory.hosts.get(name, ()) if (":" in each) is six]
        if values:
            response.answer.append(dns.rrset.from_text(question.name, 0, dns.rdataclass.IN, question.rdtype, *values))
        elif not known and not response.rcode():
            response.set_rcode(dns.rcode.NXDOMAIN)
        assert self._transport is not None
        self._transport.sendto(response.to_wire(), addr)
