"""What has no row of its own and every client meets: accounts, invitations, storage, the small queries, administration."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest

from beamish.core.clock import parse_stamp
from beamish.core.services import CapsService
from beamish.testing.client import Client, ClientError
from beamish.testing.match import mismatch
from beamish.testing.world import PASSWORD
from beamish.xmpp.xml import Element

from .conftest import CONTACTS
from .kit import DATA, INFO, bodies, capabilities, condition, disco, features, kind, submission, tell, values
from .stage import NET, ORG, Stage

ADMIN = "http://jabber.org/protocol/admin"
PUBSUB = "http://jabber.org/protocol/pubsub"
REGISTER = "jabber:iq:register"
PARS = "urn:xmpp:pars:0"
DATA_FIELD = f"{{{DATA}}}field"


def registers(username: str, password: str = PASSWORD) -> str:
    return (
        f"<iq type='set' id='reg'><query xmlns='{REGISTER}'><username>{username}</username>"
        f"<password>{password}</password></query></iq>"
    )


def forms(answer: Element) -> dict[str, dict[str, list[str]]]:
    """FORM_TYPE → field → values, of all forms in an answer."""
    found = {}
    for x in answer.iter(f"{{{DATA}}}x"):
        fields = {f.get("var", ""): [v.text or "" for v in f.findall(f"{{{DATA}}}value")] for f in x}
        found[fields.pop("FORM_TYPE")[0]] = fields
    return found


async def fails(stage: Stage, name: str, password: str) -> None:
    """Nobody gets in with this."""
    client = await stage.stranger()
    with pytest.raises(ClientError, match="not-authorized"):
        await client.authenticate(name, password)


async def test_an_account_from_its_beginning_to_its_end(stage: Stage) -> None:
    """0077: made with an invitation, password changed, cancelled: contacts are told on both servers, nothing stays."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    made = values(await romeo.command("urn:xmpp:invite#create-account", {"username": "tybalt"}))
    client = await stage.stranger()
    token = made["uri"].rpartition("preauth=")[2]
    await client.iq(f"<iq type='set' id='1' to='{ORG}'><preauth xmlns='{PARS}' token='{token}'/></iq>")
    await client.iq(registers("tybalt"))
    tybalt = await stage.login("tybalt@example.org/street", presence=True)
    for other in (romeo, benvolio):
        await stage.befriend(tybalt, other)
    await tybalt.iq("<iq type='set' id='v'><vCard xmlns='vcard-temp'><FN>Tybalt</FN></vCard></iq>")
    await tybalt.iq("<iq type='set' id='p'><query xmlns='jabber:iq:private'><a xmlns='urn:x'>mine</a></query></iq>")
    romeo.send("<message to='tybalt@example.org' type='chat'><body>Peace?</body></message>")
    await stage.seek(tybalt, "<message><body>Peace?</body></message>")

    await tybalt.iq(registers("tybalt", "prince of cats"))
    await fails(stage, "tybalt", PASSWORD)
    await stage.restart()
    await fails(stage, "tybalt", PASSWORD)
    tybalt = await stage.login("tybalt@example.org/street", presence=True, password="prince of cats")
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    await stage.clear()

    tybalt.send(f"<iq type='set' id='end'><query xmlns='{REGISTER}'><remove/></query></iq>")
    await stage.seek(tybalt, "<iq type='result' id='end'/>")
    await tybalt.expect_closed("not-authorized")
    for other in (romeo, benvolio):
        for type_ in ("unsubscribe", "unsubscribed"):
            await stage.seek(other, f"<presence type='{type_}' from='tybalt@example.org'/>")
        card = "<iq type='get' id='v' to='tybalt@example.org'><vCard xmlns='vcard-temp'/></iq>"
        assert condition(await other.iq(card, "error")) == "service-unavailable"
    await fails(stage, "tybalt", "prince of cats")
    # the next one of that name finds nothing of it
    made = values(await romeo.command("urn:xmpp:invite#create-account", {"username": "tybalt"}))
    client = await stage.stranger()
    token = made["uri"].rpartition("preauth=")[2]
    await client.iq(f"<iq type='set' id='1' to='{ORG}'><preauth xmlns='{PARS}' token='{token}'/></iq>")
    await client.iq(registers("tybalt"))
    again = await stage.login("tybalt@example.org/street", presence=True)
    assert len((await again.roster())[0]) == 0 and await bodies(again) == []
    got = await again.iq("<iq type='get' id='p'><query xmlns='jabber:iq:private'><a xmlns='urn:x'/></query></iq>")
    assert not got.findtext(".//{urn:x}a")
    (card,) = await again.iq("<iq type='get' id='v'><vCard xmlns='vcard-temp'/></iq>")
    assert card.tag == "{vcard-temp}vCard" and len(card) == 0


async def test_invitations(stage: Stage) -> None:
    """0401, 0445, 0379: a token makes one account and one friendship, here and between servers, and then no more."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    made = values(await romeo.command("urn:xmpp:invite#create-account", {"roster-subscription": "1"}))
    assert made["uri"].startswith("xmpp:") and parse_stamp(made["expire"]) > stage.now()
    token = made["uri"].rpartition("preauth=")[2].partition(";")[0]
    await stage.leave(romeo)
    await stage.restart()
    client = await stage.stranger()
    assert client.features is not None and client.features.find("{urn:xmpp:ibr-token:0}register") is not None
    wrong = f"<iq type='set' id='1' to='{ORG}'><preauth xmlns='{PARS}' token='nonsense'/></iq>"
    assert condition(await client.iq(wrong, "error")) == "item-not-found"
    await client.iq(f"<iq type='set' id='1' to='{ORG}'><preauth xmlns='{PARS}' token='{token}'/></iq>")
    form = await client.iq(f"<iq type='get' id='2'><query xmlns='{REGISTER}'/></iq>")
    assert form.find(f".//{DATA_FIELD}[@var='challenge']") is None, "who was invited solves no riddles"
    await client.iq(registers("tybalt"))
    second = await stage.stranger()
    used = await second.iq(f"<iq type='set' id='1' to='{ORG}'><preauth xmlns='{PARS}' token='{token}'/></iq>", "error")
    assert condition(used) == "item-not-found"
    tybalt = await stage.login("tybalt@example.org/street", presence=True)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    await stage.seek(romeo, f"<presence from='{tybalt.jid}' type='!'/>")
    for one, other in ((romeo, tybalt), (tybalt, romeo)):
        item = f"<item jid='{other.jid.bare}' subscription='both'/>"
        assert mismatch(f"<iq><query xmlns='jabber:iq:roster'>{item}</query></iq>", await one.roster()) == ""

    # to be a contact, of somebody elsewhere, while the inviter is away
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    told = values(await juliet.command("urn:xmpp:invite#invite"))
    token = told["uri"].rpartition("preauth=")[2].partition(";")[0]
    await stage.leave(juliet)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    rosaline = await stage.login("rosaline@example.net/feast", presence=True)
    preauth = f"<preauth xmlns='{PARS}' token='{token}'/>"
    benvolio.send(f"<presence to='juliet@example.org' type='subscribe'>{preauth}</presence>")
    await stage.seek(benvolio, "<presence from='juliet@example.org' type='subscribed'/>")
    await stage.seek(benvolio, "<presence from='juliet@example.org' type='subscribe'/>")
    benvolio.send("<presence to='juliet@example.org' type='subscribed'/>")
    await stage.quiet()
    rosaline.send(f"<presence to='juliet@example.org' type='subscribe'>{preauth}</presence>")
    assert "presence" not in {kind(el) for el in await stage.take(rosaline)}, "used up: she has to wait for an answer"
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    await stage.seek(juliet, "<presence from='rosaline@example.net' type='subscribe'/>")
    item = "<item jid='benvolio@example.net' subscription='both'/>"
    assert mismatch(f"<iq><query xmlns='jabber:iq:roster'>{item}</query></iq>", await juliet.roster()) == ""
    await stage.seek(juliet, f"<presence from='{benvolio.jid}' type='!'/>")


async def test_private_storage_and_bookmarks(stage: Stage) -> None:
    """0049; 0048, 0402 and 0411: one list of bookmarks, whichever way it is written and read, extensions kept."""
    desk = await stage.login("romeo@example.org/desk", presence=True)
    prefs = "<exodus xmlns='exodus:prefs'><defaultnick>Rome</defaultnick></exodus>"
    await desk.iq(f"<iq type='set' id='p'><query xmlns='jabber:iq:private'>{prefs}</query></iq>")
    theft = (
        "<iq type='set' id='t' to='juliet@example.org'><query xmlns='jabber:iq:private'><a xmlns='urn:x'/></query></iq>"
    )
    assert condition(await desk.iq(theft, "error")) == "forbidden"

    native, legacy = "urn:xmpp:bookmarks:1", "storage:bookmarks"
    c, node, answer = capabilities(f"{native}+notify")
    phone = await stage.login("romeo@example.org/phone", extra=c)
    await tell(stage, phone, node, answer)
    room = "verona@conference.example.org"
    verona = f"<conference jid='{room}' name='Verona' autojoin='true'><nick>Rome</nick></conference>"
    storage = f"<storage xmlns='{legacy}'>{verona}</storage>"
    await desk.iq(f"<iq type='set' id='b'><query xmlns='jabber:iq:private'>{storage}</query></iq>")
    conference = f"<conference xmlns='{native}' name='Verona' autojoin='true'><nick>Rome</nick></conference>"
    event = f"<items node='{native}'><item id='{room}'>{conference}</item></items>"
    await stage.seek(
        phone, f"<message from='romeo@example.org'><event xmlns='{PUBSUB}#event'>{event}</event></message>"
    )
    # the newer client adds a room, with something that only it knows
    other, extension = "mantua@conference.example.net", "<x xmlns='urn:example:pinned'>yes</x>"
    added = f"<conference xmlns='{native}' name='Mantua'><extensions>{extension}</extensions></conference>"
    publish = f"<publish node='{native}'><item id='{other}'>{added}</item></publish>"
    await phone.iq(f"<iq type='set' id='n'><pubsub xmlns='{PUBSUB}'>{publish}</pubsub></iq>")
    compatible = {f"{native}#compat", f"{native}#compat-pep", "urn:xmpp:bookmarks-conversion:0"}
    assert compatible <= await features(desk)
    await stage.restart()
    desk = await stage.login("romeo@example.org/desk", presence=True)
    ask = "<iq type='get' id='g'><query xmlns='jabber:iq:private'>{}</query></iq>"
    got = await desk.iq(ask.format("<exodus xmlns='exodus:prefs'/>"))
    assert mismatch(f"<iq><query xmlns='jabber:iq:private'>{prefs}</query></iq>", got) == ""
    listed = await desk.iq(ask.format(f"<storage xmlns='{legacy}'/>"))
    assert {el.get("jid") for el in listed.iter(f"{{{legacy}}}conference")} == {room, other}
    # the old client writes its list back, with another name: what it does not know stays
    both = storage.replace("</storage>", f"<conference jid='{other}' name='Mantova'/></storage>")
    await desk.iq(f"<iq type='set' id='b'><query xmlns='jabber:iq:private'>{both}</query></iq>")
    fetched = await desk.iq(f"<iq type='get' id='i'><pubsub xmlns='{PUBSUB}'><items node='{native}'/></pubsub></iq>")
    kept = f"<conference xmlns='{native}' name='Mantova'><extensions>{extension}</extensions></conference>"
    wanted = f"<item id='{other}'>{kept}</item>"
    assert mismatch(f"<iq><pubsub xmlns='{PUBSUB}'><items>{wanted}</items></pubsub></iq>", fetched) == ""
    rosaline = await stage.login("rosaline@example.net/feast", presence=True)
    spying = (
        f"<iq type='get' id='i' to='romeo@example.org'><pubsub xmlns='{PUBSUB}'><items node='{native}'/></pubsub></iq>"
    )
    assert (await rosaline.iq(spying, "error")).get("type") == "error"


async def test_the_small_queries(stage: Stage) -> None:
    """0012 of server, account and client; 0092, 0202 and 0232 of the server; each server about itself, and to each other."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    mercutio = await stage.login("mercutio@example.org/square", presence=True)
    await stage.befriend(romeo, benvolio)
    ask = "<iq type='get' id='q' to='{}'><query xmlns='jabber:iq:last'/></iq>"
    await stage.pass_time(500)

    async def last(client: Client, to: str) -> tuple[int, str]:
        query = (await client.iq(ask.format(to)))[0]
        return int(query.get("seconds", "")), query.text or ""

    for client in (romeo, benvolio):
        assert 500 <= (await last(client, ORG))[0] < 560, "how long the server has been up"
        software = (await client.iq(f"<iq type='get' id='v' to='{ORG}'><query xmlns='jabber:iq:version'/></iq>"))[0]
        assert software.findtext("{jabber:iq:version}name") == "Beamish"
        time = (await client.iq(f"<iq type='get' id='t' to='{ORG}'><time xmlns='urn:xmpp:time'/></iq>"))[0]
        assert abs(parse_stamp(time.findtext("{urn:xmpp:time}utc") or "") - stage.now()) < 60
        info = forms(await disco(client, INFO, ORG))["urn:xmpp:dataforms:softwareinfo"]
        assert info["software"] == ["Beamish"]
    assert (await last(benvolio, "romeo@example.org"))[0] == 0, "he is there"
    benvolio.send(ask.format(romeo.jid))
    await romeo.expect("<iq type='get' id='q' from='benvolio@example.net/street'><query xmlns='jabber:iq:last'/></iq>")
    romeo.send(f"<iq type='result' id='q' to='{benvolio.jid}'><query xmlns='jabber:iq:last' seconds='123'/></iq>")
    await benvolio.expect(
        f"<iq type='result' id='q' from='{romeo.jid}'><query xmlns='jabber:iq:last' seconds='123'/></iq>"
    )
    assert condition(await mercutio.iq(ask.format("romeo@example.org"), "error")) == "forbidden"
    assert condition(await mercutio.iq(ask.format("nobody@example.org"), "error")) == "forbidden"
    romeo.send("<presence type='unavailable'><status>To Mantua</status></presence>")
    await stage.leave(romeo)
    await stage.restart()
    await stage.pass_time(90)
    seconds, status = await last(benvolio, "romeo@example.org")
    assert 90 <= seconds < 150 and status == "To Mantua"


async def test_the_directory(stage: Stage) -> None:
    """0055: nobody is found who has not asked for it; with plain fields, by form, after a restart; not from elsewhere."""
    space = "jabber:iq:search"
    juliet = await stage.login("juliet@example.org/balcony")
    romeo = await stage.login("romeo@example.org/orchard")
    benvolio = await stage.login("benvolio@example.net/street")

    async def found(client: Client, nick: str) -> list[str | None]:
        query = f"<query xmlns='{space}'><nick>{nick}</nick></query>"
        answer = await client.iq(f"<iq type='set' id='s' to='{ORG}'>{query}</iq>")
        return [item.get("jid") for item in answer[0].findall(f"{{{space}}}item")]

    assert await found(romeo, "juli") == []
    await juliet.command("urn:beamish:command:directory.publish", {"nick": "JuliC", "last": "Capulet"})
    await stage.restart()
    romeo = await stage.login("romeo@example.org/orchard")
    assert await found(romeo, "juli") == ["juliet@example.org"]
    form = await romeo.iq(f"<iq type='get' id='f' to='{ORG}'><query xmlns='{space}'/></iq>")
    assert {"first", "last", "nick", "email"} <= set(values(form))
    filled = f"<x xmlns='{DATA}' type='submit'><field var='last'><value>cap*</value></field></x>"
    table = await romeo.iq(f"<iq type='set' id='s' to='{ORG}'><query xmlns='{space}'>{filled}</query></iq>")
    assert values(table)["jid"] == "juliet@example.org"
    everybody = f"<iq type='set' id='s' to='{ORG}'><query xmlns='{space}'><nick/></query></iq>"
    assert condition(await romeo.iq(everybody, "error")) == "not-acceptable"
    stranger = f"<iq type='set' id='s' to='{ORG}'><query xmlns='{space}'><nick>juli</nick></query></iq>"
    assert condition(await benvolio.iq(stranger, "error")) == "forbidden"
    juliet = await stage.login("juliet@example.org/balcony")
    await juliet.command("urn:beamish:command:directory.withdraw")
    assert await found(romeo, "juli") == []


async def test_contacts_and_policy(stage: Stage) -> None:
    """0157, every list, and 0504; to everybody who asks, and nothing where nothing is configured."""
    romeo = await stage.login("romeo@example.org/orchard")
    benvolio = await stage.login("benvolio@example.net/street")
    for client in (romeo, benvolio):
        told = forms(await disco(client, INFO, ORG))
        addresses = told["http://jabber.org/network/serverinfo"]
        assert addresses == {
            f"{n}-addresses": [f"mailto:{n}@example.org", f"https://example.org/{n}"] for n in CONTACTS
        }
        policy = told["urn:xmpp:data-policy:0"]
        assert policy["auth_data"] == ["hidden"] and policy["data_retention"] == ["720"]
        assert policy["access_policy"] == ["admins"] and policy["tos"] == ["https://example.org/terms"]
        elsewhere = forms(await disco(client, INFO, NET))
        assert not {"http://jabber.org/network/serverinfo", "urn:xmpp:data-policy:0"} & set(elsewhere)


async def test_external_services(stage: Stage) -> None:
    """0215: static and with credentials for a time, made from a secret that the relay shares; for users here only."""
    space = "urn:xmpp:extdisco:2"
    romeo = await stage.login("romeo@example.org/orchard")
    benvolio = await stage.login("benvolio@example.net/street")
    assert space in await features(romeo, ORG)
    ask = f"<iq type='get' id='x' to='{ORG}'><services xmlns='{space}'/></iq>"
    got = (await romeo.iq(ask))[0]
    assert [(el.get("type"), el.get("host")) for el in got] == [
        ("stun", "stun.example.org"),
        ("turn", "turn.example.org"),
        ("ftp", "ftp.example.org"),
    ]
    turn, ftp = got[1], got[2]
    name, password = turn.get("username", ""), turn.get("password", "")
    assert password == base64.b64encode(hmac.digest(b"shh", name.encode(), "sha1")).decode()
    ends = float(name.partition(":")[0])
    assert 3500 < ends - stage.now() <= 3601 and abs(parse_stamp(turn.get("expires", "")) - ends) < 2
    assert "romeo" not in name
    assert (ftp.get("username"), ftp.get("password"), ftp.get("expires")) == ("guest", "guest", None)
    one = (await romeo.iq(f"<iq type='get' id='x' to='{ORG}'><services xmlns='{space}' type='turn'/></iq>"))[0]
    assert [el.get("host") for el in one] == ["turn.example.org"]
    service = "<service type='turn' host='turn.example.org' port='3478'/>"
    own = await romeo.iq(f"<iq type='get' id='x' to='{ORG}'><credentials xmlns='{space}'>{service}</credentials></iq>")
    assert own[0][0].get("password")
    assert condition(await benvolio.iq(ask, "error")) == "forbidden"


async def test_reports_of_abuse(stage: Stage) -> None:
    """0377 with 0191: the block and the report come together, the administrator has it, the reported one learns nothing."""
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    assert "urn:xmpp:reporting:1" in await features(juliet, ORG)
    benvolio.send("<message to='juliet@example.org' id='spam' type='chat'><body>Buy!</body></message>")
    spam = await stage.seek(
        juliet, "<message id='spam'><stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='*'/></message>"
    )
    id_ = spam.find("{urn:xmpp:sid:0}stanza-id").get("id")  # type: ignore[union-attr]
    report = (
        "<report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'>"
        f"<stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='{id_}'/><text>Spam</text></report>"
    )
    await stage.clear()
    item = f"<item jid='benvolio@example.net'>{report}</item>"
    await juliet.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'>{item}</block></iq>")
    await stage.nothing(benvolio)
    await stage.restart()
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    listed = values(await romeo.command("urn:beamish:command:report.list", {}))
    assert (listed["reporter"], listed["jid"]) == ("juliet@example.org", "benvolio@example.net")
    assert (listed["reason"], listed["text"]) == ("urn:xmpp:reporting:spam", "Spam")
    assert id_ in json.dumps(listed)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    refused = await juliet.command("urn:beamish:command:report.list", type="error")
    assert condition(refused) == "forbidden"
    await romeo.command("urn:beamish:command:report.remove", {"id": listed["id"]})
    benvolio.send("<message to='juliet@example.org' id='more' type='chat'><body>Buy!</body></message>")
    assert condition(await stage.seek(benvolio, "<message id='more' type='error'/>")) == "service-unavailable"


async def test_administration(stage: Stage) -> None:
    """0133 through 0050: an account is added, disabled and removed; nobody else may, here or from elsewhere."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    for client in (juliet, benvolio):
        refused = await client.command(f"{ADMIN}#add-user", at=ORG, type="error")
        assert condition(refused) == "forbidden"
    account = {"accountjid": "tybalt@example.org", "password": PASSWORD, "password-verify": PASSWORD}
    await romeo.command(f"{ADMIN}#add-user", account)
    assert condition(await romeo.command(f"{ADMIN}#add-user", account, type="error")) == "conflict"
    tybalt = await stage.login("tybalt@example.org/street", presence=True)
    await romeo.command(f"{ADMIN}#disable-user", {"accountjids": "tybalt@example.org"})
    await tybalt.expect_closed()
    await stage.restart()
    client = await stage.stranger()
    with pytest.raises(ClientError):
        await client.authenticate("tybalt", PASSWORD)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    await romeo.command(f"{ADMIN}#reenable-user", {"accountjids": "tybalt@example.org"})
    tybalt = await stage.login("tybalt@example.org/street", presence=True)
    before = int(values(await romeo.command(f"{ADMIN}#get-registered-users-num"))["registeredusersnum"])
    await romeo.command(f"{ADMIN}#delete-user", {"accountjids": "tybalt@example.org"})
    await tybalt.expect_closed()
    after = int(values(await romeo.command(f"{ADMIN}#get-registered-users-num"))["registeredusersnum"])
    assert after == before - 1


async def test_announcements(stage: Stage) -> None:
    """0133 §4.23 to §4.30: to who is online, and a message of the day for each once, also after a restart."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.clear()
    await romeo.command(f"{ADMIN}#announce", {"announcement": ["Down at noon", "for a while"]})
    await stage.seek(juliet, f"<message from='{ORG}' type='headline'><body>Down at noon\nfor a while</body></message>")
    await stage.nothing(benvolio)
    await romeo.command(f"{ADMIN}#set-motd", {"motd": "Good morrow"})
    await stage.seek(juliet, f"<message from='{ORG}'><body>Good morrow</body></message>")
    await stage.restart()
    for address, new in (("juliet@example.org/balcony", False), ("nurse@example.org/house", True)):
        for wanted in (new, False):
            client = await stage.login(address, presence=True)
            heard = [el for el in await stage.take(client) if kind(el) == "message"]
            assert bool(heard) is wanted, address
            await stage.leave(client)


async def test_vcard4(stage: Stage) -> None:
    """0292: published in the account's node, read by who only knows vcard-temp; and the other way round."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.befriend(romeo, benvolio)
    space = "urn:ietf:params:xml:ns:vcard-4.0"
    card = f"<vcard xmlns='{space}'><fn><text>Romeo Montague</text></fn></vcard>"
    options = submission(f"{PUBSUB}#publish-options", {"pubsub#access_model": "open"})
    publish = f"<publish node='urn:xmpp:vcard4'><item id='current'>{card}</item></publish>"
    publish += f"<publish-options>{options}</publish-options>"
    await romeo.iq(f"<iq type='set' id='p'><pubsub xmlns='{PUBSUB}'>{publish}</pubsub></iq>")
    temp = "<iq type='get' id='g' to='romeo@example.org'><vCard xmlns='vcard-temp'/></iq>"
    assert (await benvolio.iq(temp)).findtext(".//{vcard-temp}FN") == "Romeo Montague"
    await romeo.iq("<iq type='set' id='s'><vCard xmlns='vcard-temp'><FN>Rome</FN></vCard></iq>")
    items = "<items node='urn:xmpp:vcard4'/>"
    got = await benvolio.iq(
        f"<iq type='get' id='i' to='romeo@example.org'><pubsub xmlns='{PUBSUB}'>{items}</pubsub></iq>"
    )
    assert got.findtext(f".//{{{space}}}fn/{{{space}}}text") == "Rome"


async def test_capabilities_of_0390(stage: Stage) -> None:
    """0390: the newer hash is verified and remembered like the old one."""
    feature = "urn:example:ecaps"
    text = f"{feature}\x1f{INFO}\x1f" if feature < INFO else f"{INFO}\x1f{feature}\x1f"
    hashed = f"{text}\x1cclient\x1fpc\x1f\x1fPlay\x1f\x1e\x1c\x1c"
    digest = base64.b64encode(hashlib.sha256(hashed.encode()).digest()).decode()
    c = f"<c xmlns='urn:xmpp:caps'><hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>{digest}</hash></c>"
    romeo = await stage.login("romeo@example.org/orchard", extra=c)
    node = f"urn:xmpp:caps#sha-256.{digest}"
    inner = f"<identity category='client' type='pc' name='Play'/><feature var='{INFO}'/><feature var='{feature}'/>"
    await tell(stage, romeo, node, inner)
    await stage.quiet()
    known = stage.kernel().service(CapsService).features(romeo.jid)
    assert known == frozenset({INFO, feature})
    await stage.restart()
    again = await stage.login("juliet@example.org/balcony", extra=c)
    await stage.nothing(again)
    assert stage.kernel().service(CapsService).features(again.jid) == known
