"""The library that Gajim is made of, with what Gajim does: it registers by a form, blocks, and shares tunes and moods."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from beamish.modules.register import RegisterModule
from beamish.testing import LiveServer

pytestmark = pytest.mark.slow
PYTHON = Path("/usr/bin/python3")
"""The distribution's: the library needs GLib and its bindings, which are no matter of pip."""
PATIENCE = 20.0
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 10
PUBLISHED = {
    "tune": ("http://jabber.org/protocol/tune", {"artist": "Yes", "title": "Heart of the Sunrise"}),
    "location": ("http://jabber.org/protocol/geoloc", {"country": "Italy", "locality": "Verona"}),
    "activity": ("http://jabber.org/protocol/activity", {"activity": "relaxing", "subactivity": "partying"}),
    "mood": ("http://jabber.org/protocol/mood", {"mood": "in_love"}),
    "nick": ("http://jabber.org/protocol/nick", "Rome"),
}


class Gajim:
    """One client, in a process of its own."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self._process: asyncio.subprocess.Process | None = None
        self._passed: list[dict[str, Any]] = []

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            PYTHON,
            Path(__file__).with_name("gajim_client.py"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=2**20,
        )

    def do(self, order: str, /, **more: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": order, **more}).encode() + b"\n")

    async def event(self, event: str, **wanted: Any) -> dict[str, Any]:
        """Wait for an event; others before it are kept for later."""
        for each in self._passed:
            if each["event"] == event and wanted.items() <= each.items():
                self._passed.remove(each)
                return each
        assert self._process is not None and self._process.stdout is not None
        while True:
            try:
                line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
            except TimeoutError:
                raise AssertionError(f"no {event} {wanted}, but {self._passed}") from None
            assert line, f"the client has ended; no {event} {wanted}, but {self._passed}"
            got = json.loads(line)
            if got["event"] == event and wanted.items() <= got.items():
                return got  # type: ignore[no-any-return]
            self._passed.append(got)

    async def connect(self, address: str, password: str, *, register: bool = False) -> None:
        ca = str(self.server.ca)
        self.do("connect", address=address, password=password, port=self.server.port, ca=ca, register=register)
        await self.event("connected")

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.do("quit")
            await asyncio.wait_for(self._process.wait(), PATIENCE)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[LiveServer]:
    settings = {"modules": {"register": {"open": True, "captcha": "image"}}}
    async with LiveServer(settings=settings) as made:
        yield made


@pytest.fixture(scope="module")
def library() -> None:
    """Skips where the library is not installed."""
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", "import gi, nbxmpp"], capture_output=True).returncode:
        pytest.skip("nbxmpp is not installed (apt-get install python3-nbxmpp)")


@pytest_asyncio.fixture
async def two(library: None, server: LiveServer) -> AsyncIterator[tuple[Gajim, Gajim]]:
    """Two clients, not connected."""
    clients = Gajim(server), Gajim(server)
    for client in clients:
        await client.start()
    yield clients
    for client in clients:
        await client.stop()


async def test_registration_with_an_image(server: LiveServer, two: tuple[Gajim, Gajim]) -> None:
    gajim, again = two
    await gajim.connect("tybalt@example.org", "prince of cats", register=True)
    gajim.do("ask")
    form = await gajim.event("form")
    assert form["fields"]["username"] == "text-single" and form["fields"]["password"] == "text-private"
    assert {"username", "password"} <= set(form["required"]) and form["fields"]["challenge"] == "hidden"
    assert base64.b64decode(form["picture"]).startswith(b"\x89PNG") and form["media"] == [f"cid:{form['cid']}"]
    module = server.kernel.registry.module(RegisterModule)
    (letters,) = [v.challenge.letters for v in module._visits.values() if v.challenge is not None]
    gajim.do("submit", values={"username": "tybalt", "password": "prince of cats", "ocr": letters})
    await gajim.event("done", of="submit")
    await again.connect("tybalt@example.org/street", "prince of cats")


async def test_a_wrong_answer_is_told_and_the_next_form_can_be_filled_in(
    server: LiveServer, two: tuple[Gajim, Gajim]
) -> None:
    gajim, again = two
    await gajim.connect("tybalt@example.org", "prince of cats", register=True)
    module = server.kernel.registry.module(RegisterModule)
    for right in (False, True):
        gajim.do("ask")
        await gajim.event("form")
        letters = [v.challenge.letters for v in module._visits.values() if v.challenge is not None][-1]
        answer = letters if right else "WRONG"
        gajim.do("submit", values={"username": "tybalt", "password": "prince of cats", "ocr": answer})
        if not right:
            assert "not-acceptable" in (await gajim.event("error", of="submit"))["error"]
    await gajim.event("done", of="submit")
    await again.connect("tybalt@example.org/street", "prince of cats")


async def test_six_personal_events_and_the_picture(server: LiveServer, two: tuple[Gajim, Gajim]) -> None:
    romeo, juliet = two
    await romeo.connect("romeo@example.org/gajim", server.password)
    await juliet.connect("juliet@example.org/gajim", server.password)
    for client, own in ((romeo, "romeo"), (juliet, "juliet")):
        client.do("appear")
        await client.event("presence", sender=f"{own}@example.org/gajim", type="available")
    for asking, asked, name, other in ((romeo, juliet, "romeo", "juliet"), (juliet, romeo, "juliet", "romeo")):
        asking.do("presence", to=f"{other}@example.org", type="subscribe")
        await asked.event("presence", sender=f"{name}@example.org", type="subscribe")
        asked.do("presence", to=f"{name}@example.org", type="subscribed")
        await asking.event("presence", sender=f"{other}@example.org/gajim", type="available")
    for what, (node, data) in PUBLISHED.items():
        romeo.do("publish", what=what)
        await romeo.event("done", of=what)
        got = await juliet.event("pubsub", node=node, sender="romeo@example.org")
        if isinstance(data, str):
            assert got["data"] == data
        else:
            assert data.items() <= got["data"].items()
    picture = base64.b64encode(PNG).decode()
    romeo.do("publish", what=picture)
    await romeo.event("done", of=picture)
    await juliet.event("pubsub", node="urn:xmpp:avatar:metadata", sender="romeo@example.org")
    sha = hashlib.sha1(PNG).hexdigest()
    await juliet.event("presence", sender="romeo@example.org/gajim", avatar=sha)
    juliet.do("vcard", jid="romeo@example.org")
    assert await juliet.event("vcard") == {"event": "vcard", "sha": sha, "bytes": len(PNG)}
    # and a block, as Gajim's menu does it
    juliet.do("block", jid="romeo@example.org")
    await romeo.event("presence", sender="juliet@example.org/gajim", type="unavailable")
    juliet.do("blocked")
    assert (await juliet.event("blocked"))["jids"] == ["romeo@example.org"]
