"""Plays for extended addressing (XEP-0033), in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.elsewhere import Elsewhere

from beamish.core.events import Context
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

ADDRESS = "http://jabber.org/protocol/address"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


def many(
    *addresses: tuple[str, str], name: str = "message", attrs: str = " id='m'", body: str = "<body>hi</body>"
) -> str:
    inner = "".join(f"<address type='{kind}' jid='{jid}'/>" for kind, jid in addresses)
    return f"<{name} to='example.org'{attrs}><addresses xmlns='{ADDRESS}'>{inner}</addresses>{body}</{name}>"


class Headers(Elsewhere):
    """header2 serves many at its domain, header3 at a service of it, noheader not at all."""

    def answered(self, ctx: Context) -> bool:
        stanza = ctx.stanza
        if stanza.name != "iq":
            return False
        if stanza.type == "get":
            payload = stanza.payload
            assert payload is not None
            space = str(payload.tag)[1:].partition("}")[0]
            inner = ""
            if space.endswith("#info") and stanza.to in ("header2.example", "many.header3.example"):
                inner = f"<feature var='{ADDRESS}'/>"
            elif space.endswith("#items") and stanza.to == "header3.example":
                inner = "<item jid='elsewhere.example'/><item jid='many.header3.example'/>"
            self.kernel.router.post(stanza.reply(f"<query xmlns='{space}'>{inner}</query>".encode()))
        return True


@pytest_asyncio.fixture
async def court() -> AsyncIterator[World]:
    async with World(extra=[Headers]) as made:
        yield made


@pytest_asyncio.fixture
async def romeo(court: World) -> Client:
    return await court.login("romeo@example.org/orchard", presence=True)


def header(stanza: Stanza) -> list[tuple[str, str, str | None]]:
    el = stanza.child(f"{{{ADDRESS}}}addresses")
    assert el is not None
    return [(a.get("type", ""), a.get("jid", ""), a.get("delivered")) for a in el]


async def test_support_is_announced(romeo: Client) -> None:
    info = await romeo.iq(
        "<iq type='get' id='d' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    )
    assert any(el.get("var") == ADDRESS for el in info[0])


async def test_to_cc_and_bcc(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    nurse = await court.login("nurse@example.org/street", presence=True)
    mercutio = await court.login("mercutio@example.org/square", presence=True)
    benvolio = await court.login("benvolio@example.net/street", presence=True)
    romeo.send(
        many(
            ("to", "juliet@example.org"),
            ("cc", "nurse@example.org"),
            ("bcc", "mercutio@example.org/square"),
            ("bcc", "benvolio@example.net"),
            ("replyto", "romeo@example.org"),
        )
    )
    shown = (
        f"<message from='romeo@example.org/orchard' id='m'><body>hi</body><addresses xmlns='{ADDRESS}'>"
        "<address type='to' jid='juliet@example.org' delivered='true'/>"
        "<address type='cc' jid='nurse@example.org' delivered='true'/>"
        "<address type='replyto' jid='romeo@example.org' delivered='!'/></addresses></message>"
    )
    for client, to, blind in (
        (juliet, "juliet@example.org", 0),
        (nurse, "nurse@example.org", 0),
        (mercutio, "mercutio@example.org/square", 1),
        (benvolio, "benvolio@example.net", 1),
    ):
        got = await client.expect(shown)
        assert got.get("to") == to
        bcc = [el.get("jid") for el in got.iter(f"{{{ADDRESS}}}address") if el.get("type") == "bcc"]
        assert bcc == [to] * blind
        await client.expect_nothing()
    await romeo.expect_nothing()


async def test_each_gets_one_copy_and_nobody_who_has_it_already(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    nurse = await court.login("nurse@example.org/street", presence=True)
    sent = many(("to", "juliet@example.org"), ("cc", "Juliet@example.org"), ("to", "nurse@example.org"))
    romeo.send(sent.replace("jid='nurse@example.org'", "jid='nurse@example.org' delivered='true'"))
    await juliet.expect("<message><body>hi</body></message>")
    await juliet.expect_nothing()
    await nurse.expect_nothing()


async def test_copies_are_kept_for_who_is_away_and_bounce_by_themselves(court: World, romeo: Client) -> None:
    romeo.send(many(("to", "juliet@example.org"), ("to", "nobody@example.org"), attrs=" type='chat' id='m'"))
    error = f"<error><service-unavailable xmlns='{STANZAS}'/></error>"
    await romeo.expect(f"<message type='error' id='m' from='nobody@example.org'>{error}</message>")
    await romeo.expect_nothing()
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    await juliet.expect("<message><body>hi</body><delay xmlns='urn:xmpp:delay'/></message>")


async def test_blocked_addressees_are_as_blocked_as_ever(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    nurse = await court.login("nurse@example.org/street", presence=True)
    await juliet.iq(
        "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></block></iq>"
    )
    romeo.send(many(("to", "juliet@example.org"), ("to", "nurse@example.org"), attrs=" type='headline' id='m'"))
    await nurse.expect("<message><body>hi</body></message>")
    await juliet.expect_nothing()


async def test_directed_presence_and_its_end(court: World, romeo: Client) -> None:
    nurse = await court.login("nurse@example.org/street", presence=True)
    mercutio = await court.login("mercutio@example.org/square", presence=True)
    both = (("bcc", "nurse@example.org"), ("bcc", "mercutio@example.org/square"))
    romeo.send(many(*both, name="presence", attrs="", body="<status>here</status>"))
    for client in (nurse, mercutio):
        await client.expect("<presence from='romeo@example.org/orchard' type='!'><status>here</status></presence>")
    romeo.drop()
    await court.settle()
    for client in (nurse, mercutio):
        await client.expect("<presence from='romeo@example.org/orchard' type='unavailable'/>")


async def test_unavailable_presence_to_many(court: World, romeo: Client) -> None:
    nurse = await court.login("nurse@example.org/street", presence=True)
    romeo.send("<presence to='nurse@example.org'/>")
    await nurse.expect("<presence type='!'/>")
    romeo.send(many(("to", "nurse@example.org"), name="presence", attrs=" type='unavailable'", body=""))
    await nurse.expect("<presence type='unavailable'/>")


@pytest.mark.parametrize(
    ("addresses", "condition"),
    [
        ([("to", f"a{number}@example.org") for number in range(51)], "not-acceptable"),
        ([("sideways", "juliet@example.org")], "bad-request"),
        ([("to", "@@@")], "jid-malformed"),
        ([("to", "juliet@example.org"), ("to", "example.org")], "not-acceptable"),
    ],
)
async def test_what_is_wrong_is_refused_as_a_whole(
    court: World, romeo: Client, addresses: list[tuple[str, str]], condition: str
) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    romeo.send(many(*addresses))
    await romeo.expect(f"<message type='error' id='m'><error><{condition} xmlns='{STANZAS}'/></error></message>")
    await romeo.expect_nothing()
    await juliet.expect_nothing()


@pytest.mark.parametrize(
    ("attribute", "condition"), [("uri='sip:a@b'", "jid-malformed"), ("desc='who?'", "bad-request")]
)
async def test_other_kinds_of_addresses(romeo: Client, attribute: str, condition: str) -> None:
    romeo.send(many(("to", "juliet@example.org")).replace("jid='juliet@example.org'", attribute))
    await romeo.expect(f"<message type='error'><error><{condition} xmlns='{STANZAS}'/></error></message>")


async def test_a_header_without_addressees_is_a_message_to_the_domain(romeo: Client) -> None:
    romeo.send(many(("replyto", "juliet@example.org")))
    await romeo.expect(f"<message type='error'><error><service-unavailable xmlns='{STANZAS}'/></error></message>")


async def test_a_header_on_a_message_to_one_is_left_alone(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    nurse = await court.login("nurse@example.org/street", presence=True)
    romeo.send(many(("to", "nurse@example.org")).replace("to='example.org'", "to='juliet@example.org'"))
    await juliet.expect(
        f"<message><addresses xmlns='{ADDRESS}'><address jid='nurse@example.org' delivered='!'/></addresses></message>"
    )
    await nurse.expect_nothing()


# ---- other servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "service"), [("header2.example", "header2.example"), ("header3.example", "many.header3.example")]
)
async def test_a_server_that_serves_many_gets_one_stanza(
    court: World, romeo: Client, domain: str, service: str
) -> None:
    theirs = [("to", f"to@{domain}"), ("cc", f"cc@{domain}"), ("bcc", f"bcc@{domain}")]
    sent = many(*theirs, ("to", "to@noheader.example"), ("bcc", "bcc@noheader.example"))
    romeo.send(sent)
    await court.settle()
    # nothing was known yet: single copies
    assert sorted(str(s.to) for s in Headers.of(court).left) == sorted(
        [f"to@{domain}", f"cc@{domain}", f"bcc@{domain}", "to@noheader.example", "bcc@noheader.example"]
    )
    Headers.of(court).left.clear()
    romeo.send(sent)
    await court.settle()
    left = {str(s.to): header(s) for s in Headers.of(court).left}
    public = [("to", f"to@{domain}", "true"), ("cc", f"cc@{domain}", "true"), ("to", "to@noheader.example", "true")]
    assert left == {
        service: [
            ("to", f"to@{domain}", None),
            ("cc", f"cc@{domain}", None),
            ("bcc", f"bcc@{domain}", None),
            ("to", "to@noheader.example", "true"),
        ],
        "to@noheader.example": public,
        "bcc@noheader.example": [*public, ("bcc", "bcc@noheader.example", None)],
    }
    assert {s.sender for s in Headers.of(court).left} == {romeo.jid}


def comes(sent: str) -> Stanza:
    made = Stanza.parse(sent.encode())
    return made.replace(sender=JID.parse("hamlet@denmark.example/x"))


@pytest.mark.parametrize("name", ["message", "presence"])
async def test_another_server_may_address_our_users(court: World, name: str) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    nurse = await court.login("nurse@example.org/street", presence=True)
    sent = many(
        ("to", "juliet@example.org/balcony"), ("bcc", "nurse@example.org/street"), ("to", "x@y.example"), name=name
    )
    sent = sent.replace("jid='x@y.example'", "jid='x@y.example' delivered='true'")
    court.kernel.router.post(comes(sent))
    for client, blind in ((juliet, 0), (nurse, 1)):
        got = await client.receive()
        wanted = f"<{name} from='hamlet@denmark.example/x'><addresses xmlns='{ADDRESS}'/></{name}>"
        assert mismatch(wanted, got) == ""
        assert sum(1 for el in got.iter(f"{{{ADDRESS}}}address") if el.get("type") == "bcc") == blind


async def test_another_server_may_not_relay(court: World) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    court.kernel.router.post(comes(many(("to", "juliet@example.org"), ("to", "x@y.example"))))
    await juliet.expect_nothing()
    (left,) = Headers.of(court).left
    assert mismatch(f"<message type='error'><error><forbidden xmlns='{STANZAS}'/></error></message>", left.el) == ""


@pytest.mark.parametrize(
    ("copies", "size", "seconds"), [(20, 10, 13), (2, 60_000, 6)], ids=["one for each copy", "more for long ones"]
)
async def test_each_copy_counts_for_the_rate(copies: int, size: int, seconds: int) -> None:
    """Fifty for the price of one, kept and archived each, were what a stranger could have: 60,000 copies in 3 s."""
    limits = {"stanza_burst": 7, "stanzas_per_second": 1}
    async with World(settings={"limits": limits}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        await world.pass_time(60)
        addresses = [("to", f"juliet@example.org/{n}") for n in range(copies)]
        romeo.send(many(*addresses, attrs=" type='headline'", body=f"<body>{'x' * size}</body>"))
        romeo.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
        await world.settle()
        await romeo.expect_nothing()
        await world.pass_time(seconds - 2)
        await romeo.expect_nothing()
        await world.pass_time(2 + 2)
        await romeo.expect("<iq id='p' type='result'/>")
