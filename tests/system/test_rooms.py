"""`kill -9` of a server with rooms: what was acknowledged is there afterwards (`BEAMISH_CRASH_ROUNDS` as in `test_crash`)."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from beamish.testing import Client, ClientError

if TYPE_CHECKING:
    from tests.system.conftest import Daemon

ROUNDS = max(3, int(os.environ.get("BEAMISH_CRASH_ROUNDS", "20")) // 4)
SEED = int(os.environ.get("BEAMISH_CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ROOM = "cave@conference.example.org"
MUC = "http://jabber.org/protocol/muc"
PASSWORD = "crash test"
ALL = ("outcast", "member", "admin")
LIMITS = """
[limits]
stanzas_per_second = 1000000
stanza_burst = 1000000
[modules.muc]
stanzas_per_second = 1000000.0
stanza_burst = 1000000
"""


async def enter(client: Client, nick: str) -> None:
    client.send(f"<presence to='{ROOM}/{nick}'><x xmlns='{MUC}'><history maxstanzas='0'/></x></presence>")
    while (await client.receive()).find("{jabber:client}subject") is None:
        pass


async def owner_of_a_new_room(daemon: Daemon) -> Client:
    owner = await daemon.client("owner@example.org/x", PASSWORD, tls=False)
    await enter(owner, "owner")
    await owner.iq(
        f"<iq to='{ROOM}' type='set' id='c'><query xmlns='{MUC}#owner'><x xmlns='jabber:x:data' type='submit'>"
        f"<field var='FORM_TYPE'><value>{MUC}#roomconfig</value></field>"
        "<field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query></iq>"
    )
    return owner


async def change_until_cut(
    owner: Client, choose: random.Random, known: dict[str, str], said: list[int]
) -> dict[str, str]:
    """Change affiliations one by one and talk in between; `known` and `said` hold what was acknowledged.

    A message counts once a change that was sent after it is acknowledged, since all writes share one queue. Returns the
    change on its way at the end.
    """
    pending: dict[str, str] = {}
    number = said[-1] + 1 if said else 0
    try:
        while True:
            spoken = []
            for _ in range(choose.randint(0, 5)):
                owner.send(f"<message to='{ROOM}' type='groupchat' id='m{number}'><body>{number}</body></message>")
                spoken.append(number)
                number += 1
            user, affiliation = f"u{choose.randint(0, 9)}@example.com", choose.choice((*ALL, "none"))
            pending = {user: affiliation}
            await owner.iq(
                f"<iq to='{ROOM}' type='set' id='a{number}'><query xmlns='{MUC}#admin'>"
                f"<item jid='{user}' affiliation='{affiliation}'/></query></iq>"
            )
            owner.inbox.clear()
            known.update(pending)
            pending = {}
            said += spoken
    except ClientError:
        assert owner.disconnected
    return pending


async def stored(owner: Client) -> tuple[dict[str, str], list[int]]:
    """Affiliations by user, and the numbers in the archive."""
    found: dict[str, str] = {}
    for affiliation in ALL:
        answer = await owner.iq(
            f"<iq to='{ROOM}' type='get' id='l'><query xmlns='{MUC}#admin'><item affiliation='{affiliation}'/></query></iq>"
        )
        found.update((item.get("jid"), affiliation) for item in answer.iter(f"{{{MUC}#admin}}item"))
    numbers: list[int] = []
    after = ""
    while True:
        fin: Any = await owner.iq(
            f"<iq to='{ROOM}' type='set' id='q'><query xmlns='urn:xmpp:mam:2'>"
            f"<set xmlns='http://jabber.org/protocol/rsm'><max>250</max>{after}</set></query></iq>"
        )
        page = [el.find(".//{urn:xmpp:forward:0}forwarded//{jabber:client}body") for el in owner.inbox]
        numbers += [int(body.text or "") for body in page if body is not None]
        owner.inbox.clear()
        if fin[0].get("complete") == "true":
            return found, numbers
        after = f"<after>{fin.findtext('.//{http://jabber.org/protocol/rsm}last')}</after>"


@pytest.mark.slow
async def test_rooms_survive_kill_9(make_daemon: Callable[..., Daemon]) -> None:
    """Affiliations whose result came, and messages before them, each once and in order; the room and its owner, too."""
    daemon = make_daemon(c2s="require_tls = false", rest=LIMITS)
    choose = random.Random(SEED)
    await daemon.start()
    await daemon.add("owner@example.org", PASSWORD)
    owner = await owner_of_a_new_room(daemon)
    known: dict[str, str] = {}
    said: list[int] = []
    for number in range(ROUNDS):
        asyncio.get_running_loop().call_later(choose.uniform(0.02, 0.3), daemon.kill)
        pending = await change_until_cut(owner, choose, known, said)
        await daemon.ended()
        await daemon.start()
        owner = await daemon.client("owner@example.org/x", PASSWORD, tls=False)
        found, numbers = await stored(owner)
        place = f"seed {SEED}, round {number}"
        expected = {user: a for user, a in known.items() if a != "none"}
        for user in expected.keys() | found.keys():
            allowed = {expected.get(user), pending.get(user, expected.get(user))}
            assert found.get(user) in {None if a == "none" else a for a in allowed}, f"{place}: {user}"
        assert numbers == list(range(len(numbers))), f"{place}: lost, doubled or out of order"
        assert len(numbers) >= len(said), f"{place}: an acknowledged message is lost"
        said = numbers
        known = {user: found.get(user, "none") for user in {*known, *pending}}
        await enter(owner, "owner")
    assert said and known
