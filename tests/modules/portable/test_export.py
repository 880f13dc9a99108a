"""XEP-0227: what is written has everything that was there, and can be read again."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from beamish.core import events
from beamish.core.events import Exporting
from beamish.core.hooks import Row
from beamish.core.services import AccountsService, PepService, PortableService, Skipped
from beamish.testing.world import World
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

DATA = Path(__file__).parent / "data"
FILES = [DATA / "ejabberd" / "server.xml", *sorted((DATA / "prosody").glob("*.xml"))]
PIE = "{urn:xmpp:pie:0}"


def world() -> World:
    return World(domains=("ejab.example", "pro.example"), accounts=())


async def load(w: World, *paths: Path) -> tuple[dict[str, int], list[Skipped]]:
    skipped: list[Skipped] = []
    tally = await w.kernel.service(PortableService).load(paths, frozenset({"SHA-1"}), skipped.append)
    return tally, skipped


def normal(path: Path) -> dict[str, list[str]]:
    """The children of every user, in an order of their own: files with the same are the same."""
    root = etree.parse(path).getroot()
    found: dict[str, list[str]] = {}
    for host in root:
        for user in host:
            for pubsub in user.iterfind("{*}pubsub"):
                pubsub[:] = sorted(pubsub, key=lambda el: el.get("node", ""))
            parts = sorted(etree.canonicalize(etree.tostring(el, with_tail=False).decode()) for el in user)
            found[f"{user.get('name')}@{host.get('jid')}"] = parts
    return found


async def test_what_was_written_is_read_again_and_is_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first.xml", tmp_path / "second.xml"
    async with world() as w:
        before, _ = await load(w, *FILES)
        assert await w.kernel.service(PortableService).save(first) == 6
        assert stat.S_IMODE(first.stat().st_mode) == 0o600
    async with world() as w:
        again, skipped = await load(w, first)
        assert skipped == []
        # vCards made nodes, and bookmarks are in one
        assert {kind: again[kind] for kind in ("accounts", "contacts", "privacy lists", "requests to subscribe")} == {
            kind: before[kind] for kind in ("accounts", "contacts", "privacy lists", "requests to subscribe")
        }
        assert (again["offline messages"], again["default privacy lists"]) == (2, 2)
        assert await w.kernel.service(PepService).access(JID.parse("alma@pro.example"), "test:notes") == "whitelist"
        assert list(await w.kernel.service(PepService).items(JID.parse("alma@pro.example"), "test:notes")) == [
            "note1",
            "note2",
        ]
        await w.kernel.service(PortableService).save(second)
    assert len(normal(first)) == 6
    assert normal(first) == normal(second)


async def test_each_kind_of_thing_stands_where_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "file.xml"
    async with world() as w:
        await load(w, *FILES)
        bruno = JID.parse("bruno@ejab.example")
        assert await w.kernel.service(PortableService).save(path, [bruno, bruno]) == 1
    (host,) = etree.parse(path).getroot()
    (user,) = host
    assert (host.get("jid"), user.get("name"), user.tag) == ("ejab.example", "bruno", f"{PIE}user")
    scram = user.find("{urn:xmpp:pie:0#scram}scram-credentials")
    assert scram is not None and scram.get("mechanism") == "SCRAM-SHA-1"
    assert scram.findtext("{urn:xmpp:pie:0#scram}iter-count") == "4096"
    item = user.find(f"{{{ns.ROSTER}}}query/{{{ns.ROSTER}}}item")
    assert item is not None and (item.get("jid"), item.get("subscription")) == ("alma@ejab.example", "both")
    request = user.find(f"{{{ns.CLIENT}}}presence")
    assert request is not None and (request.get("type"), request.get("from")) == ("subscribe", "carla@ejab.example")
    messages = user.findall(f"{PIE}offline-messages/{{{ns.CLIENT}}}message")
    assert [el.findtext(f"{{{ns.CLIENT}}}body") for el in messages] == ["first of two", "second <of> two"]
    assert [el.find(f"{{{ns.DELAY}}}delay").get("stamp") for el in messages] == [  # type: ignore[union-attr]
        "2026-11-23T14:07:39.706Z",
        "2026-11-23T14:07:39.999Z",
    ]
    default = user.find("{jabber:iq:privacy}query/{jabber:iq:privacy}default")
    assert default is not None and default.get("name") == "calm"


async def test_a_locked_account_is_not_opened_by_being_moved(tmp_path: Path) -> None:
    path = tmp_path / "file.xml"
    async with world() as w:
        await load(w, *FILES)
        await w.kernel.service(AccountsService).disable(JID.parse("carla@pro.example"))
        await w.kernel.service(PortableService).save(path, [JID.parse("carla@pro.example")])
    assert b"scram-credentials" not in path.read_bytes()


async def test_what_ended_sessions_have_left_is_waited_for(tmp_path: Path) -> None:
    async with world() as w:
        bruno = JID.parse("bruno@pro.example")
        await w.kernel.service(AccountsService).add(bruno, "x")
        file, later = tmp_path / "file.xml", asyncio.Event()

        async def bring() -> None:
            await later.wait()
            message = Stanza.parse(b"<message from='a@b.example' type='chat'><body>held</body></message>")
            w.kernel.router.post(message.replace(to=bruno))

        w.kernel.tasks.spawn(bring(), "unconfirmed")
        saving = asyncio.create_task(w.kernel.service(PortableService).save(file))
        await w.settle()
        later.set()
        assert await saving == 1
        assert b"<body>held</body>" in file.read_bytes()


async def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.xml"
    path.write_text("mine")
    async with world() as w:
        with pytest.raises(FileExistsError):
            await w.kernel.service(PortableService).save(path)
    assert path.read_text() == "mine"


async def test_nothing_is_left_of_a_file_that_lacks_something(tmp_path: Path) -> None:
    path = tmp_path / "file.xml"

    def fails(event: Exporting) -> Any:
        raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="no disk")

    def damaged(event: Exporting) -> Any:
        event.parts.append(b"<a xmlns='b'>")

    async with world() as w:
        await load(w, *FILES)
        portable = w.kernel.service(PortableService)
        with pytest.raises(StanzaError, match=r"."):
            await portable.save(path, [JID.parse("nobody@pro.example")])
        assert not path.exists()
        for handler in (fails, damaged):
            w.kernel.hooks[events.account_exporting].add(Row(50, "test", handler))
            with pytest.raises(StanzaError):
                await portable.save(path)
            assert not path.exists()
            w.kernel.hooks[events.account_exporting].remove("test")
        assert await portable.save(path) == 6
