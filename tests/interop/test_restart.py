"""slixmpp and aioxmpp go on with their streams when the server is restarted or killed, and miss nothing (XEP-0198)."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioxmpp.connector
import aioxmpp.node
import pytest
from tests.interop.conftest import PATIENCE, Peer
from tests.interop.returning import RETURNING
from tests.system.conftest import Daemon
from tests.watched import until

ROUNDS = int(os.environ.get("BEAMISH_RESTART_ROUNDS", "2"))
BURST = 20
PASSWORD = "over and over"
JULIET, ROMEO = "juliet@example.org", "romeo@example.org"


@dataclass(frozen=True)
class Place:
    """Where a server is, for a peer."""

    host: str
    port: int
    tls_port: int
    ca: Path


@asynccontextmanager
async def server(directory: Path) -> AsyncIterator[Daemon]:
    """A server that is at the same port after each restart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with Daemon(directory) as daemon:
        daemon.config = daemon.config.replace('listen = ["127.0.0.1:0"]', f'listen = ["127.0.0.1:{port}"]', 1)
        await daemon.start()
        assert daemon.port == port
        for account in (JULIET, ROMEO):
            await daemon.add(account, PASSWORD)
        yield daemon


async def hear(peer: Peer, count: int) -> list[str]:
    """The bodies of the next messages."""
    return [(await peer.hears()).body for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("libraries", [("slixmpp", "aioxmpp"), ("aioxmpp", "slixmpp")])
async def test_streams_go_on_over_restarts(
    tmp_path: Path, how: signal.Signals, libraries: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for noisy in ("slixmpp", "aioxmpp"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    async with server(tmp_path) as daemon:
        place = Place("127.0.0.1", daemon.port, daemon.tls_port, daemon.ca)

        async def discovered(*_: Any, **__: Any) -> list[Any]:
            return [("127.0.0.1", daemon.port, aioxmpp.connector.STARTTLSConnector())]

        # while nobody listens, aioxmpp looks in the DNS, and gives up if there is none
        monkeypatch.setattr(aioxmpp.node, "discover_connectors", discovered)
        juliet, romeo = (
            RETURNING[library](place, f"{account}/here", False)
            for library, account in zip(libraries, (JULIET, ROMEO), strict=True)
        )
        pairs = ((juliet, romeo), (romeo, juliet))
        try:
            for peer in (juliet, romeo):
                await peer.login(PASSWORD)
                await peer.becomes_available()
            said = 0
            read: dict[Any, list[str]] = {juliet: [], romeo: []}
            for number in range(1, ROUNDS + 1):
                for n in range(said, said + BURST):
                    for speaker, listener in pairs:
                        speaker.say(listener.bare, f"{n}")
                said += BURST
                # some are read, some are on their way, some are not even with the server
                read[juliet] += await hear(juliet, number)
                daemon.signal(how)
                await daemon.ended()
                await daemon.start()
                for peer in (juliet, romeo):
                    await peer.come_back()
                await until(lambda number=number: juliet.resumed == romeo.resumed == number, PATIENCE)
            for speaker, listener in pairs:
                speaker.say(listener.bare, "last")
            wanted = [*map(str, range(said)), "last"]
            for speaker, listener in pairs:
                heard = read[listener] + await hear(listener, len(wanted) - len(read[listener]))
                if speaker.library == "aioxmpp":  # which sends again in the opposite order
                    heard[:-1] = sorted(heard[:-1], key=int)
                assert heard == wanted
            assert juliet.begun == romeo.begun == 1  # nobody has lost anything else either: presence, roster, requests
            assert await juliet.roster() == {}
            for speaker, listener in pairs:
                await speaker.ping("example.org")
                assert listener.messages.empty()
        finally:
            for peer in (juliet, romeo):
                await peer.logout()
