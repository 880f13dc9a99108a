"""Sessions outlive the server: an orderly stop, and a crash."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable
from typing import Any

import pytest
from tests.modules.sm.conftest import CALM, SM, back, bodies, enable, managed, resume, say
from tests.modules.sm.play import after_a_crash, after_crash, after_stop, first_world, unconfirmed

from beamish.core import events
from beamish.core.events import Context, SessionNotes
from beamish.core.module import Module, on
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import World

JULIET = "juliet@example.org/balcony"
BARE = "juliet@example.org"


def sent_to(world: World, client: Client) -> int:
    session = world.kernel.sessions.get(client.jid)
    assert session is not None
    return int(session.outlet.queue.sent)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", [after_stop, after_crash])
async def test_a_session_goes_on_after_a_restart(how: Any) -> None:
    async with first_world() as world:
        juliet, id_ = await managed(world, JULIET)
        romeo, romeos = await managed(world, "romeo@example.org/orchard")
        await world.befriend(juliet, romeo)
        say(romeo, BARE, "seen")
        await world.settle()
        count = sent_to(world, juliet)
        sent = sent_to(world, romeo)
        juliet.drop()
        await world.settle()
        say(romeo, BARE, "not seen")
        romeo.send(f"<r xmlns='{SM}'/>")
        await world.settle()
        acked = int(romeo.inbox[-1].get("h") or 0)
        async with how(world) as new:
            nurse = await new.login("nurse@example.org/house")
            say(nurse, BARE, "meanwhile")
            again = await resume(new, juliet, id_, count)
            await again.expect("<message id='not seen'/>")
            await again.expect("<message id='meanwhile'/>")
            his = await resume(new, romeo, romeos, sent, expected=acked)
            his.inbox.clear()
            again.send("<presence><show>away</show></presence>")
            await his.expect("<presence><show>away</show></presence>")
            await new.settle()
            again.inbox.clear()
            say(his, BARE, "and on")
            await again.expect("<message id='and on'/>")
            again.send(f"<a xmlns='{SM}' h='{sent_to(new, again)}'/>")
            await new.pass_time(1.0)
            assert await unconfirmed(new.db) == []


@pytest.mark.parametrize("how", [after_stop, after_crash])
async def test_a_session_that_nobody_resumes_ends_after_the_restart(how: Any) -> None:
    async with first_world() as world:
        juliet, _ = await managed(world, JULIET)
        romeo, romeos = await managed(world, "romeo@example.org/orchard")
        await world.befriend(juliet, romeo)
        say(romeo, BARE, "x")
        await world.settle()
        count = sent_to(world, romeo)
        async with how(world) as new:
            assert new.kernel.sessions.get(juliet.jid) is not None
            his = await resume(new, romeo, romeos, count)
            await new.settle()
            his.inbox.clear()  # after a crash, who is there
            his.send(f"<a xmlns='{SM}' h='{sent_to(new, his)}'/>")
            await new.pass_time(601.0)
            await his.expect(f"<presence type='unavailable' from='{JULIET}'/>")
            again = await new.login(JULIET, presence=True)
            await new.settle()
            assert bodies(again) == ["x"]


@pytest.mark.parametrize("how", [after_stop, after_crash])
async def test_a_session_that_expired_while_the_server_was_down(how: Any) -> None:
    async with first_world() as world:
        juliet, _ = await managed(world, JULIET)
        say(await world.login("romeo@example.org/orchard"), BARE, "x")
        juliet.drop()
        await world.settle()
        async with how(world, later=700.0) as new:
            await new.settle()
            assert new.kernel.sessions.get(juliet.jid) is None
            assert await unconfirmed(new.db) == []
            again = await new.login(JULIET, presence=True)
            await new.settle()
            assert bodies(again) == ["x"]


@pytest.mark.parametrize("how", [after_stop, after_crash])
async def test_without_resumption_messages_are_not_lost_either(how: Any) -> None:
    async with first_world() as world:
        juliet = await world.login(JULIET, presence=True)
        await enable(juliet, "")
        say(await world.login("romeo@example.org/orchard"), BARE, "x")
        await world.settle()
        async with how(world) as new:
            again = await new.login(JULIET, presence=True)
            await new.settle()
            assert bodies(again) == ["x"]


async def test_after_an_orderly_stop_stanzas_of_every_kind_are_there() -> None:
    async with first_world() as world:
        juliet, id_ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        await world.befriend(juliet, romeo)
        count = sent_to(world, juliet)
        romeo.send("<presence><show>dnd</show></presence>")
        say(romeo, BARE, "x")
        romeo.send(f"<iq type='get' id='v' to='{JULIET}'><query xmlns='jabber:iq:version'/></iq>")
        await world.settle()
        async with after_stop(world) as new:
            again = await resume(new, juliet, id_, count)
            await again.expect("<presence from='romeo@example.org/orchard'><show>dnd</show></presence>")
            await again.expect("<message id='x'/>")
            await again.expect("<iq id='v'/>")
            await again.expect("<presence from='romeo@example.org/orchard' type='unavailable'/>")


async def test_an_orderly_stop_leaves_the_stream_open() -> None:
    async with first_world() as world:
        juliet, _ = await managed(world, JULIET)
        nurse = await world.login("nurse@example.org/house", presence=True)
        await world.c2s.drain(1.0)
        assert juliet.disconnected
        assert not juliet.closed
        assert nurse.closed
        await world.__aexit__(None, None, None)


async def test_after_a_crash_the_clients_own_count_decides() -> None:
    async with first_world() as world:
        juliet, id_ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        for number in range(3):
            romeo.send(f"<presence to='{JULIET}'><status>{number}</status></presence>")
            say(romeo, JULIET, str(number))
        await world.settle()
        async with after_crash(world) as new:
            say(await new.login("nurse@example.org/house"), JULIET, "new")
            # presence 0, message 0, presence 1 were seen; presence 2 is lost
            again = await resume(new, juliet, id_, 3)
            await new.settle()
            assert bodies(again) == ["1", "2", "new"]
            again.drop()
            await new.settle()
            again = await resume(new, juliet, id_, 5)
            await new.settle()
            assert bodies(again) == ["new"]


async def test_two_crashes_in_a_row() -> None:
    async with first_world() as world:
        juliet, id_ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        for number in range(3):
            say(romeo, JULIET, str(number))
        await world.settle()
        async with after_crash(world) as second:
            say(await second.login("nurse@example.org/house"), JULIET, "new")
            await second.settle()
            async with after_crash(second) as third:
                again = await resume(third, juliet, id_, 2)
                await third.settle()
                assert bodies(again) == ["2", "new"]
                async with after_crash(third) as fourth:
                    again = await resume(fourth, juliet, id_, 3)
                    await fourth.settle()
                    assert bodies(again) == ["new"]


async def test_a_crash_after_an_orderly_stop() -> None:
    async with first_world() as world:
        juliet, id_ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        romeo.send(f"<presence to='{JULIET}'/>")
        say(romeo, JULIET, "a")
        romeo.send(f"<presence to='{JULIET}'><status>b</status></presence>")
        await world.settle()
        async with after_stop(world) as second:
            say(await second.login("nurse@example.org/house"), JULIET, "c")
            await second.settle()
            async with after_crash(second) as third:
                again = await resume(third, juliet, id_, 1)
                await again.expect("<message id='a'/>")
                await again.expect("<presence><status>b</status></presence>")
                await third.settle()
                assert bodies(again) == ["c"]


async def test_what_a_sender_repeats_after_a_crash_was_never_handled() -> None:
    async with first_world() as world:
        juliet, id_ = await managed(world, JULIET)
        romeo, romeos = await managed(world, "romeo@example.org/orchard")
        say(romeo, JULIET, "committed")
        await world.settle()
        assert bodies(juliet) == ["committed"]
        assert isinstance(world.db, MemoryDatabase)
        with world.db.held():
            say(romeo, JULIET, "lost")
            await world.settle()
            assert bodies(juliet) == []
            async with after_crash(world) as new:
                his = await resume(new, romeo, romeos, 0, expected=1)
                say(his, JULIET, "lost")
                again = await resume(new, juliet, id_, 1)
                await new.settle()
                assert bodies(again) == ["lost"]


async def test_other_modules_get_their_state_back() -> None:
    restored: list[dict[str, Any]] = []

    class Mind(Module):
        """Keeps something with sessions."""

        name = "test_mind"

        @on(events.session_saving)
        def saving(self, event: SessionNotes) -> None:
            """Write it down."""
            event.notes[self.name] = {"list": [1, 2]}

        @on(events.session_restored)
        def restored(self, event: SessionNotes) -> None:
            """Get it back."""
            restored.append(event.notes | {"plain": event.session.note("test_mind.plain")})

    async with first_world(extra=(Mind,)) as world:
        juliet = await world.login(JULIET, presence=True, roster=True)
        id_ = await enable(juliet)
        session = world.kernel.sessions.get(juliet.jid)
        assert session is not None
        session.notes["test_mind.plain"] = True
        juliet.send(
            "<presence to='romeo@example.org/x'/><presence><priority>5</priority></presence>"
            "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>"
        )
        await world.settle()
        async with after_crash(world, extra=(Mind,)) as new:
            assert restored == [{"test_mind": {"list": [1, 2]}, "plain": True}]
            back_again = new.kernel.sessions.get(juliet.jid)
            assert back_again is not None
            assert (back_again.priority, back_again.interested) == (5, True)
            assert back_again.directed == {"romeo@example.org/x"}
            await resume(new, juliet, id_, 100)


async def test_carbons_go_on_after_a_restart() -> None:
    async with first_world() as world:
        phone, id_ = await managed(world, "juliet@example.org/phone")
        phone.send("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
        await world.settle()
        count = sent_to(world, phone)
        async with after_stop(world) as new:
            desk = await new.login("juliet@example.org/desk", presence=True)
            again = await resume(new, phone, id_, count)
            await new.settle()
            again.inbox.clear()
            say(desk, "romeo@example.org", "x")
            await again.expect("<message><sent xmlns='urn:xmpp:carbons:2'/></message>")


async def test_damaged_rows_and_removed_accounts_do_not_stop_the_start(expected_errors: Any) -> None:
    expected_errors.events |= {"session_damaged"}
    async with first_world() as world:
        juliet, _ = await managed(world, JULIET)
        await managed(world, "romeo@example.org/orchard")
        say(juliet, "romeo@example.org", "x")
        await world.settle()

        def damage(c: Any) -> None:
            c.run("UPDATE sm_session SET jid = 'nobody@example.org/x' WHERE jid LIKE 'romeo%'")
            c.run("UPDATE sm_session SET jid = '@@' WHERE jid LIKE 'juliet%'")

        await world.db.write("damage", damage)
        async with after_crash(world) as new:
            await new.settle()
            assert len(new.kernel.sessions) == 0
            assert await new.db.fetch("SELECT * FROM sm_session") == []
            assert await new.db.fetch("SELECT * FROM sm_message") == []


async def test_an_id_is_not_given_twice_after_a_restart() -> None:
    async with first_world() as world:
        _, id_ = await managed(world, JULIET)
        async with after_stop(world) as new:
            _, other = await managed(new, "juliet@example.org/other")
            assert id_ != other
            client = await back(new, "juliet")
            client.send(f"<resume xmlns='{SM}' h='{0}' previd='{id_}'/>")
            await client.expect(f"<resumed xmlns='{SM}'/>")


async def test_two_resources_that_expired_while_the_server_was_down_leave_one_message() -> None:
    async with first_world() as world:
        await managed(world, JULIET)
        await managed(world, "juliet@example.org/other")
        romeo = await world.login("romeo@example.org/orchard")
        say(romeo, BARE, "for both")
        say(romeo, JULIET, "for one")
        await world.settle()
        async with after_crash(world, later=700.0) as dead:
            await dead.settle()
            assert len(await unconfirmed(dead.db)) == 3  # they wait from the start of the server
        async with after_stop(world, later=700.0) as new:
            await new.settle()
            again = await new.login(JULIET, presence=True)
            await new.settle()
            assert sorted(bodies(again)) == ["for both", "for one"]


async def test_two_resources_that_begin_anew_at_once_find_one_message() -> None:
    async with first_world() as world:
        phone, _ = await managed(world, "juliet@example.org/phone")
        desk, _ = await managed(world, "juliet@example.org/desk")
        await world.pass_time(5.0)
        say(await world.login("romeo@example.org/orchard"), BARE, "x")
        await world.settle()
        async with after_crash(world) as new:
            both = [await back(new, "juliet"), await back(new, "juliet")]
            for client, old in zip(both, (phone, desk), strict=True):
                client.jid = old.jid
                client.send(
                    "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"
                    f"<resource>{old.jid.resource}</resource></bind></iq>"
                )
            await new.settle()
            for client in both:
                client.send("<presence/>")
            await new.settle()
            assert sorted(bodies(both[0]) + bodies(both[1])) == ["x"]


async def test_a_message_of_the_very_moment_is_rather_doubled_than_lost() -> None:
    async with first_world() as world:
        await managed(world, "juliet@example.org/phone")
        await managed(world, "juliet@example.org/desk")
        say(await world.login("romeo@example.org/orchard"), BARE, "x")
        await world.settle()
        async with after_crash(world) as new:
            both = [await new.login(f"juliet@example.org/{name}", presence=True) for name in ("phone", "desk")]
            await new.settle()
            assert set(bodies(both[0]) + bodies(both[1])) == {"x"}


async def test_personal_events_go_on_after_a_restart() -> None:
    """A session of before gets what it is interested in, and not once more what it has got."""
    features = ("http://jabber.org/protocol/disco#info", "urn:test:tune+notify")
    info = "".join(f"<feature var='{feature}'/>" for feature in features)
    ver = base64.b64encode(hashlib.sha1("client/pc//x<{}<{}<".format(*features).encode()).digest()).decode()
    node = "https://client.example"
    publish = (
        "<iq type='set' id='p'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='urn:test:tune'>"
        "<item id='current'><tune xmlns='urn:test:tune'>{}</tune></item></publish></pubsub></iq>"
    )
    async with first_world() as world:
        phone, id_ = await managed(world, "juliet@example.org/phone", presence=False)
        phone.send(
            f"<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='{node}' ver='{ver}'/></presence>"
        )
        await world.settle()
        asked = next(el for el in phone.inbox if el.tag == "{jabber:client}iq")
        phone.send(
            f"<iq type='result' id='{asked.get('id')}' to='{asked.get('from')}'>"
            f"<query xmlns='http://jabber.org/protocol/disco#info' node='{node}#{ver}'>"
            f"<identity category='client' type='pc' name='x'/>{info}</query></iq>"
        )
        phone.send(publish.format("one"))
        await world.settle()
        assert any("one" in "".join(el.itertext()) for el in phone.inbox)
        count = sent_to(world, phone)
        async with after_crash(world) as new:
            again = await resume(new, phone, id_, count)
            await again.expect_nothing()
            again.send(publish.format("two"))
            await again.expect("<message><event xmlns='http://jabber.org/protocol/pubsub#event'/></message>")


async def test_pushes_survive_a_crash() -> None:
    """Nobody asks for the roster when a stream is resumed, so what has changed in it must be told."""
    async with first_world() as world:
        phone = await world.login("juliet@example.org/phone", presence=True, roster=True)
        id_ = await enable(phone)
        desk, _ = await managed(world, "juliet@example.org/desk")
        count = sent_to(world, phone)
        desk.send(
            "<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='nurse@example.org' name='N'/></query></iq>"
        )
        await world.settle()
        async with after_crash(world) as new:
            again = await resume(new, phone, id_, count)
            push = await again.expect("<iq type='set'><query xmlns='jabber:iq:roster'><item name='N'/></query></iq>")
            again.send(f"<iq type='result' id='{push.get('id')}'/><a xmlns='{SM}' h='{sent_to(new, again)}'/>")
            await new.pass_time(1.0)
            async with after_a_crash(new.db) as left:
                assert await left.fetch("SELECT id FROM sm_message WHERE session = 1") == []


async def test_a_push_that_nobody_took_is_nobodys_business() -> None:
    async with first_world() as world:
        phone = await world.login("juliet@example.org/phone", presence=True, roster=True)
        await enable(phone)
        desk = await world.login("juliet@example.org/desk")
        desk.send("<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='nurse@example.org'/></query></iq>")
        await world.settle()
        async with after_crash(world, later=1.0) as new:
            await new.pass_time(700.0)
            assert len(new.kernel.sessions) == 0
            assert await unconfirmed(new.db) == []


async def test_after_a_crash_presence_is_told_anew() -> None:
    async with first_world() as world:
        juliet, id_ = await managed(world, JULIET)
        romeo, _ = await managed(world, "romeo@example.org/orchard")
        nurse, _ = await managed(world, "nurse@example.org/house")
        for other in (romeo, nurse):
            await world.befriend(juliet, other)
        count = sent_to(world, juliet)
        juliet.drop()
        romeo.send("<presence><show>dnd</show></presence>")
        nurse.send("<presence type='unavailable'/>")
        mercutio = await world.login("mercutio@example.org/x", presence=True)
        mercutio.send("<presence type='subscribe' to='juliet@example.org'/>")
        await world.settle()
        async with after_crash(world) as new:
            again = await resume(new, juliet, id_, count)
            await new.settle()
            told = {el.get("from"): el.findtext("{*}show") or el.get("type") for el in again.inbox}
            assert told == {
                "romeo@example.org/orchard": "dnd",
                "nurse@example.org": "unavailable",
                "mercutio@example.org": "subscribe",
            }
            again.drop()
            await new.settle()
            third = await resume(new, juliet, id_, sent_to(new, juliet))  # once is enough
            await third.expect_nothing()


@pytest.mark.parametrize(
    "inner",
    [
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
        "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>",
        "<retract xmlns='urn:xmpp:message-retract:1' id='1'/>",
        "<odd xmlns='urn:example'/>",
    ],
)
async def test_a_chat_state_does_not_make_the_rest_worthless(inner: str) -> None:
    async with first_world() as world:
        juliet, id_ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard")
        count = sent_to(world, juliet)
        state = "<active xmlns='http://jabber.org/protocol/chatstates'/>"
        romeo.send(f"<message type='chat' to='{JULIET}' id='s'>{state}</message>")
        romeo.send(f"<message type='chat' to='{JULIET}' id='m'>{state}{inner}</message>")
        await world.settle()
        async with after_crash(world) as new:
            again = await resume(new, juliet, id_, count)
            await new.settle()
            assert [el.get("id") for el in again.inbox if el.tag.endswith("}message")] == ["m"]


async def test_a_message_of_a_type_that_nobody_knows_is_a_message() -> None:
    async with first_world() as world:
        juliet, _ = await managed(world, JULIET)
        say(await world.login("romeo@example.org/orchard"), JULIET, "x", type="strange")
        juliet.drop()
        await world.pass_time(601.0)
        again = await world.login(JULIET, presence=True)
        await world.settle()
        assert bodies(again) == ["x"]


async def test_who_has_a_copy_gets_none_when_the_session_ends() -> None:
    async with first_world() as world:
        juliet, _ = await managed(world, JULIET)
        quiet = await world.login("juliet@example.org/quiet", priority=-1)
        await quiet.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
        quiet.inbox.clear()
        await world.pass_time(1.0)
        say(await world.login("romeo@example.org/orchard"), BARE, "x")
        await world.pass_time(1.0)
        late = await world.login("juliet@example.org/late")
        await late.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
        juliet.drop()
        await world.pass_time(601.0)
        copies = [
            el.find("{urn:xmpp:carbons:2}received") is not None for el in quiet.inbox if el.tag.endswith("}message")
        ]
        assert copies == [True]
        await late.expect("<message><received xmlns='urn:xmpp:carbons:2'/></message>")


@pytest.mark.parametrize("attributes", ["name='N'", "subscription='remove'"])
async def test_no_crash_comes_between_a_change_of_the_roster_and_its_push(attributes: str) -> None:
    async with first_world() as world:
        phone = await world.login("juliet@example.org/phone", presence=True, roster=True)
        desk = await world.login("juliet@example.org/desk")
        item = "<iq type='set' id='{}'><query xmlns='jabber:iq:roster'><item jid='nurse@example.org' {}/></query></iq>"
        await desk.iq(item.format("r", ""))
        id_ = await enable(phone)
        count = sent_to(world, phone)
        db = world.db
        assert isinstance(db, MemoryDatabase)
        left: list[MemoryDatabase] = []
        settle = db._settle

        def committed(outcome: Any) -> None:
            left.append(db.copy())
            settle(outcome)

        db._settle = committed  # type: ignore[method-assign]
        before = await db.fetch("SELECT name FROM roster WHERE owner = 'juliet@example.org'")
        desk.send(item.format("s", attributes))
        await world.settle()
        changed = [
            crashed
            for crashed in left
            if await crashed.fetch("SELECT name FROM roster WHERE owner = 'juliet@example.org'") != before
        ]
        for crashed in left:
            if crashed is not changed[0]:
                await crashed.close()
        async with changed[0], World(database=changed[0], settings={"c2s": CALM}) as new:
            again = await resume(new, phone, id_, count)
            await again.expect(
                f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='nurse@example.org' {attributes}/></query></iq>"
            )
            await new.settle()
            assert not [el for el in again.inbox if el.tag == "{jabber:client}iq"]


async def test_what_was_brought_elsewhere_is_gone_in_the_same_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash while the next message has to wait for something must not double the one before."""
    async with first_world() as world:
        juliet, _ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard")
        for text in ("x", "y"):
            say(romeo, BARE, text)
        await world.settle()
        juliet.drop()
        keep = world.kernel.router.keep
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def slow(ctx: Context) -> Awaitable[None] | None:
            return reached if b">y<" in ctx.stanza.body else keep(ctx)

        monkeypatch.setattr(type(world.kernel.router), "keep", lambda self, ctx: slow(ctx))
        await world.pass_time(601.0)
        monkeypatch.undo()
        async with after_crash(world) as new:
            again = await new.login(JULIET, presence=True)
            await new.settle()
            assert bodies(again) == ["x", "y"]
        reached.set_result(None)
        await world.settle()
