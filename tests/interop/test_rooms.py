"""The MUC plugins of slixmpp and aioxmpp in rooms, each alone and with each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aioxmpp
import aioxmpp.muc
import pytest
import slixmpp

if TYPE_CHECKING:
    from tests.interop.conftest import Login, Peer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:X509\.\w+ is deprecated:DeprecationWarning"),  # aioxmpp's use of pyOpenSSL
]
PATIENCE = 15.0
ROOM = "cave@conference.example.org"


class Heard:
    """What a callback was called with, to be waited for."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue(1000)

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """The first that is wanted; others before it are passed over."""
        while True:
            got = await asyncio.wait_for(self.queue.get(), PATIENCE)
            if wanted(got):
                return got


def plugin(peer: Peer, *names: str) -> Any:
    """Slixmpp's plugin for rooms, and more plugins beside it."""
    for name in ("xep_0045", *names):
        peer.client.register_plugin(name)  # type: ignore[attr-defined]
    return peer.client.plugin["xep_0045"]  # type: ignore[attr-defined]


def heard(peer: Peer, event: str) -> Heard:
    """Events of slixmpp."""
    found = Heard()
    peer.client.add_event_handler(event, found.queue.put_nowait)  # type: ignore[attr-defined]
    return found


async def slixmpp_room(peer: Peer, nick: str, **config: Any) -> Any:
    """A configured room, made with slixmpp."""
    muc = plugin(peer)
    presence, _, _, _ = await muc.join_muc_wait(slixmpp.JID(ROOM), nick, timeout=PATIENCE)
    assert 201 in presence["muc"]["status_codes"]
    form = await muc.get_room_config(ROOM, timeout=PATIENCE)
    for name, value in config.items():
        form.get_fields()[f"muc#roomconfig_{name}"]["value"] = value
    form["type"] = "submit"
    await muc.set_room_config(ROOM, form, timeout=PATIENCE)
    return muc


async def test_slixmpp(login: Login) -> None:
    romeo = await login("slixmpp", "romeo@example.org/orchard")
    juliet = await login("slixmpp", "juliet@example.org/balcony")
    muc = await slixmpp_room(romeo, "Romeo", roomname="Cave", persistentroom=True)
    muc.set_subject(ROOM, "Spells")
    said = heard(romeo, "groupchat_message")
    for n in range(3):
        romeo.client.send_message(mto=ROOM, mbody=f"message {n}", mtype="groupchat")
        await said.until(lambda m, n=n: m["body"] == f"message {n}")

    other = plugin(juliet, "xep_0313", "xep_0359")
    own, subject, occupants, history = await other.join_muc_wait(
        slixmpp.JID(ROOM), "Juliet", maxstanzas=2, timeout=PATIENCE
    )
    assert {110, 170} <= set(own["muc"]["status_codes"])
    assert subject["subject"] == "Spells"
    assert [str(p["from"]) for p in occupants] == [f"{ROOM}/Romeo", f"{ROOM}/Juliet"]
    assert [m["body"] for m in history] == ["message 1", "message 2"]
    assert other.get_jid_property(slixmpp.JID(ROOM), "Romeo", "affiliation") == "owner"

    archived = [m async for m in juliet.client.plugin["xep_0313"].iterate(slixmpp.JID(ROOM), rsm={"max": 2}, total=10)]
    bodies = [m["mam_result"]["forwarded"]["stanza"]["body"] for m in archived]
    assert [b for b in bodies if b] == ["message 0", "message 1", "message 2"]

    private = heard(juliet, "message")
    romeo.client.send_message(mto=f"{ROOM}/Juliet", mbody="psst", mtype="chat")
    await private.until(lambda m: m["body"] == "psst" and str(m["from"]) == f"{ROOM}/Romeo")

    assert await other.set_self_nick(slixmpp.JID(ROOM), "Capulet", timeout=PATIENCE) == "Capulet"
    await muc.set_affiliation(ROOM, "member", jid="juliet@example.org", timeout=PATIENCE)
    assert [str(j) for j in await muc.get_affiliation_list(ROOM, "member", timeout=PATIENCE)] == ["juliet@example.org"]
    left = heard(juliet, f"muc::{ROOM}::self-presence")
    await muc.set_role(ROOM, "Capulet", "none", reason="Out", timeout=PATIENCE)
    kicked = await left.until(lambda p: p["type"] == "unavailable")
    assert 307 in kicked["muc"]["status_codes"]
    await muc.set_affiliation(ROOM, "outcast", jid="juliet@example.org", timeout=PATIENCE)
    with pytest.raises(slixmpp.exceptions.PresenceError) as refused:
        await other.join_muc_wait(slixmpp.JID(ROOM), "Juliet", timeout=PATIENCE)
    assert refused.value.condition == "forbidden"
    await muc.destroy(ROOM, reason="over", timeout=PATIENCE)


async def test_slixmpp_is_invited(login: Login) -> None:
    romeo = await login("slixmpp", "romeo@example.org/orchard")
    juliet = await login("slixmpp", "juliet@example.org/balcony")
    await juliet.becomes_available()
    plugin(juliet)
    muc = await slixmpp_room(romeo, "Romeo", membersonly=True)
    invited = heard(juliet, "groupchat_invite")
    muc.invite(ROOM, "juliet@example.org", reason="Hey")
    message = await invited.until(lambda _: True)
    assert str(message["from"]) == ROOM
    await plugin(juliet).join_muc_wait(slixmpp.JID(ROOM), "Juliet", timeout=PATIENCE)


def summoned(peer: Peer) -> Any:
    """Aioxmpp's service for rooms."""
    return peer.client.summon(aioxmpp.MUCClient)  # type: ignore[attr-defined]


async def aioxmpp_room(peer: Peer, nick: str) -> Any:
    """A configured room, made with aioxmpp."""
    service = summoned(peer)
    room, entered = service.join(aioxmpp.JID.fromstr(ROOM), nick, history=aioxmpp.muc.xso.History(maxstanzas=0))
    await asyncio.wait_for(entered, PATIENCE)
    data = await service.get_room_config(room.jid)
    form = aioxmpp.muc.xso.ConfigurationForm.from_xso(data)
    form.roomname.value = "Cave"
    form.moderatedroom.value = False
    await service.set_room_config(room.jid, form.render_reply())
    return room


async def test_aioxmpp(login: Login) -> None:
    romeo = await login("aioxmpp", "romeo@example.org/orchard")
    juliet = await login("aioxmpp", "juliet@example.org/balcony")
    room = await aioxmpp_room(romeo, "Romeo")
    joined, left, heard_there = Heard(), Heard(), Heard()
    room.on_join.connect(lambda member, **_: joined.queue.put_nowait(member))
    room.on_leave.connect(lambda member, **_: left.queue.put_nowait(member))

    theirs, entered = summoned(juliet).join(aioxmpp.JID.fromstr(ROOM), "Juliet")
    theirs.on_message.connect(lambda message, member, source, **_: heard_there.queue.put_nowait((message, member)))
    exited = Heard()
    theirs.on_exit.connect(lambda **more: exited.queue.put_nowait(more))
    await asyncio.wait_for(entered, PATIENCE)
    assert {m.nick for m in theirs.members} == {"Romeo", "Juliet"}
    assert theirs.me.affiliation == "none"
    await joined.until(lambda m: m.nick == "Juliet")

    message = aioxmpp.Message(type_=aioxmpp.MessageType.GROUPCHAT)
    message.body[None] = "hello"
    _, tracker = room.send_message_tracked(message)
    got, member = await heard_there.until(lambda pair: pair[0].body.any() == "hello")
    assert member.nick == "Romeo"
    del got, tracker

    await room.set_topic({None: "Spells"})
    await theirs.set_nick("Capulet")
    changed = Heard()
    room.on_nick_changed.connect(lambda member, old, new, **_: changed.queue.put_nowait((old, new)))
    if not any(m.nick == "Capulet" for m in room.members):
        assert await changed.until(lambda _: True) == ("Juliet", "Capulet")
    target = next(m for m in room.members if m.nick == "Capulet")
    await room.muc_set_role("Capulet", "moderator")
    await room.muc_set_role("Capulet", "participant")
    await room.kick(target, reason="Out")
    assert (await left.until(lambda _: True)).nick == "Capulet"
    more = await exited.until(lambda _: True)
    assert more["muc_leave_mode"] == aioxmpp.muc.LeaveMode.KICKED
    await asyncio.wait_for(room.leave(), PATIENCE)


async def test_both_in_one_room(login: Login) -> None:
    romeo = await login("slixmpp", "romeo@example.org/orchard")
    juliet = await login("aioxmpp", "benvolio@example.net/street")
    muc = await slixmpp_room(romeo, "Romeo", whois="anyone")
    del muc
    theirs, entered = summoned(juliet).join(aioxmpp.JID.fromstr(ROOM), "Benvolio")
    there, here = Heard(), heard(romeo, "groupchat_message")
    theirs.on_message.connect(lambda message, member, source, **_: there.queue.put_nowait((message.body.any(), member)))
    await asyncio.wait_for(entered, PATIENCE)
    assert next(m for m in theirs.members if m.nick == "Romeo").direct_jid == aioxmpp.JID.fromstr(romeo.bare)
    romeo.client.send_message(mto=ROOM, mbody="from slixmpp", mtype="groupchat")
    assert (await there.until(lambda pair: pair[0] == "from slixmpp"))[1].nick == "Romeo"
    message = aioxmpp.Message(type_=aioxmpp.MessageType.GROUPCHAT)
    message.body[None] = "from aioxmpp"
    theirs.send_message(message)
    got = await here.until(lambda m: m["body"] == "from aioxmpp")
    assert str(got["from"]) == f"{ROOM}/Benvolio"
