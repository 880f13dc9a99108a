"""What messages may hold and what becomes of it: chat states, rich text, many addressees, rules, receipts, archives."""

from __future__ import annotations

from lxml import etree

from beamish.core.clock import parse_stamp, stamp
from beamish.testing.match import mismatch
from beamish.xmpp.xml import Element

from .kit import (
    CARBONS,
    FORWARDED,
    MAM,
    ROOM,
    RSM,
    STANZAS,
    archive,
    bodies,
    body,
    condition,
    copies,
    enter,
    features,
    kept,
    kind,
)
from .stage import Stage

CHAT_STATES = "http://jabber.org/protocol/chatstates"
STATES = ("active", "composing", "paused", "inactive", "gone")
ADDRESS = "http://jabber.org/protocol/address"
AMP = "http://jabber.org/protocol/amp"
HTML = (
    '<html xmlns="http://jabber.org/protocol/xhtml-im"><body xmlns="http://www.w3.org/1999/xhtml"><p style="color: red">'
    "Wow, I'm <em>green</em>\n  with <strong>envy</strong>! &lt;3 \U0001f49a\t<br/>"
    '<a href="http://example.com/?a=1&amp;b=&quot;2&quot;">here</a></p></body></html>'
)


def canonical(el: Element) -> bytes:
    """An element without what XML does not tell apart (exclusive canonical XML)."""
    return bytes(etree.tostring(el, method="c14n", exclusive=True, with_tail=False))


async def test_row_18_chat_states(stage: Stage) -> None:
    """States reach online peers, are not stored offline, not archived, held back for CSI-inactive clients."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    phone = await stage.login("juliet@example.org/phone", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.clear()
    for state in STATES:
        for client in (juliet, benvolio):
            romeo.send(f"<message to='{client.jid}' type='chat'><{state} xmlns='{CHAT_STATES}'/></message>")
            await client.expect(f"<message from='{romeo.jid}' type='chat'><{state} xmlns='{CHAT_STATES}'/></message>")

    # a client that nobody looks at is left in peace, its neighbour is not, and a text still arrives
    phone.send("<inactive xmlns='urn:xmpp:csi:0'/>")
    await stage.clear()
    romeo.send(f"<message to='juliet@example.org' type='chat'><composing xmlns='{CHAT_STATES}'/></message>")
    await juliet.expect(f"<message><composing xmlns='{CHAT_STATES}'/></message>")
    await stage.nothing(phone)
    romeo.send(f"<message to='{phone.jid}' type='chat'><paused xmlns='{CHAT_STATES}'/></message>")
    await stage.nothing(phone)
    text = f"<message to='juliet@example.org' type='chat'><body>Hi</body><active xmlns='{CHAT_STATES}'/></message>"
    romeo.send(text)
    await stage.seek(phone, f"<message><body>Hi</body><active xmlns='{CHAT_STATES}'/></message>")
    phone.send("<active xmlns='urn:xmpp:csi:0'/>")
    later = f"<message to='{phone.jid}' type='chat'><gone xmlns='{CHAT_STATES}'/></message>"
    await stage.clear()
    romeo.send(later)
    await phone.expect(f"<message><gone xmlns='{CHAT_STATES}'/></message>")

    # nobody there: nothing is stored
    await stage.leave(juliet, phone)
    await stage.clear()
    for state in STATES:
        romeo.send(f"<message to='juliet@example.org' type='chat'><{state} xmlns='{CHAT_STATES}'/></message>")
        await romeo.expect("<message from='juliet@example.org' type='error'/>")  # RFC 6121 §8.5.2.2.1: not stored
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    await stage.nothing(juliet)
    for client in (romeo, juliet, benvolio):
        found, _ = await archive(client)
        assert [body(kept(each)) for each in found] == (["Hi"] if client is not benvolio else [])


async def test_row_19_xhtml_im(stage: Stage) -> None:
    """`<html>` body passes byte-for-byte 1:1, in rooms, archive, and offline."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    phone = await stage.login("romeo@example.org/phone", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await copies(phone)
    wanted = HTML.encode()

    def times() -> list[int]:
        return [stage.heard(client).count(wanted) for client in (romeo, phone, juliet, benvolio)]

    for to in (juliet.jid, benvolio.jid):
        romeo.send(f"<message to='{to}' type='chat' id='1'><body>Wow</body>{HTML}</message>")
    await stage.quiet()
    assert times() == [0, 2, 1, 1], "1:1, here and on another server, and the sender's other device"
    # written in another way (quotes, references, empty elements) it arrives as the same XML
    await stage.clear()
    plain = HTML.replace("Wow", "Hm")
    other = plain.replace("'", "&#39;").replace('"', "'").replace("<br/>", "<br></br>")
    for client in (juliet, benvolio):
        romeo.send(f"<message to='{client.jid}' type='chat' id='other'><body>Wow</body>{other}</message>")
        got = (await stage.seek(client, "<message id='other'/>")).find("{http://jabber.org/protocol/xhtml-im}html")
        assert got is not None and canonical(got) == canonical(etree.fromstring(plain))
    await stage.clear()

    for client in (romeo, juliet, benvolio):
        await enter(stage, client, client.jid.local)
    romeo.send(f"<message to='{ROOM}' type='groupchat' id='2'><body>Wow</body>{HTML}</message>")
    await stage.quiet()
    assert times() == [1, 2, 2, 2], "in a room, everybody and the sender"

    await stage.leave(juliet, benvolio)
    for to in ("juliet@example.org", "benvolio@example.net"):
        romeo.send(f"<message to='{to}' type='chat' id='3'><body>Wow</body>{HTML}</message>")
    await stage.quiet()
    await stage.restart()
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    for client in (juliet, benvolio):
        await stage.seek(client, "<message id='3'><delay xmlns='urn:xmpp:delay'/></message>")
        assert stage.heard(client).count(wanted) == 1, "from offline storage"
        await archive(client)
        assert stage.heard(client).count(wanted) == 3, "from the archive, both messages"
    await archive(juliet, ROOM)
    assert stage.heard(juliet).count(wanted) == 4, "from the archive of the room"
    back = await enter(stage, juliet, "juliet")
    assert stage.heard(juliet).count(wanted) == 5, "from the history of the room"
    assert any(el.get("id") == "2" for el in back)


async def test_message_events_pass(stage: Stage) -> None:
    """0022: requests and events of old clients arrive as they were written, here and elsewhere, and wait for who is away."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    request = "<x xmlns='jabber:x:event'><offline/><delivered/><displayed/><composing/></x>"
    event = "<x xmlns='jabber:x:event'><displayed/><id>1</id></x>"
    for address in ("juliet@example.org/balcony", "benvolio@example.net/street"):
        client = await stage.login(address, presence=True)
        romeo.send(f"<message to='{client.jid}' type='chat' id='1'><body>Hi</body>{request}</message>")
        await stage.seek(client, f"<message id='1' from='{romeo.jid}'><body>Hi</body>{request}</message>")
        client.send(f"<message to='{romeo.jid}' type='chat' id='2'>{event}</message>")
        await stage.seek(romeo, f"<message id='2' from='{client.jid}'>{event}</message>")
        await stage.leave(client)
        romeo.send(f"<message to='{client.jid.bare}' type='chat' id='3'><body>Ho</body>{request}</message>")
        await stage.quiet()
        client = await stage.login(address, presence=True)
        await stage.seek(client, f"<message id='3'><body>Ho</body>{request}<delay xmlns='urn:xmpp:delay'/></message>")


async def test_row_23_extended_addressing(stage: Stage) -> None:
    """to/cc/bcc/replyto with local and remote JIDs: each gets one copy, bcc hidden, limit enforced."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    chamber = await stage.login("juliet@example.org/chamber", priority=-1)
    nurse = await stage.login("nurse@example.org/house", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    rosaline = await stage.login("rosaline@example.net/feast", presence=True)
    await copies(chamber)
    await stage.clear()
    assert ADDRESS in await features(romeo, "example.org")

    def letter(*addresses: tuple[str, str], id: str = "m") -> str:
        inner = "".join(f"<address type='{kind_}' jid='{jid}'/>" for kind_, jid in addresses)
        return (
            f"<message to='example.org' id='{id}' type='chat'><addresses xmlns='{ADDRESS}'>{inner}</addresses>"
            "<body>hi</body></message>"
        )

    romeo.send(
        letter(
            ("to", "juliet@example.org"),
            ("cc", "benvolio@example.net"),
            ("bcc", "nurse@example.org"),
            ("bcc", "rosaline@example.net"),
            ("to", "mercutio@example.org"),
            ("replyto", "romeo@example.org/orchard"),
        )
    )
    shown = (
        f"<message from='{romeo.jid}' id='m' type='chat'><body>hi</body><addresses xmlns='{ADDRESS}'>"
        "<address type='to' jid='juliet@example.org' delivered='true'/>"
        "<address type='cc' jid='benvolio@example.net' delivered='true'/>"
        "<address type='to' jid='mercutio@example.org' delivered='true'/>"
        "<address type='replyto' jid='romeo@example.org/orchard' delivered='!'/></addresses></message>"
    )

    def blind(message: object) -> list[str | None]:
        return [el.get("jid") for el in message.iter(f"{{{ADDRESS}}}address") if el.get("type") == "bcc"]  # type: ignore[attr-defined]

    for client, hidden in ((juliet, False), (benvolio, False), (nurse, True), (rosaline, True)):
        got = await client.expect(shown)
        assert got.get("to") == client.jid.bare
        assert blind(got) == ([client.jid.bare] if hidden else []), "bcc is seen by its own addressee only"
    copy = await chamber.expect(f"<message from='juliet@example.org'><received xmlns='{CARBONS}'/></message>")
    inside = copy.find(f".//{FORWARDED}")
    assert inside is not None and mismatch(shown, inside) == ""
    await stage.nothing(romeo, juliet, chamber, nurse, benvolio, rosaline)

    # who was away has it in offline storage, everybody in the archive, and nobody there the hidden ones
    mercutio = await stage.login("mercutio@example.org/square", presence=True)
    stored = await stage.seek(mercutio, shown)
    assert stored.find("{urn:xmpp:delay}delay") is not None and not blind(stored)
    for client in (juliet, benvolio, mercutio, nurse):
        (result,), _ = await archive(client)
        assert mismatch(shown, kept(result)) == "" and (not blind(kept(result)) or client is nurse)

    await stage.clear()
    too_many = [("to", f"nobody{number}@example.org") for number in range(50)] + [("to", "juliet@example.org")]
    romeo.send(letter(*too_many, id="n"))
    refused = await romeo.expect("<message type='error' id='n' from='example.org'/>")
    assert condition(refused) == "not-acceptable"
    await stage.nothing(juliet)


async def test_row_24_advanced_message_processing(stage: Stage) -> None:
    """`deliver=stored action=error` bounces; `expire-at` past ⇒ dropped at delivery time; disco lists supported conditions."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.befriend(romeo, juliet)
    await stage.befriend(romeo, benvolio)
    assert AMP in await features(romeo, "example.org")
    listed = {var for var in await features(romeo, "example.org", AMP) if var.startswith(f"{AMP}?")}
    assert listed == {
        *(f"{AMP}?action={name}" for name in ("alert", "drop", "error", "notify")),
        *(f"{AMP}?condition={name}" for name in ("deliver", "expire-at", "match-resource")),
    }

    def letter(to: str, rule: str, id: str) -> str:
        return f"<message to='{to}' id='{id}' type='chat'><body>{id}</body><amp xmlns='{AMP}'>{rule}</amp></message>"

    stored = "<rule condition='deliver' action='error' value='stored'/>"
    rules = f"<failed-rules xmlns='{AMP}#errors'>{stored}</failed-rules>"
    failed = f"<error><undefined-condition xmlns='{STANZAS}'/>{rules}</error>"
    for to in ("juliet@example.org", "benvolio@example.net"):
        romeo.send(letter(to, stored, "present"))
    for client in (juliet, benvolio):
        await client.expect("<message id='present'><body>present</body></message>")
    await stage.leave(juliet, benvolio)
    await stage.clear()
    for to, by in (("juliet@example.org", "example.org"), ("benvolio@example.net", "example.net")):
        romeo.send(letter(to, stored, "absent"))
        bounce = f"<message type='error' id='absent' from='{by}'><amp xmlns='{AMP}' status='error'/>{failed}</message>"
        await romeo.expect(bounce)

    past = f"<rule condition='expire-at' action='drop' value='{stamp(stage.now() - 60)}'/>"
    soon = f"<rule condition='expire-at' action='drop' value='{stamp(stage.now() + 60)}'/>"
    told = soon.replace("drop", "notify")
    late = f"<rule condition='expire-at' action='drop' value='{stamp(stage.now() + 86_400)}'/>"
    for to in ("juliet@example.org", "benvolio@example.net"):
        for rule, id_ in ((past, "past"), (soon, "soon"), (told, "told"), (late, "late")):
            romeo.send(letter(to, rule, id_))
    await stage.nothing(romeo)
    await stage.pass_time(120)
    await stage.restart()
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    for address in ("juliet@example.org/balcony", "benvolio@example.net/street"):
        client = await stage.login(address, presence=True)
        got = [el.get("id") for el in await stage.take(client) if kind(el) == "message"]
        assert got == ["told", "late"], "what has expired is dropped when it is delivered, not before"
        await stage.seek(romeo, f"<message id='told'><amp xmlns='{AMP}' status='notify'>{told}</amp></message>")
        await stage.leave(client)
        again = await stage.login(address, presence=True)
        assert [kind(el) for el in await stage.take(again)] == ["presence"], "and does not stay in the store"


async def test_row_25_receipts(stage: Stage) -> None:
    """Request and receipt cross two domains, are carbon-copied, archived, and never stored as offline "messages"."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    phone = await stage.login("romeo@example.org/phone", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    tablet = await stage.login("benvolio@example.net/tablet", presence=True)
    for client in (phone, tablet):
        await copies(client)
    await stage.clear()
    request = "<request xmlns='urn:xmpp:receipts'/>"
    receipt = "<received xmlns='urn:xmpp:receipts' id='1'/>"

    romeo.send(f"<message to='{benvolio.jid}' type='chat' id='1'><body>Hi</body>{request}</message>")
    await benvolio.expect(f"<message from='{romeo.jid}' id='1'><body>Hi</body>{request}</message>")
    benvolio.send(f"<message to='{romeo.jid}' type='chat' id='2'>{receipt}</message>")
    await romeo.expect(f"<message from='{benvolio.jid}' id='2'>{receipt}</message>")
    for client, request_way, receipt_way in ((phone, "sent", "received"), (tablet, "received", "sent")):
        for way, id_, payload in ((request_way, "1", request), (receipt_way, "2", receipt)):
            copy = await client.expect(f"<message from='{client.jid.bare}'><{way} xmlns='{CARBONS}'/></message>")
            inside = copy.find(f".//{FORWARDED}")
            assert inside is not None and mismatch(f"<message id='{id_}'>{payload}</message>", inside) == ""
    for client in (romeo, benvolio):
        found, _ = await archive(client)
        for result, payload in zip(found, (request, receipt), strict=True):
            assert mismatch(f"<message>{payload}</message>", kept(result)) == ""

    # a receipt for who is away is not kept for them, and nobody is told; it is in the archive
    await stage.leave(romeo, phone)
    await stage.clear()
    benvolio.send(f"<message to='romeo@example.org' type='chat' id='3'>{receipt}</message>")
    benvolio.send(f"<message to='{romeo.jid}' type='chat' id='4'>{receipt}</message>")
    await stage.nothing(benvolio)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    await stage.nothing(romeo)
    found, _ = await archive(romeo)
    assert [kept(result).get("id") for result in found] == ["1", "2", "3", "4"]
    # … but the message that asks for one is
    await stage.leave(romeo)
    benvolio.send(f"<message to='romeo@example.org' type='chat' id='5'><body>Ho</body>{request}</message>")
    await stage.quiet()
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    await stage.seek(romeo, f"<message id='5'>{request}<delay xmlns='urn:xmpp:delay'/></message>")


async def test_row_26_message_archive(stage: Stage) -> None:
    """0313 complete incl. MUC, metadata, RSM; 0136 `list`/`retrieve`/`pref` answered from the same store for old clients."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    for client in (romeo, juliet, benvolio):
        await enter(stage, client, client.jid.local)
    await stage.clear()
    begin = stage.now()
    for number in range(6):
        to = juliet if number % 2 else benvolio
        romeo.send(f"<message to='{to.jid}' type='chat' id='m{number}'><body>number {number}</body></message>")
        await to.expect(
            f"<message id='m{number}'><stanza-id xmlns='urn:xmpp:sid:0' by='{to.jid.bare}' id='*'/></message>"
        )
        romeo.send(f"<message to='{ROOM}' type='groupchat' id='g{number}'><body>all {number}</body></message>")
        for client in (romeo, juliet, benvolio):
            by = f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ROOM}' id='*'/>"
            await client.expect(f"<message from='{ROOM}/romeo' id='g{number}'>{by}</message>")
        await stage.pass_time(60)
    await stage.restart()
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)

    for client, at, word in ((romeo, "", "number"), (juliet, ROOM, "all")):
        every = [f"{word} {number}" for number in range(6)]
        results, fin = await archive(client, at)
        ids = [result.get("id", "") for result in results]
        assert [body(kept(result)) for result in results] == every and fin.get("complete") == "true"
        assert len(set(ids)) == 6
        nothing, fin = await archive(client, at, rsm="<max>0</max>")
        assert not nothing and fin.findtext(f".//{{{RSM}}}count") == "6"
        delay = results[0].find("{urn:xmpp:forward:0}forwarded/{urn:xmpp:delay}delay")
        assert delay is not None and abs(parse_stamp(delay.get("stamp", "")) - begin) < 30

        async def texts(rsm: str = "", extra: str = "", **fields: str) -> list[str | None]:
            given = {key.replace("_", "-"): value for key, value in fields.items()}
            found, _ = await archive(client, at, given, rsm, extra)  # noqa: B023  (used in this round only)
            return [body(kept(result)) for result in found]

        # pages, both ways
        seen: list[str | None] = []
        last = ""
        for _ in range(3):
            page = await texts(f"<max>2</max><after>{last}</after>" if last else "<max>2</max>")
            seen += page
            last = ids[len(seen) - 1]
        assert seen == every
        assert await texts("<max>2</max><before/>") == every[4:]
        assert await texts(f"<max>2</max><before>{ids[4]}</before>") == every[2:4]
        assert await texts("<max>2</max><before/>", "<flip-page/>") == every[:3:-1]
        unknown = f"<set xmlns='{RSM}'><after>nothing</after></set>"
        to = f" to='{at}'" if at else ""
        query = f"<iq type='set' id='q'{to}><query xmlns='{MAM}'>{unknown}</query></iq>"
        assert condition(await client.iq(query, "error")) == "item-not-found"
        # filters
        assert await texts(start=stamp(begin + 150)) == every[3:]
        assert await texts(end=stamp(begin + 150)) == every[:3]
        assert await texts(before_id=ids[2]) == every[:2] and await texts(after_id=ids[3]) == every[4:]
        assert await texts(ids=ids[3]) == [every[3]]
        # the form of the filters, and where the archive begins and ends
        form = await client.iq(f"<iq type='get' id='f'{to}><query xmlns='{MAM}'/></iq>")
        asked = {el.get("var") for el in form.iter("{jabber:x:data}field")}
        assert {"with", "start", "end", "before-id", "after-id", "ids"} <= asked
        ends = (await client.iq(f"<iq type='get' id='e'{to}><metadata xmlns='{MAM}'/></iq>"))[0]
        assert [(kind(el), el.get("id")) for el in ends] == [("start", ids[0]), ("end", ids[-1])]
        assert {MAM, f"{MAM}#extended", "urn:xmpp:sid:0"} <= await features(client, at)
    assert await bodies(romeo, **{"with": "juliet@example.org"}) == ["number 1", "number 3", "number 5"]
    assert await bodies(juliet, ROOM, **{"with": f"{ROOM}/juliet"}) == [], "by occupant; she said nothing"

    # the same store, as old clients see it
    old = "urn:xmpp:archive"
    listed = (await romeo.iq(f"<iq type='get' id='l'><list xmlns='{old}' with='juliet@example.org'/></iq>"))[0]
    (chat,) = listed.findall(f"{{{old}}}chat")
    start = chat.get("start")
    whole = await romeo.iq(
        f"<iq type='get' id='r'><retrieve xmlns='{old}' with='juliet@example.org' start='{start}'/></iq>"
    )
    said = [el.findtext(f"{{{old}}}body") for el in whole[0].findall(f"{{{old}}}to")]
    assert said == ["number 1", "number 3", "number 5"]
    assert (await romeo.iq(f"<iq type='get' id='p'><pref xmlns='{old}'/></iq>"))[0].find(
        f"{{{old}}}default"
    ) is not None
    never = "<item jid='juliet@example.org' save='false' otr='concede'/>"
    await romeo.iq(f"<iq type='set' id='s'><pref xmlns='{old}'>{never}</pref></iq>")
    prefs = (await romeo.iq(f"<iq type='get' id='n'><prefs xmlns='{MAM}'/></iq>"))[0]
    assert [el.text for el in prefs.iterfind(f"{{{MAM}}}never/{{{MAM}}}jid")] == ["juliet@example.org"]
    romeo.send("<message to='juliet@example.org' type='chat'><body>secret</body></message>")
    await stage.seek(juliet, "<message><body>secret</body></message>")
    assert await bodies(romeo, **{"with": "juliet@example.org"}) == ["number 1", "number 3", "number 5"]
