"""XEP-0313 through a whole server: what is archived, for whom, under which ids, and when it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.modules.mam.play import MESSAGE, RESULT, ask

from beamish.core.events import AccountEvent, Context
from beamish.core.gather import RETRY_SECONDS
from beamish.modules.mam import module
from beamish.modules.mam.keeper import MERGE_DELAY
from beamish.modules.mam.module import MamModule
from beamish.storage.api import Cursor, StorageBusy
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

SID = "{urn:xmpp:sid:0}stanza-id"
HINT = "xmlns='urn:xmpp:hints'"


def say(client: Client, text: str, to: str = "juliet@example.org", extra: str = "", type: str = "chat") -> None:
    client.send(f"<message to='{to}' type='{type}' id='{text}'><body>{text}</body>{extra}</message>")


async def test_both_sides_have_it_and_the_live_copy_has_the_id(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    say(romeo, "hi", extra="<x xmlns='urn:example'><deep a='&gt;'>&amp;</deep></x>")
    live = await juliet.receive()
    mine, hers = await ask(romeo), await ask(juliet)
    assert mine.bodies == hers.bodies == ["hi"]
    ids = [(el.get("by"), el.get("id")) for el in live.findall(SID)]
    assert ids == [("juliet@example.org", hers.ids[0])]
    assert mine.ids != hers.ids
    stored = hers.messages[0]
    assert (stored.get("from"), stored.get("to")) == ("romeo@example.org/orchard", "juliet@example.org")
    assert stored.findtext("{urn:example}x/{urn:example}deep") == "&"
    assert hers.results[0].find("{urn:xmpp:forward:0}forwarded/{urn:xmpp:delay}delay").get("stamp") == (  # type: ignore[union-attr]
        "2023-11-14T22:13:20.000Z"
    )


async def test_ids_that_pretend_to_be_ours_are_taken_out_and_others_kept(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    forged = "".join(
        f"<stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='forged'/>"
        for by in ("juliet@example.org", "Juliet@example.org", "romeo@example.org", "room@chat.example.com")
    )
    say(romeo, "x", extra=forged)
    live = await juliet.receive()
    assert [el.get("by") for el in live.findall(SID)] == ["room@chat.example.com", "juliet@example.org"]
    romeo.send(
        "<message to='juliet@example.org' type='headline'>"
        "<stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='forged'/></message>"
    )
    assert (await juliet.receive()).find(SID) is None


async def test_several_devices_and_self_messages_are_archived_once(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    devices = [await world.login(f"juliet@example.org/{r}", presence=True) for r in ("a", "b", "c")]
    await world.settle()
    for device in devices:
        device.inbox.clear()
    say(romeo, "once")
    seen = {(await device.receive()).find(SID).get("id") for device in devices}  # type: ignore[union-attr]
    page = await ask(devices[0])
    assert page.bodies == ["once"]
    assert seen == set(page.ids)
    say(devices[0], "note to self")
    assert (await ask(devices[0], {"with": "juliet@example.org"})).bodies == ["note to self"]
    assert (await ask(devices[0])).bodies == ["once", "note to self"]


@pytest.mark.parametrize(
    "stanza",
    [
        f"<message to='juliet@example.org' type='chat'><body>x</body><no-store {HINT}/></message>",
        f"<message to='juliet@example.org' type='chat'><body>x</body><no-permanent-store {HINT}/></message>",
        "<message to='juliet@example.org' type='chat'><active xmlns='http://jabber.org/protocol/chatstates'/></message>",
        "<message to='juliet@example.org' type='headline'><body>x</body></message>",
    ],
)
async def test_what_is_not_archived_goes_without_an_id(world: World, stanza: str) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo.send(stanza)
    assert (await juliet.receive()).find(SID) is None
    assert (await ask(juliet)).ids == (await ask(romeo)).ids == []


async def test_nothing_is_kept_for_an_address_without_account(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    say(romeo, "x", "nobody@example.org")
    await romeo.expect("<message type='error' from='nobody@example.org'/>")
    await world.pass_time(20)
    rows = await world.db.fetch("SELECT jid, messages FROM mam_account")
    assert rows == [("romeo@example.org", 1)]


async def test_an_absent_account_has_it_in_both_stores_under_one_id(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    say(romeo, "later")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    offline = next(el for el in juliet.inbox if el.find("{urn:xmpp:delay}delay") is not None)
    page = await ask(juliet)
    assert offline.find(SID).get("id") == page.ids[0]  # type: ignore[union-attr]
    await romeo.expect_nothing()


async def test_without_offline_storage_the_archive_takes_charge() -> None:
    async with World(settings={"modules": {"disable": ["offline"]}}) as world:
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        say(romeo, "later")
        await romeo.expect_nothing()
        say(romeo, "never", extra=f"<no-store {HINT}/>")
        await romeo.expect("<message type='error' id='never'/>")
        juliet = await world.login("juliet@example.org/balcony")
        assert (await ask(juliet)).bodies == ["later"]


async def test_private_messages_through_a_room_are_archived_once(world: World) -> None:
    juliet = await world.login("juliet@example.org/a", presence=True)
    other = await world.login("juliet@example.org/b", presence=True)
    nick = JID.parse("room@rooms.invalid/nurse")
    for _ in range(2):
        for device in (juliet, other):
            world.kernel.router.post(
                Stanza.build(
                    "message",
                    "chat",
                    id="pm",
                    sender=nick,
                    to=device.jid,
                    content=b"<body>psst</body><x xmlns='http://jabber.org/protocol/muc#user'/>",
                )
            )
        await world.settle()
        await world.pass_time(61)
    assert (await ask(juliet, {"with": str(nick)})).bodies == ["psst", "psst"]
    assert (await ask(juliet, {"with": "room@rooms.invalid/other"})).bodies == []
    assert (await ask(juliet, {"with": "room@rooms.invalid"})).bodies == ["psst", "psst"]


async def test_copies_of_a_private_message_name_the_same_entry_of_the_archive(world: World) -> None:
    """Else a device that got one finds it once more in the archive. What has no id is no copy of what says the same."""
    juliet = await world.login("juliet@example.org/a", presence=True)
    other = await world.login("juliet@example.org/b", presence=True)
    content = b"<body>ok</body><x xmlns='http://jabber.org/protocol/muc#user'/>"
    for id_ in ("pm", "", ""):
        for device in (juliet, other) if id_ else (juliet,):
            nick = JID.parse("room@rooms.invalid/nurse")
            world.kernel.router.post(
                Stanza.build("message", "chat", id=id_, sender=nick, to=device.jid, content=content)
            )
    await world.settle()
    ids = [
        [el.findall("{urn:xmpp:sid:0}stanza-id") for el in client.inbox if str(el.tag).endswith("}message")]
        for client in (juliet, other)
    ]
    mine, others = ([found[0].get("id") for found in of if len(found) == 1] for of in ids)
    assert (len(set(mine)), others) == (3, mine[:1])
    assert (await ask(juliet)).bodies == ["ok", "ok", "ok"]


async def test_a_stanza_is_settled_only_when_its_rows_are(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.login("juliet@example.org/balcony", presence=True)
    session = world.kernel.sessions.get(romeo.jid)
    assert session is not None
    handled: list[Context] = []
    session.handled = lambda ctx: handled.append(ctx) if ctx is not None else None
    with world.db.held():
        say(romeo, "x")
        await world.settle()
        assert handled[0].settled > world.db.durable
    await world.settle()
    assert handled[0].settled <= world.db.durable


async def test_a_full_queue_makes_the_sender_wait_and_loses_nothing() -> None:
    database = MemoryDatabase(queue_limit=50)
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        for n in range(300):
            say(romeo, str(n))
        await world.settle()
        assert [el.findtext("{*}body") for el in juliet.inbox if el.tag.endswith("message")] == [
            str(n) for n in range(300)
        ]
        juliet.inbox.clear()
        page = await ask(juliet, rsm="<max>1000</max>")
        assert page.bodies == [str(n) for n in range(250)]
        assert page.rsm("count") == "300"
    await database.close()


async def test_senders_wait_before_the_queue_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKLOG", 20)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    nurse = await world.login("nurse@example.org/kitchen", presence=True)
    with world.db.held():
        for n in range(100):
            say(romeo, str(n))
        await world.settle()
        assert 10 <= len(juliet.inbox) <= 11
        say(nurse, "patience")
        await world.settle()
        assert len(juliet.inbox) <= 12
    await world.settle()
    assert [el.get("id") for el in juliet.inbox if el.get("id") != "patience"] == [str(n) for n in range(100)]


async def test_what_the_disk_does_not_take_is_tried_again(world: World, expected_errors: ExpectedErrors) -> None:
    expected_errors.add("rows_not_stored_yet")
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    say(romeo, "before")
    await juliet.expect("<message id='before'/>")
    world.db.fail_next()
    say(romeo, "refused")
    await juliet.expect("<message id='refused'/>")
    say(romeo, "behind")
    await juliet.expect("<message id='behind'/>")
    assert (await ask(juliet)).bodies == ["before"]  # whoever knows what comes behind would not ask for it again
    await world.pass_time(RETRY_SECONDS)
    say(romeo, "last")
    await juliet.expect("<message id='last'/>")
    for client in (romeo, juliet):
        page = await ask(client)
        assert page.bodies == ["before", "refused", "behind", "last"]
        assert page.rsm("count") == "4"
        assert (await ask(client, {"with": (juliet if client is romeo else romeo).jid.bare})).bodies == page.bodies


async def test_a_disk_that_stays_full_is_felt_by_senders(
    world: World, expected_errors: ExpectedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_errors.add("rows_not_stored_yet")
    mam = world.kernel.registry.module(MamModule)
    monkeypatch.setattr(mam._log, "most", 4)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    world.db.fail_next()
    say(romeo, "0")
    await juliet.expect("<message id='0'/>")
    say(romeo, "1")
    await juliet.expect("<message id='1'/>")
    say(romeo, "2")
    await romeo.expect("<message type='error' id='2'><error type='wait'/></message>")
    await world.pass_time(RETRY_SECONDS)
    say(romeo, "3")
    await juliet.expect("<message id='3'/>")
    assert (await ask(juliet)).bodies == ["0", "1", "3"]


@pytest.mark.parametrize("most", [2, 3, 4, 5])
async def test_an_error_means_that_it_is_in_neither_archive(
    world: World, expected_errors: ExpectedErrors, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The bound may be met by the sender's entry or by the receiver's."""
    expected_errors.add("rows_not_stored_yet")
    mam = world.kernel.registry.module(MamModule)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    say(romeo, "first")
    await juliet.expect("<message id='first'/>")
    monkeypatch.setattr(mam._log, "most", most)
    world.db.fail_next()
    for n in range(4):
        say(romeo, str(n))
        await world.settle()
    arrived = [el.get("id") for el in juliet.inbox]
    assert len(arrived) == (most + 1) // 2
    assert [el.get("id") for el in romeo.inbox if el.get("type") == "error"] == [
        str(n) for n in range(4) if str(n) not in arrived
    ]
    juliet.inbox.clear()
    for _ in range(2):
        await world.pass_time(RETRY_SECONDS)
    for client in (romeo, juliet):
        assert (await ask(client)).bodies == ["first", *arrived]


async def test_a_message_from_elsewhere_is_refused_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has archived it before its receiver: that it has been tried once is no reason to take it."""
    mam = world.kernel.registry.module(MamModule)
    monkeypatch.setattr(mam._log, "most", 0)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    answered: list[Stanza] = []
    monkeypatch.setattr(world.kernel.router, "answer", lambda _, reply: answered.append(reply))
    wire = b"<message from='a@example.net/x' to='juliet@example.org' type='chat' id='x'><body>x</body></message>"
    rest = world.kernel.router.from_elsewhere(Context(Stanza.parse(wire)))
    assert rest is not None
    await rest
    assert [(reply.id, reply.type) for reply in answered] == [("x", "error")]
    await juliet.expect_nothing()
    assert mam._log.rows == 0


async def test_what_the_disk_took_late_is_not_missed_by_who_pages_on(
    world: World, expected_errors: ExpectedErrors
) -> None:
    """Whatever the newest id is that a query has shown, everything that is archived later comes after it."""
    expected_errors.add("rows_not_stored_yet")
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    seen: list[str | None] = []
    last = ""

    async def on() -> None:
        nonlocal last
        page = await ask(juliet, rsm=f"<after>{last}</after>" if last else "")
        seen.extend(page.bodies)
        last = page.ids[-1] if page.ids else last

    for n in range(9):
        if n in (2, 3, 6):
            world.db.fail_next()
        say(romeo, str(n))
        await juliet.expect(f"<message id='{n}'/>")
        if n in (3, 4, 7):
            await world.pass_time(RETRY_SECONDS)
        await on()
    world.db.fail_no_more()
    for _ in range(2):
        await world.pass_time(RETRY_SECONDS)
    await on()
    assert seen == [str(n) for n in range(9)]


@pytest.mark.parametrize("gone", ["juliet@example.org", "romeo@example.org"])
@pytest.mark.parametrize("on_its_way", [False, True], ids=["refused", "on its way"])
async def test_nothing_of_a_removed_account_is_archived_later(
    world: World, expected_errors: ExpectedErrors, gone: str, on_its_way: bool
) -> None:
    """What was refused before it is forgotten, and so is what is refused while it is being removed."""
    expected_errors.add("rows_not_stored_yet")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    if on_its_way:
        world.db.hold()
    world.db.fail_next()
    for text in ("one", "two"):
        say(romeo, text)
        await juliet.expect(f"<message id='{text}'/>")
    if on_its_way:  # the archive may be the first to hear of the removal
        mam = world.kernel.registry.module(MamModule)
        removing = asyncio.ensure_future(mam.account_removed(AccountEvent(JID.parse(gone))))
        await world.settle()
        world.db.release()
    else:
        removing = asyncio.ensure_future(world.kernel.commands.run("user.remove", {"jid": gone}))
        await world.settle()
    for _ in range(3):
        await world.pass_time(RETRY_SECONDS)
    assert removing.done()
    await removing
    await world.pass_time(MERGE_DELAY)
    (left,) = {"juliet@example.org", "romeo@example.org"} - {gone}
    assert await world.db.fetch("SELECT jid, messages FROM mam_account") == [(left, 2)]


async def test_what_the_disk_refused_is_tried_again_at_the_stop(expected_errors: ExpectedErrors) -> None:
    expected_errors.add("rows_not_stored_yet")
    database = MemoryDatabase()
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        database.fail_next()
        for text in ("one", "two"):
            say(romeo, text)
            await juliet.expect(f"<message id='{text}'/>")
    async with World(database=database) as world:
        juliet = await world.login("juliet@example.org/balcony")
        assert (await ask(juliet)).bodies == ["one", "two"]
    await database.close()


async def test_a_retraction_is_archived_once_though_the_queue_is_full_behind_it(
    world: World, expected_errors: ExpectedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_errors.add("retracted_message_stays")
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    say(romeo, "oops")
    await juliet.expect("<message id='oops'/>")
    submit = world.db.submit
    refused = 0

    def full(
        name: str,
        fn: Callable[[Cursor], None],
        failed: Callable[[Exception], None] | None = None,
        *,
        whole: bool = False,
    ) -> int:
        nonlocal refused
        if name == "mam.retract":
            refused += 1
            raise StorageBusy("the queue is full")
        return submit(name, fn, failed, whole=whole)

    monkeypatch.setattr(world.db, "submit", full)
    say(romeo, "sorry", extra="<retract xmlns='urn:xmpp:message-retract:1' id='oops'/>")
    await juliet.expect("<message id='sorry'/>")
    for client in (romeo, juliet):
        assert (await ask(client)).bodies == ["oops", "sorry"]
    assert refused == 2


@pytest.mark.parametrize("written", ["a&amp;b", "a&#38;b", "&#97;b", "'", "&#39;"])
async def test_retracted_messages_may_have_ids_that_need_escaping(world: World, written: str) -> None:
    """An id may be written in one way where the message stands and in another where it is retracted."""
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo.send(f'<message to="juliet@example.org" type="chat" id="{written}"><body>oops</body></message>')
    (message,) = [await juliet.expect("<message><body>oops</body></message>")]
    again = message.get("id", "").replace("&", "&amp;").replace("'", "&apos;")
    romeo.send(
        f"<message to='juliet@example.org' type='chat' id='r'><retract xmlns='urn:xmpp:message-retract:1' id='{again}'/>"
        "</message>"
    )
    await juliet.expect("<message id='r'/>")
    for client in (romeo, juliet):
        tomb, _ = (await ask(client)).messages
        assert tomb.find("{urn:xmpp:message-retract:1}retracted") is not None
        assert tomb.find("{jabber:client}body") is None


async def test_times_of_the_distant_future_are_times_like_others(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x", "benvolio@example.net")
    for when in ("2112-06-01T00:00:00Z", "2500-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert (await ask(romeo, {"end": when})).bodies == ["x"]
        assert (await ask(romeo, {"start": when})).bodies == []
        assert (await ask(romeo, {"end": when, "{urn:xmpp:fulltext:0}fulltext": "x"})).bodies == ["x"]


async def test_retracted_messages_leave_a_tombstone_on_both_sides(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    say(romeo, "indexed")
    await world.pass_time(20)
    say(romeo, "fresh")
    for text in ("indexed", "fresh"):
        romeo.send(
            f"<message to='juliet@example.org' type='chat' id='r-{text}'>"
            f"<retract xmlns='urn:xmpp:message-retract:1' id='{text}'/></message>"
        )
    await world.pass_time(20)
    for client in (romeo, juliet):
        page = await ask(client)
        assert page.bodies == [None] * 4
        tombstones = [m.find("{urn:xmpp:message-retract:1}retracted") for m in page.messages[:2]]
        assert [t.get("id") for t in tombstones if t is not None] == ["r-indexed", "r-fresh"]
        assert [m.get("id") for m in page.messages] == ["indexed", "fresh", "r-indexed", "r-fresh"]
        assert all(t is not None and t.get("stamp") for t in tombstones)
        assert (await ask(client, {"{urn:xmpp:fulltext:0}fulltext": "indexed"})).ids == []


async def test_nobody_retracts_what_others_said(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    mercutio = await world.login("mercutio@example.org/x", presence=True)
    say(romeo, "mine")
    await world.settle()
    for villain in (juliet, mercutio):
        for to in ("romeo@example.org", "juliet@example.org"):
            villain.send(
                f"<message to='{to}' type='chat'><retract xmlns='urn:xmpp:message-retract:1' id='mine'/></message>"
            )
    await world.settle()
    for client in (romeo, juliet):
        page = await ask(client)
        assert page.bodies[0] == "mine"


async def test_ids_go_on_after_a_restart_and_the_rest_is_indexed() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        say(romeo, "one")
        first = await ask(romeo)
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        say(romeo, "two")
        page = await ask(romeo)
        assert page.bodies == ["one", "two"]
        assert page.ids[0] == first.ids[0] < page.ids[1]
        assert (await ask(romeo, {"{urn:xmpp:fulltext:0}fulltext": "one"})).ids == first.ids
    await database.close()


async def test_a_removed_account_leaves_nothing(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    for n in range(5):
        say(romeo, str(n))
    await romeo.iq("<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='never'/></iq>")
    await world.kernel.commands.run("user.remove", {"jid": "romeo@example.org"})
    await world.settle()
    for table in ("mam_message", "mam_prefs", "mam_chat t JOIN mam_account a"):
        joined = " ON a.num = t.account WHERE a.jid = 'romeo@example.org'" if " JOIN " in table else ""
        assert await world.db.fetch(f"SELECT * FROM {table}{joined}") == []
    juliet = await world.login("juliet@example.org/x")
    assert (await ask(juliet)).bodies == [str(n) for n in range(5)]


async def test_features_and_usage(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    answer = await romeo.iq(
        "<iq type='get' id='d' to='romeo@example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    )
    features = {el.get("var") for el in answer[0].iterfind("{*}feature")}
    assert {
        "urn:xmpp:mam:2",
        "urn:xmpp:mam:2#extended",
        "urn:xmpp:mam:2#groupchat-field",
        "urn:xmpp:fulltext:0",
        "urn:xmpp:sid:0",
        "urn:xmpp:message-retract:1#tombstone",
    } <= features
    say(romeo, "x")
    usage = await world.kernel.commands.run("mam.usage", {"jid": "juliet@example.org/whatever"})
    assert usage["messages"] == 1
    assert usage["bytes"] > 50
    running = world.kernel.registry.module(MamModule)
    assert running.xeps[0].number == 313


async def test_archives_of_others_are_closed(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    for xml in (
        "<iq type='set' id='a' to='juliet@example.org'><query xmlns='urn:xmpp:mam:2'/></iq>",
        "<iq type='get' id='b' to='juliet@example.org'><metadata xmlns='urn:xmpp:mam:2'/></iq>",
        "<iq type='get' id='c' to='juliet@example.org'><prefs xmlns='urn:xmpp:mam:2'/></iq>",
        "<iq type='get' id='d' to='juliet@example.org'><list xmlns='urn:xmpp:archive'/></iq>",
    ):
        answer = await romeo.iq(xml, type="error")
        assert answer.find("{*}error/{*}forbidden") is not None


async def test_results_are_for_the_session_that_asks(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    phone = await world.login("romeo@example.org/phone", presence=True)
    say(romeo, "x")
    await world.settle()
    phone.inbox.clear()
    answer = await romeo.iq("<iq type='set' id='q' to='romeo@example.org'><query xmlns='urn:xmpp:mam:2'/></iq>")
    assert answer.find("{urn:xmpp:mam:2}fin") is not None
    result = next(el for el in romeo.inbox if el.find(RESULT) is not None)
    assert result.find(RESULT).get("queryid") is None  # type: ignore[union-attr]
    assert result.find(f"{RESULT}/{MESSAGE}") is not None
    await phone.expect_nothing()
