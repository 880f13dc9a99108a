"""Rooms as users of another server see them, over real streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.net.federated import pair

from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

MUC = "http://jabber.org/protocol/muc"
HALL = "hall@conference.a.example"


@pytest.fixture
async def stage(ca: Authority, names: Directory) -> AsyncIterator[tuple[FederatedServer, Client, Client]]:
    """Server a, which a test may stop, and Romeo of it and Juliet of another in a persistent room."""
    a, b = pair(ca, names)
    async with b, a:
        names.serve("conference.a.example", a.s2s_port)
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await b.client("juliet@b.example/y", presence=True)
        await enter(romeo, "R")
        await romeo.iq(
            f"<iq to='{HALL}' type='set' id='c'><query xmlns='{MUC}#owner'><x xmlns='jabber:x:data' type='submit'>"
            f"<field var='FORM_TYPE'><value>{MUC}#roomconfig</value></field>"
            "<field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query></iq>"
        )
        await enter(juliet, "J")
        yield a, romeo, juliet


async def enter(client: Client, nick: str) -> None:
    """Enter the room, and read until the subject."""
    client.send(f"<presence to='{HALL}/{nick}'><x xmlns='{MUC}'/></presence>")
    while (await client.receive()).find("{jabber:client}subject") is None:
        pass


async def test_a_service_that_stops_says_so_to_occupants_elsewhere(
    stage: tuple[FederatedServer, Client, Client],
) -> None:
    """XEP-0045 §11.2: 332, while there is a stream that carries it; or they would believe to be inside."""
    a, _, juliet = stage
    await a.__aexit__(None, None, None)
    await juliet.expect(f"<presence from='{HALL}/R' type='unavailable'/>")
    await juliet.expect(
        f"<presence from='{HALL}/J' type='unavailable'><x xmlns='{MUC}#user'><item role='none'/>"
        "<status code='110'/><status code='332'/></x></presence>"
    )
