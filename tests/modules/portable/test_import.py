"""XEP-0227: what real Prosody and ejabberd wrote, each kind of thing, and files that are not so good."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import pytest

from beamish.core.later import settled
from beamish.core.services import AccountsService, PepService, PortableService, RosterItem, RosterService, Skipped
from beamish.modules.portable import PortableModule
from beamish.storage.api import StorageUnavailable
from beamish.storage.memory import MemoryDatabase
from beamish.stream.sasl import ALGORITHMS, Algorithm, ScramKeys, derive_keys
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp import ns
from beamish.xmpp.jid import JID

DATA = Path(__file__).parent / "data"
EJABBERD = [DATA / "ejabberd" / "server.xml"]
PROSODY = sorted((DATA / "prosody").glob("*.xml"))
PASSWORDS = {"alma": "plum cake 1", "bruno": "Grüße 2", "carla": "third 3"}
DOMAINS = ("ejab.example", "pro.example", "example.org")
USABLE = frozenset(ALGORITHMS)


def world(**more: Any) -> World:
    return World(domains=DOMAINS, accounts=(), **more)


async def load(
    w: World, *paths: Path, usable: frozenset[Algorithm] = USABLE, dry: bool = False
) -> tuple[dict[str, int], list[Skipped]]:
    skipped: list[Skipped] = []
    tally = await w.kernel.service(PortableService).load(paths, usable, skipped.append, dry=dry)
    return tally, skipped


def written(folder: Path, users: str, *, name: str = "file.xml") -> Path:
    path = folder / name
    path.write_text(
        f"<?xml version='1.0'?>\n<server-data xmlns='urn:xmpp:pie:0'><host jid='example.org'>\n{users}\n</host></server-data>"
    )
    return path


async def offered(w: World, domain: str) -> set[str]:
    client = w.connect()
    features = await client.open_stream(domain)
    client.drop()
    return {el.text or "" for el in features.iter(f"{{{ns.SASL}}}mechanism")}


async def scram(w: World, address: str, password: str, hash_: str = "sha1") -> Client:
    """Log in by SCRAM with this hash, and bind; raises `ClientError` for a failure."""
    jid, client = JID.parse(address), w.connect()
    mechanism = {"sha1": "SCRAM-SHA-1", "sha256": "SCRAM-SHA-256", "sha512": "SCRAM-SHA-512"}[hash_]
    await client.open_stream(jid.domain)
    first = f"n={jid.local},r=abc"
    client.send(f"<auth xmlns='{ns.SASL}' mechanism='{mechanism}'>{b64(f'n,,{first}')}</auth>")
    challenge = base64.b64decode((await client.expect(f"<challenge xmlns='{ns.SASL}'/>")).text or "").decode()
    fields = dict(part.split("=", 1) for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac(hash_, password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    key = hmac.digest(salted, b"Client Key", hash_)
    final = f"c=biws,r={fields['r']}"
    signature = hmac.digest(hashlib.new(hash_, key).digest(), f"{first},{challenge},{final}".encode(), hash_)
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
    client.send(f"<response xmlns='{ns.SASL}'>{b64(f'{final},p={proof}')}</response>")
    await client.expect(f"<success xmlns='{ns.SASL}'/>")
    await client.open_stream(jid.domain)
    await client.bind("home")
    return client


async def plain(w: World, user: str, domain: str, password: str) -> str:
    client = w.connect()
    await client.open_stream(domain)
    text = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    client.send(f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{text}</auth>")
    got = await client.receive()
    client.drop()
    return str((got[0] if len(got) else got).tag).rpartition("}")[2]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def keys(w: World, address: str, algorithm: Algorithm) -> ScramKeys | None:
    found = w.kernel.service(AccountsService).keys(JID.parse(address), algorithm)
    return await cast("Awaitable[ScramKeys | None]", found) if isinstance(found, Awaitable) else found


def credentials(password: str, algorithm: Algorithm) -> str:
    made = derive_keys(password, algorithm, iterations=10)
    salt, stored, server = (base64.b64encode(part).decode() for part in (made.salt, made.stored_key, made.server_key))
    return (
        f"<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-{algorithm}'><iter-count>10</iter-count>"
        f"<salt>{salt}</salt><server-key>{server}</server-key><stored-key>{stored}</stored-key></scram-credentials>"
    )


# ---- whole servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "domain"), [(EJABBERD, "ejab.example"), (PROSODY, "pro.example")], ids=["ejabberd", "prosody"]
)
async def test_whoever_was_there_logs_in_with_the_old_password_and_finds_everything(
    files: list[Path], domain: str
) -> None:
    async with world() as w:
        tally, skipped = await load(w, *files)
        assert (tally["accounts"], tally["contacts"], tally["requests to subscribe"]) == (3, 4, 1)
        assert {one.user for one in skipped} <= {f"alma@{domain}", f"bruno@{domain}"}
        assert "SCRAM-SHA-256" not in await offered(w, domain)
        assert {"SCRAM-SHA-1", "PLAIN"} <= await offered(w, domain)
        assert "SCRAM-SHA-256" in await offered(w, "example.org")
        alma = await scram(w, f"alma@{domain}", PASSWORDS["alma"])
        items = {el.get("jid"): el for el in (await alma.roster())[0]}
        friend, far = items[f"bruno@{domain}"], items["far@elsewhere.example"]
        assert (friend.get("name"), friend.get("subscription")) == ("Bruno & Co", "both")
        assert {el.text for el in friend} == {"Work", "Chess club"}
        assert (far.get("subscription"), far.get("ask")) == ("none", "subscribe")
        stored = await alma.iq(
            "<iq type='get' id='p'><query xmlns='jabber:iq:private'><prefs xmlns='test:prefs'/></query></iq>"
        )
        assert stored.findtext(".//{test:prefs}colour") == "plum"
        marks = await alma.iq(
            "<iq type='get' id='b'><query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'/></query></iq>"
        )
        assert [el.get("jid") for el in marks.iter("{storage:bookmarks}conference")] == ["tea@rooms.example"]
        card = await alma.iq("<iq type='get' id='v'><vCard xmlns='vcard-temp'/></iq>")
        assert card.findtext(".//{vcard-temp}FN") == "Alma Plum"
        assert card.findtext(".//{vcard-temp}BINVAL", "").startswith("iVBOR")
        bruno = await scram(w, f"bruno@{domain}", PASSWORDS["bruno"])
        bruno.send("<presence/>")
        await w.settle()
        asked = [el.get("from") for el in bruno.inbox if el.get("type") == "subscribe"]
        assert asked == [f"carla@{domain}"]


async def test_ejabberds_messages_and_lists_are_there() -> None:
    async with world() as w:
        tally, skipped = await load(w, *EJABBERD)
        assert (tally["offline messages"], tally["privacy lists"], tally["default privacy lists"]) == (2, 2, 2)
        assert ["no such group" in one.reason for one in skipped] == [True]
        assert (Path(skipped[0].file).name, skipped[0].line) == ("ejab_example.xml", 1)
        bruno = await scram(w, "bruno@ejab.example", PASSWORDS["bruno"])
        bruno.send("<presence/>")
        await w.settle()
        messages = [el for el in bruno.inbox if str(el.tag).endswith("message")]
        assert [el.findtext(f"{{{ns.CLIENT}}}body") for el in messages] == ["first of two", "second <of> two"]
        stamps = [[each.get("stamp") for each in el.iter(f"{{{ns.DELAY}}}delay")] for el in messages]
        assert stamps == [["2026-11-23T14:07:39.706Z"], ["2026-11-23T14:07:39.999Z"]]
        assert not [el for el in messages if el.find("{urn:xmpp:sid:0}stanza-id") is not None]
        alma = await scram(w, "alma@ejab.example", PASSWORDS["alma"])
        blocked = await alma.iq("<iq type='get' id='b'><blocklist xmlns='urn:xmpp:blocking'/></iq>")
        assert [el.get("jid") for el in blocked[0]] == ["pest@elsewhere.example"]


async def test_prosodys_nodes_are_there_with_their_configuration() -> None:
    async with world() as w:
        tally, skipped = await load(w, *PROSODY)
        assert (tally["nodes"], tally["items of nodes"]) == (6, 7)
        assert all("archive" in one.reason for one in skipped) and len(skipped) == 2
        pep, alma = w.kernel.service(PepService), JID.parse("alma@pro.example")
        assert list(await pep.items(alma, "test:notes")) == ["note1", "note2"]
        assert await pep.access(alma, "test:notes") == "whitelist"
        assert await pep.access(alma, "urn:xmpp:avatar:data") == "open"
        assert list(await pep.items(alma, "urn:xmpp:bookmarks:1")) == ["tea@rooms.example"]
        assert b"Almita" in (await pep.items(alma, "http://jabber.org/protocol/nick"))["current"]
        assert await pep.access(JID.parse("carla@pro.example"), "storage:bookmarks") is None


async def test_a_trial_stores_nothing() -> None:
    async with world() as w:
        tally, _ = await load(w, *EJABBERD, *PROSODY, dry=True)
        assert tally["accounts"] == 6
        assert await w.kernel.service(AccountsService).count() == 0
        assert (await load(w, *EJABBERD, *PROSODY))[0]["accounts"] == 6


async def test_a_second_time_everything_is_left_as_it_is() -> None:
    async with world() as w:
        await load(w, *EJABBERD)
        await w.kernel.service(AccountsService).set_password(JID.parse("carla@ejab.example"), "new")
        tally, skipped = await load(w, *EJABBERD)
        assert tally == {}
        assert [one.reason for one in skipped] == ["exists already, and is left as it is"] * 3
        assert await plain(w, "carla", "ejab.example", "new") == "success"


# ---- who may log in -------------------------------------------------------------------------------------------------


async def test_a_plain_password_gives_all_keys(tmp_path: Path) -> None:
    async with world() as w:
        await load(w, written(tmp_path, "<user name='nurse' password='peace &amp; 1'/>"))
        assert "SCRAM-SHA-256" in await offered(w, "example.org")
        for hash_ in ("sha1", "sha256", "sha512"):
            await scram(w, "nurse@example.org", "peace & 1", hash_)
        assert (await keys(w, "nurse@example.org", "SHA-1")) is not None


@pytest.mark.parametrize("algorithm", ["SHA-1", "SHA-256", "SHA-512"])
async def test_keys_of_one_hash_are_enough(tmp_path: Path, algorithm: Algorithm) -> None:
    async with world() as w:
        tally, skipped = await load(
            w, written(tmp_path, f"<user name='nurse'>{credentials('secret', algorithm)}</user>")
        )
        assert (tally, skipped) == ({"accounts": 1}, [])
        assert await offered(w, "example.org") == {f"SCRAM-{algorithm}", "PLAIN"}
        await scram(w, "nurse@example.org", "secret", algorithm.replace("-", "").lower())
        assert await plain(w, "nurse", "example.org", "wrong") == "not-authorized"
        assert await plain(w, "nobody", "example.org", "secret") == "not-authorized"


@pytest.mark.parametrize("in_memory", [10_000, 0])
async def test_missing_keys_are_made_when_the_password_is_shown(tmp_path: Path, in_memory: int) -> None:
    database = MemoryDatabase()
    settings = {"modules": {"accounts": {"keys_in_memory": in_memory}}}
    async with world(database=database, settings=settings) as w:
        both = "".join(f"<user name='{name}'>{credentials('secret', 'SHA-1')}</user>" for name in ("one", "two"))
        await load(w, written(tmp_path, both))
        assert await plain(w, "one", "example.org", "secret") == "success"
        await w.settle()
        assert await keys(w, "two@example.org", "SHA-256") is None
        for _ in range(500):  # a thread derives them
            if await keys(w, "one@example.org", "SHA-256") is not None:
                break
            await w.kernel.service(AccountsService).check_password(None, "time passes")
        assert await keys(w, "one@example.org", "SHA-512") is not None
        assert "SCRAM-SHA-256" not in await offered(w, "example.org")
        await w.settle()
    async with world(database=database, settings=settings) as w:  # it is known after a restart, too
        assert "SCRAM-SHA-256" not in await offered(w, "example.org")
        await w.kernel.service(AccountsService).set_password(JID.parse("two@example.org"), "other")
        assert "SCRAM-SHA-256" in await offered(w, "example.org")
        await scram(w, "one@example.org", "secret", "sha256")
        await scram(w, "two@example.org", "other", "sha256")
    await database.close()


async def test_with_the_last_account_that_lacks_keys_its_lack_goes(tmp_path: Path) -> None:
    async with world() as w:
        await load(w, written(tmp_path, f"<user name='nurse'>{credentials('secret', 'SHA-1')}</user>"))
        assert w.kernel.service(AccountsService).algorithms("example.org") == {"SHA-1"}
        await w.kernel.service(AccountsService).remove(JID.parse("nurse@example.org"))
        assert w.kernel.service(AccountsService).algorithms("example.org") == set(ALGORITHMS)


async def test_nobody_is_locked_out_by_somebody_elses_keys(tmp_path: Path) -> None:
    async with world() as w:
        two = "".join(
            f"<user name='u{at}'>{credentials('secret', each)}</user>" for at, each in enumerate(ALGORITHMS[:2])
        )
        tally, skipped = await load(w, written(tmp_path, two))
        assert tally["accounts"] == 2
        assert [(one.user, one.reason.partition(":")[0], one.line) for one in skipped] == [
            ("u1@example.org", "needs a new password", 3)
        ]
        await scram(w, "u0@example.org", "secret")
        assert await plain(w, "u1", "example.org", "secret") == "not-authorized"
        await w.kernel.service(AccountsService).set_password(JID.parse("u1@example.org"), "again")
        await scram(w, "u1@example.org", "again")


async def test_keys_for_what_is_not_offered_are_no_use(tmp_path: Path) -> None:
    async with world() as w:
        path = written(tmp_path, f"<user name='nurse'>{credentials('secret', 'SHA-1')}</user>")
        _, skipped = await load(w, path, usable=frozenset({"SHA-256"}))
        assert "needs a new password" in skipped[0].reason
        assert "SCRAM-SHA-256" in await offered(w, "example.org")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<iter-count>10<", "<iter-count>0<"),
        ("<iter-count>10<", "<iter-count>99999999<"),
        ("<iter-count>10<", "<iter-count>many<"),
        ("<salt>", "<salt>***"),
        ("<stored-key>", "<stored-key>AAAA"),
        ("SCRAM-SHA-1", "SCRAM-MD5"),
    ],
)
async def test_keys_that_are_none_are_named(tmp_path: Path, before: str, after: str) -> None:
    async with world() as w:
        users = f"<user name='nurse'>{credentials('secret', 'SHA-1').replace(before, after)}</user>"
        tally, skipped = await load(w, written(tmp_path, users))
        assert tally == {"accounts": 1}
        assert len(skipped) == 2 and "needs a new password" in skipped[1].reason
        assert await plain(w, "nurse", "example.org", "secret") == "not-authorized"


# ---- what is left out, and hostile files ----------------------------------------------------------------------------


async def test_what_cannot_be_taken_is_named_with_its_line(tmp_path: Path) -> None:
    users = """<user name='nurse' password='x1'>
<query xmlns='jabber:iq:roster'><item jid='@@' subscription='both'/><item jid='a@b.example' subscription='to'/></query>
<offline-messages><message xmlns='jabber:client' from='a@b.example'><body>when?</body></message></offline-messages>
<wishes xmlns='test:unknown'/>
<query xmlns='jabber:iq:private'><bare/></query>
</user>
<user name='with/slash' password='x'/>
<user name='' password='x'/>
</host><host jid='elsewhere.example'><user name='peter' password='x'/>"""
    async with world() as w:
        tally, skipped = await load(w, written(tmp_path, users))
        assert tally == {"accounts": 1, "contacts": 1}
        assert [one.line for one in skipped] == [4, 5, 6, 7, 9, 10, 11]
        assert "elsewhere.example is not a domain" in skipped[-1].reason


async def test_an_account_cut_short_is_not_there_and_leaves_nothing(tmp_path: Path) -> None:
    whole = "<user name='nurse' password='x1'><query xmlns='jabber:iq:roster'><item jid='a@b.example'/></query>"
    path = tmp_path / "file.xml"
    path.write_text(
        f"<server-data xmlns='urn:xmpp:pie:0'><host jid='example.org'><user name='first' password='x'/>{whole}<oops"
    )
    nurse = JID.parse("nurse@example.org")
    async with world() as w:
        tally, skipped = await load(w, path)
        assert tally["accounts"] == 1
        assert skipped[0].reason.endswith("the rest of the file is not read; the account is not made")
        assert not await settled(w.kernel.service(AccountsService).exists(nurse))
        assert list((await settled(w.kernel.service(RosterService).roster(nurse))).items()) == []
        await load(w, written(tmp_path, "<user name='nurse' password='x1'/>"))
        assert (await (await scram(w, "nurse@example.org", "x1")).roster())[0].findall("*") == []


async def test_an_import_that_was_killed_begins_anew(tmp_path: Path) -> None:
    nurse = JID.parse("nurse@example.org")
    delay = "<delay xmlns='urn:xmpp:delay' stamp='2020-01-01T00:00:00Z'/>"
    message = f"<message xmlns='jabber:client' from='a@b.example'><body>one</body>{delay}</message>"
    path = written(tmp_path, f"<user name='nurse' password='x1'><offline-messages>{message}</offline-messages></user>")
    async with world() as w:

        def killed(c: Any) -> None:
            c.run("INSERT INTO portable_begun (jid) VALUES (?)", str(nurse))

        await load(w, path)
        await w.kernel.db.write("killed", killed)
        await w.kernel.db.write("killed", lambda c: c.run("DELETE FROM account_key"))
        await w.kernel.db.write("killed", lambda c: c.run("DELETE FROM account"))
        cast("Any", w.kernel.service(AccountsService))._known.clear()
        tally, skipped = await load(w, path)
        assert (tally, skipped) == ({"accounts": 1, "offline messages": 1}, [])
        found = await w.kernel.db.fetch("SELECT COUNT(*) FROM offline_message")
        assert found == [(1,)]
        assert await w.kernel.db.fetch("SELECT jid FROM portable_begun") == []


async def test_what_a_killed_import_has_left_is_not_for_whoever_gets_the_name_next() -> None:
    nurse, friend = JID.parse("nurse@example.org"), RosterItem(JID.parse("a@b.example"), name="secret friend")
    database = MemoryDatabase()
    async with world(database=database) as w:
        await w.kernel.service(RosterService).change(nurse, friend, push=False)
        await w.kernel.db.write("killed", lambda c: c.run("INSERT INTO portable_begun VALUES (?)", str(nurse)))
    async with world(database=database) as w:
        assert await w.kernel.db.fetch("SELECT jid FROM portable_begun") == []
        await w.kernel.service(AccountsService).add(nurse, "x1")
        assert (await (await scram(w, "nurse@example.org", "x1")).roster())[0].findall("*") == []


async def test_an_account_that_was_made_after_all_keeps_what_it_has() -> None:
    nurse, friend = JID.parse("nurse@example.org"), RosterItem(JID.parse("a@b.example"), name="friend")
    database = MemoryDatabase()
    async with world(database=database) as w:
        await w.kernel.service(AccountsService).add(nurse, "x1")
        await w.kernel.service(RosterService).change(nurse, friend, push=False)
        await w.kernel.db.write("killed", lambda c: c.run("INSERT INTO portable_begun VALUES (?)", str(nurse)))
    async with world(database=database) as w:
        assert await w.kernel.db.fetch("SELECT jid FROM portable_begun") == []
        assert len((await (await scram(w, "nurse@example.org", "x1")).roster())[0].findall("*")) == 1


async def test_a_disk_that_takes_nothing_keeps_no_server_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    database = MemoryDatabase()
    async with world(database=database) as w:
        await w.kernel.db.write("killed", lambda c: c.run("INSERT INTO portable_begun VALUES ('nurse@example.org')"))

    async def refused(self: PortableModule, user: JID) -> None:
        raise StorageUnavailable("disk full")

    monkeypatch.setattr(PortableModule, "_clear", refused)
    async with world(database=database) as w:
        assert await w.kernel.db.fetch("SELECT jid FROM portable_begun") == [("nurse@example.org",)]


LAUGHS = "<!DOCTYPE x [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>]>"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"<?xml version='1.0'?>{LAUGHS}<server-data xmlns='urn:xmpp:pie:0'/>", "document type"),
        ("<!DOCTYPE x SYSTEM 'file:///etc/passwd'><server-data xmlns='urn:xmpp:pie:0'/>", "document type"),
        ("<server-data xmlns='urn:xmpp:pie:0'>&laughs;</server-data>", "not well-formed"),
        ("<?xml version='1.0' encoding='UTF-7'?><server-data xmlns='urn:xmpp:pie:0'/>", "UTF-8"),
        ("<html/>", "no data of"),
        ("", "not XML"),
        ("<server-data xmlns='urn:xmpp:pie:0'><host jid='example.org'>" + "<user>" * 600, "well-formed"),
    ],
)
async def test_what_is_not_such_a_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "file.xml"
    path.write_text(text)
    async with world() as w:
        tally, skipped = await load(w, path)
        assert tally == {}
        assert reason in skipped[-1].reason
        assert await w.kernel.service(AccountsService).count() == 0


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with world() as w:
        _, skipped = await load(w, tmp_path / "none.xml")
        assert "No such file" in skipped[0].reason


async def test_an_element_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamish.modules.portable.reader.PIECE_BYTES", 200_000)
    huge = "<note xmlns='test:unknown'>" + "<a/>" * 200_000 + "</note>"
    async with world() as w:
        _, skipped = await load(w, written(tmp_path, f"<user name='nurse' password='x1'>{huge}</user>"))
        assert "MiB" in skipped[0].reason
        assert await w.kernel.service(AccountsService).count() == 0
        notes = "<note xmlns='test:unknown'/>" * 20_000
        many = f"<user name='nurse' password='x1'>{notes}</user>"
        tally, _ = await load(w, written(tmp_path, many))
        assert tally == {"accounts": 1}


@pytest.mark.parametrize(
    "href",
    [
        "../secret.xml",
        "/etc/hostname",
        "file:///etc/hostname",
        "http://127.0.0.1:1/x",
        "link.xml",
        "none.xml",
        "",
        "main.xml",
        "a%00b",
    ],
)
async def test_only_files_beside_the_first_are_included(tmp_path: Path, href: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    user = "<host xmlns='urn:xmpp:pie:0' jid='example.org'><user name='nurse' password='x1'/></host>"
    (tmp_path / "secret.xml").write_text(user)
    (folder / "link.xml").symlink_to(tmp_path / "secret.xml")
    (folder / "good.xml").write_text(user.replace("nurse", "good"))
    main = folder / "main.xml"
    xi = "http://www.w3.org/2001/XInclude"
    main.write_text(
        f"<server-data xmlns='urn:xmpp:pie:0' xmlns:xi='{xi}'><xi:include href='{href}'/>"
        "<xi:include href='good.xml'/></server-data>"
    )
    async with world() as w:
        tally, skipped = await load(w, main)
        assert tally == {"accounts": 1}
        assert len(skipped) == 1
        assert not await settled(w.kernel.service(AccountsService).exists(JID.parse("nurse@example.org")))


async def test_the_layout_with_a_file_for_each_user(tmp_path: Path) -> None:
    xi = "xmlns='urn:xmpp:pie:0' xmlns:xi='http://www.w3.org/2001/XInclude'"
    (tmp_path / "example.org").mkdir()
    (tmp_path / "main.xml").write_text(f"<server-data {xi}><xi:include href='example.org.xml'/></server-data>")
    (tmp_path / "example.org.xml").write_text(
        f"<host {xi} jid='example.org'><xi:include href='example.org/nurse.xml'/></host>"
    )
    (tmp_path / "example.org" / "nurse.xml").write_text(
        f"<user {xi} name='nurse' password='x1'><query xmlns='jabber:iq:roster'><item jid='a@b.example'/></query>"
        "<query xmlns='jabber:iq:private'><xi:include href='main.xml'/></query></user>"
    )
    async with world() as w:
        tally, skipped = await load(w, tmp_path / "main.xml")
        # what stands inside the user's own data is data
        assert (tally, skipped) == ({"accounts": 1, "contacts": 1, "private data": 1}, [])


async def test_a_node_whose_configuration_is_too_much_is_no_more_open_than_it_was(tmp_path: Path) -> None:
    def form(access: str) -> str:
        fields = {"access_model": access, "max_items": "99999999999", "persist_items": "1"}
        rows = "".join(f"<field var='pubsub#{k}'><value>{v}</value></field>" for k, v in fields.items())
        return f"<x xmlns='jabber:x:data' type='form'>{rows}</x>"

    owner = "http://jabber.org/protocol/pubsub#owner"
    names = {"test:a": "whitelist", "test:b": "somebody-elses-idea", "test:c": "open"}
    configured = "".join(f"<configure node='{name}'>{form(access)}</configure>" for name, access in names.items())
    items = "".join(f"<items node='{name}'><item id='1'><n xmlns='test:n'/></item></items>" for name in names)
    users = (
        f"<user name='nurse' password='x1'><pubsub xmlns='http://jabber.org/protocol/pubsub'>{items}</pubsub>"
        f"<pubsub xmlns='{owner}'>{configured}</pubsub></user>"
    )
    async with world() as w:
        tally, skipped = await load(w, written(tmp_path, users))
        assert (tally["nodes"], tally["items of nodes"], len(skipped)) == (3, 3, 3)
        pep, nurse = w.kernel.service(PepService), JID.parse("nurse@example.org")
        assert [await pep.access(nurse, name) for name in names] == ["whitelist", "whitelist", "open"]


async def test_the_administrator_is_told_what_is_not_offered(tmp_path: Path) -> None:
    async with world() as w:
        assert "not_offered" not in await w.kernel.commands.run("server.status", {})
        await load(w, written(tmp_path, f"<user name='nurse'>{credentials('secret', 'SHA-1')}</user>"))
        status = await w.kernel.commands.run("server.status", {})
        assert status["not_offered"] == ["example.org: SCRAM-SHA-256, SCRAM-SHA-512"]


async def test_what_is_told_is_one_line_whatever_names_a_file_has(tmp_path: Path) -> None:
    async with world() as w:
        _, skipped = await load(w, written(tmp_path, f"<user name='a&#10;b&#155;31m{'c' * 5000}' password='x'/>"))
        (told,) = map(str, skipped)
        assert told.isprintable()
        assert len(told) <= 1000
