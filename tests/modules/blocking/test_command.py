"""XEP-0191 and XEP-0377 through a whole server."""

import base64
import hashlib

import pytest

from beamish.core.services import AccountsService
from beamish.modules.blocking.reports import Reports
from beamish.storage.api import StorageBusy, StorageUnavailable
from beamish.storage.memory import MemoryDatabase
from beamish.testing.match import condition
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import to_bytes

from .kit import block, blocklist, friends, privacy, unblock

BLOCKED = (
    "<message type='error'><error type='cancel'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
    "<blocked xmlns='urn:xmpp:blocking:errors'/></error></message>"
)
PING = "<ping xmlns='urn:xmpp:ping'/>"


async def test_a_blocked_contact_hears_nothing_and_says_nothing(world: World) -> None:
    juliet, romeo = await friends(world)
    await block(juliet, "romeo@example.org")
    await romeo.expect("<presence type='unavailable' from='juliet@example.org/balcony'/>")
    # nothing gets in
    romeo.send("<message to='juliet@example.org' type='chat' id='m'><body>Hello?</body></message>")
    got = await romeo.expect("<message type='error' id='m' from='juliet@example.org'/>")
    assert condition(got) == "service-unavailable"
    romeo.send("<message to='juliet@example.org/balcony' type='headline'><body>Hello?</body></message>")
    romeo.send("<presence to='juliet@example.org/balcony'/>")
    romeo.send("<presence to='juliet@example.org' type='probe'/>")
    romeo.send("<presence to='juliet@example.org' type='subscribe'/>")
    romeo.send("<presence><show>away</show></presence>")
    await world.settle()
    romeo.inbox.clear()
    for to in ("juliet@example.org", "juliet@example.org/balcony"):
        assert condition(await romeo.iq(f"<iq type='get' id='i' to='{to}'>{PING}</iq>", type="error")) == (
            "service-unavailable"
        )
    romeo.send("<iq type='result' id='x' to='juliet@example.org/balcony'/>")
    await romeo.expect_nothing()
    juliet.inbox.popleft()  # what blocking itself brings: Romeo leaves, for Juliet
    await juliet.expect_nothing()
    # nothing gets out
    juliet.send("<message to='romeo@example.org'><body>Can you hear me now?</body></message>")
    await juliet.expect(BLOCKED)
    juliet.send("<presence to='romeo@example.org/orchard'/>")
    await juliet.expect(BLOCKED.replace("message", "presence"))
    juliet.send("<presence to='romeo@example.org' type='unsubscribed'/>")
    await juliet.expect(BLOCKED.replace("message", "presence"))
    assert condition(await juliet.iq(f"<iq type='get' id='i' to='romeo@example.org'>{PING}</iq>", type="error")) == (
        "not-acceptable"
    )
    juliet.send("<presence><show>dnd</show></presence>")
    await world.settle()
    await romeo.expect_nothing()


async def test_a_blocked_party_cannot_tell_a_block_from_no_account(world: World) -> None:
    juliet, romeo = await friends(world)
    await block(juliet, "romeo@example.org")
    await world.settle()
    romeo.inbox.clear()
    for type_ in ("", "chat", "normal", "groupchat", "headline", "error"):
        answers = []
        for name in ("juliet", "nobody"):
            romeo.send(f"<message to='{name}@example.org' type='{type_}' id='m'><body>?</body></message>")
            await world.settle()
            answers.append([condition(el) for el in romeo.inbox])
            romeo.inbox.clear()
        assert answers[0] == answers[1], type_


def get(inner: str, type: str = "get") -> str:
    return f"<iq type='{type}' to='%s' id='q'>{inner}</iq>"


PEP = "http://jabber.org/protocol/pubsub"
ASKED = (
    get("<query xmlns='http://jabber.org/protocol/disco#info'/>"),
    get("<query xmlns='http://jabber.org/protocol/disco#items'/>"),
    get("<query xmlns='http://jabber.org/protocol/disco#items' node='urn:xmpp:mood'/>"),
    get("<query xmlns='http://jabber.org/protocol/disco#items' node='http://jabber.org/protocol/commands'/>"),
    get("<vCard xmlns='vcard-temp'/>"),
    get("<vCard xmlns='vcard-temp'/>", "set"),
    get(f"<pubsub xmlns='{PEP}'><items node='urn:xmpp:mood'/></pubsub>"),
    get(f"<pubsub xmlns='{PEP}'><subscriptions/></pubsub>"),
    get(f"<pubsub xmlns='{PEP}'><publish node='x'><item/></publish></pubsub>", "set"),
    get(f"<pubsub xmlns='{PEP}#owner'><default/></pubsub>"),
    get("<query xmlns='jabber:iq:last'/>"),
    get("<query xmlns='jabber:iq:roster'/>"),
    get("<query xmlns='jabber:iq:private'><x xmlns='y'/></query>"),
    get("<query xmlns='urn:xmpp:mam:2'/>", "set"),
    get("<blocklist xmlns='urn:xmpp:blocking'/>"),
    get("<query xmlns='jabber:iq:register'/>"),
    get("<command xmlns='http://jabber.org/protocol/commands' node='x'/>", "set"),
    get(PING),
    get("<x xmlns='urn:nobody'/>", "set"),
    get("<x xmlns='urn:nobody'/><y xmlns='urn:nobody'/>"),
    *(f"<presence type='{type_}' to='%s' id='q'/>" for type_ in ("subscribe", "unsubscribe", "probe", "error", "")),
    f"<presence type='subscribe' to='%s' id='q'><status>{'x' * 17_000}</status></presence>",
    "<message type='chat' to='%s' id='q'><body>?</body></message>",
    "<message type='chat' to='%s' id='q'><received xmlns='urn:xmpp:receipts' id='m'/></message>",
    "<message type='headline' to='%s' id='q'><body>?</body></message>",
    *(
        f"<message type='chat' to='%s' id='q'><body>?</body><amp xmlns='http://jabber.org/protocol/amp'>"
        f"<rule condition='deliver' value='{value}' action='{action}'/></amp></message>"
        for action in ("notify", "error", "drop", "nonsense")
        for value in ("direct", "none")
    ),
)


@pytest.mark.parametrize("resource", ["", "/balcony"])
async def test_a_blocked_party_gets_what_it_would_get_from_no_account(world: World, resource: str) -> None:
    """XEP-0191 §3.3 wants an error for a request, which should be `service-unavailable`; where an account that is not there
    answers with another, or with the empty list of XEP-0030 §8, so does the one that blocks. Byte by byte.
    """
    juliet, romeo = await friends(world)
    await juliet.iq("<iq type='set' id='v'><vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard></iq>")
    mood = f"<pubsub xmlns='{PEP}'><publish node='urn:xmpp:mood'><item id='1'><x xmlns='y'/></item></publish></pubsub>"
    await juliet.iq(f"<iq type='set' id='m'>{mood}</iq>")
    await block(juliet, "romeo@example.org")
    await world.settle()
    for request in ASKED:
        answers = []
        for who in ("juliet@example.org", "nobody@example.org"):
            romeo.inbox.clear()
            romeo.send(request % f"{who}{resource}")
            await world.settle()
            answers.append(b"".join(to_bytes(el) for el in romeo.inbox).replace(who.encode(), b"somebody"))
        assert answers[0] == answers[1], (request, answers)
        assert "<iq" not in request or b'type="error"' in answers[0] or b"disco#items" in answers[0]


async def test_unblocking_restores_presence_both_ways(world: World) -> None:
    juliet, romeo = await friends(world)
    await block(juliet, "romeo@example.org")
    await world.settle()
    await juliet.expect("<presence type='unavailable' from='romeo@example.org/orchard'/>")
    romeo.inbox.clear()
    await unblock(juliet, "romeo@example.org")
    await romeo.expect("<presence from='juliet@example.org/balcony' type='!'/>")
    await juliet.expect("<presence from='romeo@example.org/orchard' type='!'/>")
    romeo.send("<message to='juliet@example.org' type='chat'><body>At last</body></message>")
    await juliet.expect("<message from='romeo@example.org/orchard'><body>At last</body></message>")
    assert await blocklist(juliet) == []
    assert await world.db.fetch("SELECT * FROM privacy_list") == []


async def test_presence_is_only_shown_to_those_who_may_see_it(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await block(juliet, "romeo@example.org")
    await unblock(juliet)
    await romeo.expect_nothing()
    await juliet.expect_nothing()


async def test_directed_presence_ends_with_a_block(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet.send("<presence to='romeo@example.org/orchard'/>")
    await romeo.expect("<presence from='juliet@example.org/balcony' type='!'/>")
    await block(juliet, "romeo@example.org")
    await romeo.expect("<presence from='juliet@example.org/balcony' type='unavailable'/>")
    juliet.drop()
    await romeo.expect_nothing()


async def test_a_whole_domain(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    benvolio = await world.login("benvolio@example.net/street", presence=True)
    await world.befriend(juliet, benvolio)
    await block(juliet, "example.net")
    await benvolio.expect("<presence type='unavailable'/>")
    benvolio.send("<message to='juliet@example.org' id='m'><body>?</body></message>")
    await benvolio.expect("<message type='error' id='m'/>")
    juliet.send("<message to='example.net' id='m'><body>?</body></message>")
    await juliet.expect("<presence type='unavailable'/>")
    await juliet.expect(BLOCKED)


async def test_your_own_domain_does_not_lock_you_out(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    phone = await world.login("juliet@example.org/phone", presence=True)
    await world.settle()
    juliet.inbox.clear()
    phone.inbox.clear()
    await block(juliet, "example.org")
    await juliet.iq(f"<iq type='get' id='i' to='example.org'>{PING}</iq>")
    juliet.send("<message to='juliet@example.org/phone'><body>note</body></message>")
    await phone.expect("<message><body>note</body></message>")
    await unblock(juliet)
    assert await blocklist(juliet) == []


async def test_nobody_blocks_himself(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony")
    error = await juliet.iq(
        "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='juliet@example.org'/></block></iq>",
        type="error",
    )
    assert condition(error) == "not-allowed"


async def test_one_resource_only(world: World) -> None:
    juliet, romeo = await friends(world)
    phone = await world.login("romeo@example.org/phone", presence=True)
    await world.settle()
    await block(juliet, "romeo@example.org/phone")
    await world.settle()
    juliet.inbox.clear()
    phone.send("<message to='juliet@example.org/balcony'><body>phone</body></message>")
    romeo.send("<message to='juliet@example.org/balcony'><body>orchard</body></message>")
    await juliet.expect("<message><body>orchard</body></message>")
    await juliet.expect_nothing()


async def test_pushes_go_to_the_devices_that_have_asked_for_the_list(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    phone = await world.login("juliet@example.org/phone")
    old = await world.login("juliet@example.org/old")
    assert await blocklist(phone) == await blocklist(juliet) == []
    juliet.inbox.clear()
    await block(juliet, "romeo@example.org", "example.net")
    push = (
        "<iq type='set' id='*'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/>"
        "<item jid='example.net'/></block></iq>"
    )
    await phone.expect(push)
    await juliet.expect(push)
    await old.expect_nothing()
    assert await blocklist(phone) == ["romeo@example.org", "example.net"]
    await unblock(phone, "example.net")
    await juliet.expect("<iq type='set'><unblock xmlns='urn:xmpp:blocking'><item jid='example.net'/></unblock></iq>")
    await unblock(phone)
    got = await juliet.expect("<iq type='set'><unblock xmlns='urn:xmpp:blocking'/></iq>")
    assert len(got[0]) == 0
    assert await blocklist(juliet) == []


async def test_events_do_not_reach_a_blocked_contact(world: World) -> None:
    juliet, romeo = await friends(world)
    feature = "http://jabber.org/protocol/mood+notify"
    ver = base64.b64encode(hashlib.sha1(f"client/pc//<{feature}<".encode()).digest()).decode()
    romeo.send(f"<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n' ver='{ver}'/></presence>")
    await world.settle()
    question = romeo.inbox[-1]
    romeo.send(
        f"<iq type='result' id='{question.get('id')}' to='romeo@example.org'>"
        f"<query xmlns='http://jabber.org/protocol/disco#info' node='n#{ver}'>"
        f"<identity category='client' type='pc'/><feature var='{feature}'/></query></iq>"
    )
    mood = "<mood xmlns='http://jabber.org/protocol/mood'><{}/></mood>"
    publish = (
        "<iq type='set' id='p'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish "
        "node='http://jabber.org/protocol/mood'><item>{}</item></publish></pubsub></iq>"
    )
    await juliet.iq(publish.format(mood.format("happy")))
    await world.settle()
    assert romeo.inbox[-1].find(".//{http://jabber.org/protocol/mood}happy") is not None
    await block(juliet, "romeo@example.org")
    await romeo.expect_all(
        "<presence type='unavailable' from='juliet@example.org/balcony'/>", "<message/>", "<presence/>", "<iq/>"
    )
    await juliet.iq(publish.format(mood.format("sad")))
    await romeo.expect_nothing()


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<block xmlns='urn:xmpp:blocking'/>", "bad-request"),
        ("<block xmlns='urn:xmpp:blocking'><item/></block>", "jid-malformed"),
        ("<block xmlns='urn:xmpp:blocking'><item jid='@'/></block>", "jid-malformed"),
        ("<block xmlns='urn:xmpp:blocking'><jid/></block>", "bad-request"),
        ("<unblock xmlns='urn:xmpp:blocking'><item jid='@'/></unblock>", "jid-malformed"),
    ],
)
async def test_errors(world: World, inner: str, expected: str) -> None:
    juliet = await world.login("juliet@example.org/balcony")
    assert condition(await juliet.iq(f"<iq type='set' id='b'>{inner}</iq>", type="error")) == expected


async def test_somebody_elses_list_is_not_to_be_had(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    ask = "<blocklist xmlns='urn:xmpp:blocking'/>"
    for name in ("juliet", "nobody"):
        error = await romeo.iq(f"<iq type='get' id='b' to='{name}@example.org'>{ask}</iq>", type="error")
        assert condition(error) == "forbidden"


async def test_limits() -> None:
    async with World(settings={"modules": {"blocking": {"max_items": 10}}}) as world:
        juliet = await world.login("juliet@example.org/balcony")
        await block(juliet, *(f"n{number}@example.net" for number in range(10)))
        inner = "<block xmlns='urn:xmpp:blocking'><item jid='one@too.many'/></block>"
        error = await juliet.iq(f"<iq type='set' id='b'>{inner}</iq>", type="error")
        assert condition(error) == "resource-constraint"
        assert len(await blocklist(juliet)) == 10


async def test_a_block_holds_for_those_who_are_away_and_after_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        juliet, _ = await friends(world)
        await block(juliet, "romeo@example.org")
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        romeo.send("<message to='juliet@example.org' id='m' type='chat'><body>?</body></message>")
        assert condition(await romeo.expect("<message type='error' id='m'/>")) == "service-unavailable"
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        await juliet.expect_nothing()  # neither a stored message nor presence
        await romeo.expect_nothing()
        later = await world.login("romeo@example.org/later", presence=True)
        await world.settle()
        assert all(el.get("from") != str(juliet.jid) for el in later.inbox)
        assert await blocklist(juliet) == ["romeo@example.org"]
        await world.kernel.service(AccountsService).remove(JID.parse("juliet@example.org"))
        for table in ("privacy_list", "privacy_default", "abuse_report"):
            assert await world.db.fetch(f"SELECT * FROM {table}") == []
    await database.close()


async def test_the_blocklist_is_the_default_privacy_list(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony")
    await block(juliet, "romeo@example.org")
    got = await privacy(juliet, "", type="get")
    default = got.find(".//{jabber:iq:privacy}default")
    assert default is not None
    name = default.get("name")
    nurse = "<item type='jid' value='nurse@example.org' action='deny' order='0'><message/></item>"
    rest = f"{nurse}<item action='allow' order='4'/>"
    juliet.inbox.clear()
    await blocklist(juliet)
    await privacy(
        juliet, f"<list name='{name}'><item type='jid' value='example.net' action='deny' order='3'/>{rest}</list>"
    )
    await juliet.expect("<iq type='set'><query xmlns='jabber:iq:privacy'><list name='*'/></query></iq>")
    await juliet.expect("<iq type='set'><block xmlns='urn:xmpp:blocking'><item jid='example.net'/></block></iq>")
    await juliet.expect(
        "<iq type='set'><unblock xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></unblock></iq>"
    )
    assert await blocklist(juliet) == ["example.net"]
    await block(juliet, "mercutio@example.org")
    got = await privacy(juliet, f"<list name='{name}'/>", type="get")
    values = [item.get("value") for item in got.iter("{jabber:iq:privacy}item")]
    assert values == ["mercutio@example.org", "nurse@example.org", "example.net", None]  # blocked ones come first
    await unblock(juliet)
    got = await privacy(juliet, f"<list name='{name}'/>", type="get")
    assert [item.get("value") for item in got.iter("{jabber:iq:privacy}item")] == ["nurse@example.org", None]


# ---- XEP-0377 -------------------------------------------------------------------------------------------------------

REPORT = (
    "<item jid='romeo@example.net'><report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'>"
    "<stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='28482-98726-73623'/>"
    "<text xml:lang='en'>Never came trouble to my house like this.</text><report-origin/></report></item>"
)


async def test_reports_are_kept_for_the_administrator(world: World) -> None:
    juliet = await world.login("juliet@example.org/chamber")
    await juliet.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'>{REPORT}</block></iq>")
    assert await blocklist(juliet) == ["romeo@example.net"]
    (report,) = await world.kernel.commands.run("report.list", {})
    assert report["reporter"] == "juliet@example.org" and report["jid"] == "romeo@example.net"
    assert report["reason"] == "urn:xmpp:reporting:spam"
    assert report["text"] == "Never came trouble to my house like this."
    assert report["stanzas"] == [["juliet@example.org", "28482-98726-73623"]]
    assert report["to_origin"] and not report["to_others"]
    await world.kernel.commands.run("report.remove", {"id": report["id"]})
    assert await world.kernel.commands.run("report.list", {}) == []


@pytest.mark.parametrize(
    ("inside", "reason", "text"),
    [
        ("<spam/>", "spam", ""),
        (
            "<abuse/><text>Never came trouble to my house like this.</text>",
            "abuse",
            "Never came trouble to my house like this.",
        ),
        ("", "abuse", ""),
    ],
)
async def test_a_report_in_the_earlier_form_is_kept(world: World, inside: str, reason: str, text: str) -> None:
    """XEP-0377 0.2, which Gajim 1.7 sends."""
    juliet = await world.login("juliet@example.org/chamber")
    await juliet.iq(
        "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.net'>"
        f"<report xmlns='urn:xmpp:reporting:0'>{inside}</report></item></block></iq>"
    )
    assert await blocklist(juliet) == ["romeo@example.net"]
    (report,) = await world.kernel.commands.run("report.list", {})
    assert (report["jid"], report["reason"]) == ("romeo@example.net", f"urn:xmpp:reporting:{reason}")
    assert report["text"] == text and report["stanzas"] == [] and not report["to_origin"]


async def test_a_block_fails_as_a_whole_with_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World() as world:
        juliet = await world.login("juliet@example.org/chamber")

        def full(*args: object) -> None:
            raise StorageBusy("no room")

        monkeypatch.setattr(Reports, "put", full)
        error = await juliet.iq(
            f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'>{REPORT}</block></iq>", type="error"
        )
        assert condition(error) == "resource-constraint"
        assert await blocklist(juliet) == []


async def test_what_fails_after_a_block_is_not_told_as_its_failure(
    world: World, expected_errors: ExpectedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_errors.add("iq_handler_failed")
    juliet, _ = await friends(world)

    async def fail(*_: object) -> None:
        raise StorageUnavailable("disk full")

    monkeypatch.setattr("beamish.modules.blocking.owners.settle", fail)
    juliet.send("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></block></iq>")
    await juliet.expect("<iq type='result' id='b'/>")
    await juliet.expect_nothing()
    assert await blocklist(juliet) == ["romeo@example.org"]


async def test_a_report_without_a_reason_is_refused_with_its_block(world: World) -> None:
    juliet = await world.login("juliet@example.org/chamber")
    item = "<item jid='romeo@example.net'><report xmlns='urn:xmpp:reporting:1'/></item>"
    error = await juliet.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'>{item}</block></iq>", type="error")
    assert condition(error) == "bad-request"
    assert await blocklist(juliet) == []


async def test_reports_are_bounded() -> None:
    settings = {"modules": {"blocking": {"reports_kept": 3, "reports_per_day": 2}}}
    async with World(settings=settings) as world:
        for name in ("juliet", "romeo", "nurse"):
            client = await world.login(f"{name}@example.org/x")
            for _ in range(3):
                await client.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'>{REPORT}</block></iq>")
        kept = await world.kernel.commands.run("report.list", {})
        assert [report["reporter"].partition("@")[0] for report in kept] == ["nurse", "nurse", "romeo"]


@pytest.mark.parametrize("orderly", [True, False])
async def test_what_waited_for_the_user_before_the_block_is_not_delivered_after_it(orderly: bool) -> None:
    """§3.3: once blocked, nothing is delivered; not what was stored until then either, here or after a restart."""
    database = MemoryDatabase()
    async with World(database=database) as world:
        benvolio = await world.login("benvolio@example.net/street")
        mercutio = await world.login("mercutio@example.org/square")
        for client in (benvolio, mercutio):
            client.send("<message to='juliet@example.org' type='chat'><body>before</body></message>")
            client.send("<presence to='juliet@example.org' type='subscribe'/>")
        await world.settle()
        juliet = await world.login("juliet@example.org/balcony")
        await block(juliet, "benvolio@example.net")
        if orderly:
            await _hears_of_mercutio_alone(world)
    if not orderly:
        async with World(database=database, accounts=()) as world:
            await _hears_of_mercutio_alone(world)


async def _hears_of_mercutio_alone(world: World) -> None:
    juliet = await world.login("juliet@example.org/chamber", presence=True)
    await juliet.expect_all(
        "<presence type='subscribe' from='mercutio@example.org'/>",
        "<message from='mercutio@example.org/square'><body>before</body></message>",
    )
    await world.settle()
    assert not [el for el in juliet.inbox if "benvolio" in (el.get("from") or "")]
    # the request waits: it is shown when the block has ended
    await unblock(juliet, "benvolio@example.net")
    juliet.send("<presence type='unavailable'/>")
    await world.settle()
    juliet.inbox.clear()
    await juliet.appear()
    await world.settle()
    asked = [el.get("from") for el in juliet.inbox if el.get("type") == "subscribe"]
    assert sorted(str(jid) for jid in asked) == ["benvolio@example.net", "mercutio@example.org"]


async def test_a_blocked_contact_that_is_removed_does_not_hear_which_resources_there_are(world: World) -> None:
    juliet, romeo = await friends(world)
    await block(juliet, "romeo@example.org")
    hidden = await world.login("juliet@example.org/hidden", presence=True)
    await world.settle()
    romeo.inbox.clear()
    item = "<item jid='romeo@example.org' subscription='remove'/>"
    await hidden.iq(f"<iq type='set' id='rm'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
    await romeo.expect_all(
        "<presence type='unsubscribe' from='juliet@example.org'/>",
        "<presence type='unsubscribed' from='juliet@example.org'/>",
    )
    await romeo.expect_nothing()
