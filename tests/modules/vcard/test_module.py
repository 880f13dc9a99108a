"""Profiles through a whole server: XEP-0054, XEP-0153, XEP-0292, XEP-0398."""

import base64
import hashlib

import pytest

from beamish.core.services import AccountsService, PepService
from beamish.storage.api import StorageUnavailable
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.match import condition, mismatch
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

ROMEO = JID.parse("romeo@example.org")
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 10
GIF = b"GIF89a" + b"picture"
CARD = "<FN>Romeo</FN><NICKNAME>Rome</NICKNAME>"
DATA, METADATA = "urn:xmpp:avatar:data", "urn:xmpp:avatar:metadata"
V4 = "urn:xmpp:vcard4"
X = "{vcard-temp:x:update}"


def sha1(data: bytes) -> str:
    """The hash of a picture."""
    return hashlib.sha1(data).hexdigest()


def photo(data: bytes, type: str = "image/png") -> str:
    """A photo in a vCard, written over several lines."""
    text = base64.encodebytes(data).decode()
    return f"<PHOTO><TYPE>{type}</TYPE><BINVAL>{text}</BINVAL></PHOTO>"


async def store(client: Client, inner: str, type: str = "result") -> Element:
    """Set the own vCard."""
    return await client.iq(f"<iq type='set' id='v'><vCard xmlns='vcard-temp'>{inner}</vCard></iq>", type=type)


async def fetch(client: Client, to: str = "", type: str = "result") -> Element:
    """Get a vCard."""
    at = f" to='{to}'" if to else ""
    return await client.iq(f"<iq type='get' id='g'{at}><vCard xmlns='vcard-temp'/></iq>", type=type)


def empty(stanza: Element) -> bool:
    """Whether an answer has a vCard without anything in it."""
    (card,) = stanza
    return card.tag == "{vcard-temp}vCard" and len(card) == 0 and not card.text


def picture(stanza: Element) -> bytes | None:
    """The photo in an answer."""
    text = stanza.findtext(".//{vcard-temp}BINVAL")
    return None if text is None else base64.b64decode(text)


def shown(stanza: Element) -> str | None:
    """The hash in a presence; None if it says nothing, "" for no photo."""
    return stanza.findtext(f"{X}x/{X}photo")


async def friends(world: World) -> tuple[Client, Client]:
    """Romeo and Juliet, subscribed to each other."""
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await world.befriend(romeo, juliet)
    return romeo, juliet


# ---- XEP-0054 -------------------------------------------------------------------------------------------------------


async def test_set_read_by_a_contact_of_another_domain_and_after_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard")
        await store(romeo, CARD + photo(PNG))
        got = await fetch(await world.login("benvolio@example.net/street"), "romeo@example.org")
        assert got.findtext(".//{vcard-temp}FN") == "Romeo" and picture(got) == PNG
        assert got.get("from") == "romeo@example.org"
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for to in ("", "romeo@example.org"):
            got = await fetch(romeo, to)
            assert got.findtext(".//{vcard-temp}NICKNAME") == "Rome" and picture(got) == PNG
        await world.kernel.service(AccountsService).remove(ROMEO)
        assert await world.db.fetch("SELECT * FROM vcard") == []
    await database.close()


async def test_a_vcard_replaces_the_one_before(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await store(romeo, CARD + photo(PNG))
    await store(romeo, "<FN>R</FN>")
    got = await fetch(romeo)
    assert got.findtext(".//{vcard-temp}FN") == "R" and got.find(".//{vcard-temp}NICKNAME") is None
    assert picture(got) is None


async def test_no_vcard_and_no_account_look_the_same(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    assert empty(await fetch(romeo))
    for name in ("juliet", "nobody"):
        assert condition(await fetch(romeo, f"{name}@example.org", type="error")) == "service-unavailable"


async def test_the_server_has_a_name(world: World) -> None:
    """Psi opens the profile of a service that lists vCards."""
    romeo = await world.login("romeo@example.org/orchard")
    card = await fetch(romeo, "example.org")
    assert card.findtext(".//{vcard-temp}FN") == "example.org"
    assert card.findtext(".//{vcard-temp}JABBERID") == "example.org"
    answer = await romeo.iq("<iq type='set' id='s' to='example.org'><vCard xmlns='vcard-temp'/></iq>", type="error")
    assert condition(answer) == "service-unavailable"


async def test_somebody_elses_vcard_is_not_to_be_changed(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    for name in ("juliet", "nobody"):
        to = f"to='{name}@example.org'"
        error = await romeo.iq(f"<iq type='set' id='v' {to}><vCard xmlns='vcard-temp'/></iq>", type="error")
        assert condition(error) == "forbidden"


async def test_the_size_is_limited() -> None:
    async with World(settings={"modules": {"vcard": {"max_bytes": 4096}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        assert condition(await store(romeo, f"<FN>{'x' * 4096}</FN>", "error")) == "policy-violation"
        assert empty(await fetch(romeo))


@pytest.mark.parametrize("text", ["", "***", "AAA"])
async def test_a_photo_that_is_none_is_kept_as_it_is(world: World, text: str) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await store(romeo, f"<FN>R</FN><PHOTO><BINVAL>{text}</BINVAL></PHOTO>")
    got = await fetch(romeo)
    assert got.findtext(".//{vcard-temp}BINVAL") == text
    await romeo.expect_nothing()


# ---- XEP-0153 and XEP-0398 §4 ---------------------------------------------------------------------------------------


async def test_the_hash_is_put_into_presence(world: World) -> None:
    romeo, juliet = await friends(world)
    await store(romeo, CARD + photo(PNG))
    # contacts are told at once
    got = await juliet.expect("<presence from='romeo@example.org/orchard' type='!'/>")
    assert shown(got) == sha1(PNG)
    # and with every presence from now on
    for inner, expected in (
        ("<show>away</show>", sha1(PNG)),
        ("<x xmlns='vcard-temp:x:update'/>", sha1(PNG)),
        (f"<x xmlns='vcard-temp:x:update'><photo>{sha1(PNG)}</photo></x>", sha1(PNG)),
        ("<x xmlns='vcard-temp:x:update'><photo>0000</photo></x>", sha1(PNG)),
        ("<x xmlns='vcard-temp:x:update'><photo/></x>", ""),
    ):
        for to in ("", " to='juliet@example.org'"):
            romeo.send(f"<presence{to}>{inner}</presence>")
            got = await juliet.expect("<presence/>")
            assert shown(got) == expected, inner
            assert len(got.findall(f"{X}x")) == 1
    # whoever comes later sees it too
    later = await world.login("juliet@example.org/later", presence=True)
    await world.settle()
    romeo.send("<presence/>")
    await world.settle()
    assert shown(later.inbox[-1]) == sha1(PNG)


async def test_presence_keeps_everything_else(world: World) -> None:
    romeo, juliet = await friends(world)
    await store(romeo, photo(PNG))
    await world.settle()
    juliet.inbox.clear()
    other = "<idle xmlns='urn:xmpp:idle:1' since='2023-11-14T22:13:20Z'/><status xml:lang='de'>weg</status>"
    romeo.send(f"<presence id='p'>{other}<x xmlns='vcard-temp:x:update'/></presence>")
    await juliet.expect(
        f"<presence id='p'>{other}<x xmlns='vcard-temp:x:update'><photo>{sha1(PNG)}</photo></x></presence>"
    )


async def test_without_a_photo_presence_is_left_alone(world: World) -> None:
    romeo, juliet = await friends(world)
    await store(romeo, CARD)
    await juliet.expect_nothing()
    for inner in ("", "<x xmlns='vcard-temp:x:update'/>", "<x xmlns='vcard-temp:x:update'><photo>00</photo></x>"):
        romeo.send(f"<presence>{inner}</presence>")
        got = await juliet.expect(f"<presence>{inner}</presence>")
        assert (got.find(f"{X}x") is None) is (not inner)


async def test_the_hash_is_known_after_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        romeo, _ = await friends(world)
        await store(romeo, photo(PNG))
    async with World(database=database) as world:
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        await world.login("romeo@example.org/orchard", presence=True)
        await world.settle()
        assert [shown(el) for el in juliet.inbox if el.get("from") == "romeo@example.org/orchard"] == [sha1(PNG)]
    await database.close()


async def test_a_client_that_has_told_the_new_hash_by_itself_is_not_repeated(world: World) -> None:
    romeo, juliet = await friends(world)
    romeo.send(f"<presence><x xmlns='vcard-temp:x:update'><photo>{sha1(PNG)}</photo></x></presence>")
    await juliet.expect("<presence/>")
    await store(romeo, photo(PNG))
    await juliet.expect_nothing()
    await store(romeo, CARD)
    got = await juliet.expect("<presence/>")
    assert shown(got) == ""


# ---- XEP-0398 and XEP-0292 ------------------------------------------------------------------------------------------


async def publish_avatar(world: World, data: bytes, access: str = "open", type: str = "image/png") -> None:
    """As XEP-0084 §4.2 does."""
    pep = world.kernel.service(PepService)
    text = base64.b64encode(data).decode()
    options = {"access_model": access}
    await pep.publish(ROMEO, DATA, {sha1(data): f"<data xmlns='{DATA}'>{text}</data>".encode()}, options)
    info = (
        f"<info url='https://example.org/big.png' id='{sha1(b'big')}' bytes='9' type='image/png'/>"
        f"<info id='{sha1(data)}' bytes='{len(data)}' type='{type}' width='64' height='64'/>"
    )
    await pep.publish(
        ROMEO, METADATA, {sha1(data): f"<metadata xmlns='{METADATA}'>{info}</metadata>".encode()}, options
    )
    await world.settle()


async def test_an_avatar_is_the_photo_of_the_vcard(world: World) -> None:
    romeo, juliet = await friends(world)
    await store(romeo, CARD)
    await publish_avatar(world, PNG)
    got = await juliet.expect("<presence from='romeo@example.org/orchard'/>")
    assert shown(got) == sha1(PNG)
    got = await fetch(juliet, "romeo@example.org")
    assert picture(got) == PNG and got.findtext(".//{vcard-temp}FN") == "Romeo"
    assert got.findtext(".//{vcard-temp}TYPE") == "image/png"
    stranger = await world.login("benvolio@example.net/street")
    assert picture(await fetch(stranger, "romeo@example.org")) == PNG
    # no avatar any more
    pep = world.kernel.service(PepService)
    await pep.publish(ROMEO, METADATA, {"current": f"<metadata xmlns='{METADATA}'/>".encode()})
    await world.settle()
    assert shown(await juliet.expect("<presence from='romeo@example.org/orchard'/>")) == ""
    assert picture(await fetch(juliet, "romeo@example.org")) is None


@pytest.mark.parametrize(("access", "contact", "stranger"), [("presence", True, False), ("whitelist", False, False)])
async def test_an_avatar_that_is_not_for_everybody(world: World, access: str, contact: bool, stranger: bool) -> None:
    romeo, juliet = await friends(world)
    await publish_avatar(world, PNG, access)
    assert picture(await fetch(romeo)) == PNG
    for client, allowed in ((juliet, contact), (await world.login("benvolio@example.net/street"), stranger)):
        got = await fetch(client, "romeo@example.org", type="result" if allowed else "error")
        assert picture(got) == (PNG if allowed else None)


async def test_a_restricted_avatar_stays_so_when_the_card_around_it_is_edited(world: World) -> None:
    """Clients fetch the card, change a line and send it back with the picture that the server has put into it."""
    romeo, juliet = await friends(world)
    await publish_avatar(world, PNG, "presence")
    await store(romeo, CARD + photo(PNG))
    benvolio = await world.login("benvolio@example.net/street")
    stranger = await fetch(benvolio, "romeo@example.org")
    assert picture(stranger) is None and stranger.findtext(".//{vcard-temp}FN") == "Romeo"
    assert picture(await fetch(juliet, "romeo@example.org")) == PNG
    await store(romeo, CARD + photo(GIF))  # a picture of which that was never said
    assert picture(await fetch(benvolio, "romeo@example.org")) == GIF


async def test_an_avatar_without_data_or_with_a_wrong_id_is_not_taken(world: World) -> None:
    romeo, juliet = await friends(world)
    pep = world.kernel.service(PepService)
    for hash_ in (sha1(b"nothing"), sha1(GIF)):
        data = base64.b64encode(PNG).decode()
        await pep.publish(ROMEO, DATA, {sha1(GIF): f"<data xmlns='{DATA}'>{data}</data>".encode()})
        info = f"<metadata xmlns='{METADATA}'><info id='{hash_}' bytes='1' type='image/png'/></metadata>"
        await pep.publish(ROMEO, METADATA, {hash_: info.encode()})
    await world.settle()
    assert not [el for el in juliet.inbox if str(el.tag).endswith("presence")]
    assert empty(await fetch(romeo))


async def test_a_photo_becomes_an_avatar(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await store(romeo, CARD + photo(GIF, "image/png"))
    pep = world.kernel.service(PepService)
    data = await pep.items(ROMEO, DATA)
    assert list(data) == [sha1(GIF)] and base64.b64encode(GIF) in data[sha1(GIF)]
    (metadata,) = (await pep.items(ROMEO, METADATA)).values()
    # the type is what the bytes say, not what the client says
    assert f'id="{sha1(GIF)}"'.encode() in metadata.replace(b"'", b'"') and b"image/gif" in metadata
    assert await pep.access(ROMEO, DATA) == await pep.access(ROMEO, METADATA) == "open"
    await store(romeo, CARD)
    (metadata,) = (await pep.items(ROMEO, METADATA)).values()
    assert b"<info" not in metadata


@pytest.mark.parametrize("error", [StanzaError(Condition.CONFLICT), StorageUnavailable("disk full"), ValueError("bug")])
async def test_a_failing_conversion_costs_neither_the_answer_nor_the_announcement(
    world: World, error: Exception, expected_errors: ExpectedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_errors.add("vcard_not_converted")
    romeo = await world.login("romeo@example.org/orchard", presence=True)

    async def fail(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(world.kernel.service(PepService), "publish", fail)
    romeo.send(f"<iq type='set' id='v'><vCard xmlns='vcard-temp'>{photo(PNG)}</vCard></iq>")
    await romeo.expect("<iq type='result' id='v'/>")
    assert shown(await romeo.expect("<presence/>")) == sha1(PNG)
    await romeo.expect_nothing()


async def test_vcard4_says_what_the_vcard_says_and_the_other_way_round(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await store(romeo, CARD + "<MAILER>elm</MAILER>" + photo(PNG))
    pep = world.kernel.service(PepService)
    (card,) = (await pep.items(ROMEO, V4)).values()
    assert b"<text>Romeo</text>" in card and await pep.access(ROMEO, V4) == "open"
    got = await fetch(romeo)
    assert got.findtext(".//{vcard-temp}MAILER") == "elm"  # what vCard4 has no word for is still there
    v4 = b"<vcard xmlns='urn:ietf:params:xml:ns:vcard-4.0'><fn><text>R. Montague</text></fn></vcard>"
    await pep.publish(ROMEO, V4, {"current": v4})
    got = await fetch(romeo)
    assert got.findtext(".//{vcard-temp}FN") == "R. Montague" and picture(got) == PNG
    assert got.find(".//{vcard-temp}NICKNAME") is None


async def test_a_vcard4_that_is_not_for_everybody_stays_where_it_is(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    pep = world.kernel.service(PepService)
    v4 = b"<vcard xmlns='urn:ietf:params:xml:ns:vcard-4.0'><fn><text>Secret</text></fn></vcard>"
    await pep.publish(ROMEO, V4, {"current": v4}, {"access_model": "presence"})
    assert empty(await fetch(romeo))


PUBSUB = "http://jabber.org/protocol/pubsub"


@pytest.mark.parametrize(
    "request_",
    [
        f"<pubsub xmlns='{PUBSUB}'><retract node='{V4}'><item id='current'/></retract></pubsub>",
        f"<pubsub xmlns='{PUBSUB}#owner'><purge node='{V4}'/></pubsub>",
        f"<pubsub xmlns='{PUBSUB}#owner'><delete node='{V4}'/></pubsub>",
    ],
)
async def test_a_vcard4_that_is_taken_away_is_not_read_in_the_other_form(world: World, request_: str) -> None:
    romeo, juliet = await friends(world)
    await store(romeo, CARD + photo(PNG))
    await romeo.iq(f"<iq type='set' id='p'>{request_}</iq>")
    await world.settle()
    got = await fetch(juliet, "romeo@example.org")
    assert got.find(".//{vcard-temp}FN") is None
    assert picture(got) == PNG  # that is the avatar's business


async def test_a_vcard4_for_contacts_is_taken_away_without_the_vcard(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    pep = world.kernel.service(PepService)
    v4 = b"<vcard xmlns='urn:ietf:params:xml:ns:vcard-4.0'><fn><text>Secret</text></fn></vcard>"
    await pep.publish(ROMEO, V4, {"current": v4}, {"access_model": "presence"})
    await store(romeo, CARD)
    await pep.retract(ROMEO, V4, ["current"])
    await world.settle()
    assert (await fetch(romeo)).findtext(".//{vcard-temp}FN") == "Romeo"


async def test_an_avatar_that_is_too_large_does_not_leave_the_one_before_it() -> None:
    async with World(settings={"modules": {"vcard": {"max_bytes": 4096}}}) as world:
        _, juliet = await friends(world)
        await publish_avatar(world, PNG)
        assert shown(await juliet.expect("<presence from='romeo@example.org/orchard'/>")) == sha1(PNG)
        await publish_avatar(world, PNG + bytes(4096))
        assert shown(await juliet.expect("<presence from='romeo@example.org/orchard'/>")) == ""
        assert picture(await fetch(juliet, "romeo@example.org", "error")) is None


async def test_the_account_announces_the_conversion() -> None:
    for convert in (True, False):
        async with World(settings={"modules": {"vcard": {"convert": convert}}}) as world:
            romeo = await world.login("romeo@example.org/orchard")
            got = await romeo.iq("<iq type='get' id='i'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
            features = {el.get("var") for el in got.iter("{http://jabber.org/protocol/disco#info}feature")}
            assert ("urn:xmpp:pep-vcard-conversion:0" in features) is convert and "vcard-temp" in features
            assert ("urn:ietf:params:xml:ns:vcard-4.0" in features) is convert  # XEP-0292 §7
            await store(romeo, CARD + photo(PNG))
            assert bool(await world.kernel.service(PepService).items(ROMEO, DATA)) is convert
            assert not mismatch(
                "<iq type='result'><vCard xmlns='vcard-temp'><FN>Romeo</FN></vCard></iq>", await fetch(romeo)
            )
