"""biboumi, a gateway to IRC, as Debian packages it, with a server of ngircd behind it. Skipped where one is missing."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tests.interop.foreign import free_port, lines
from tests.watched import until

from beamish.net.component import ComponentServer
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.xmpp.xml import Element

pytestmark = pytest.mark.slow
GATE = "irc.a.example"
NETWORK = f"127.0.0.1@{GATE}"
CHANNEL = f"#garden%127.0.0.1@{GATE}"
MUC = "http://jabber.org/protocol/muc"
COMMANDS = "http://jabber.org/protocol/commands"
PATIENCE = 30.0

IRC = """\
[Global]
Name = irc.verona.example
Info = Verona
Listen = 127.0.0.1
Ports = {port}
MotdPhrase = "good morrow"
{user}
[Limits]
MaxPenaltyTime = 0
MaxConnectionsIP = 0
[Options]
DNS = no
Ident = no
PAM = no
[Channel]
Name = #garden
Topic = by yonder moon
"""

BIBOUMI = """\
hostname={gate}
password=between us
xmpp_server_ip={host}
port={port}
db_name={folder}/biboumi.sqlite
identd_port=0
"""


def program(name: str) -> str:
    """The path of a program. Skips the test if it is not installed."""
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed (apt-get install {name})")
    return path


async def run(*command: str, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await asyncio.wait_for(process.communicate(), PATIENCE)


@pytest_asyncio.fixture
async def irc(tmp_path: Path) -> AsyncIterator[int]:
    """The port of an IRC server."""
    path, port = program("ngircd"), free_port()
    user = "ServerUID = irc\nServerGID = irc" if os.geteuid() == 0 else ""
    (tmp_path / "ngircd.conf").write_text(IRC.format(port=port, user=user))
    process = await run(path, "-n", "-f", str(tmp_path / "ngircd.conf"), folder=tmp_path)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            async for line in lines(process.stdout):
                if line.endswith("ready."):
                    break
        yield port
    finally:
        await end(process)


@pytest_asyncio.fixture
async def server(tmp_path: Path, irc: int) -> AsyncIterator[FederatedServer]:
    """A server with the gateway as its component."""
    path = program("biboumi")
    settings = {"components": {GATE: {"secret": "between us"}}}
    accounts = ("romeo@a.example", "juliet@a.example")
    async with FederatedServer(Authority(tmp_path), Directory(), accounts=accounts, settings=settings) as made:
        written = BIBOUMI.format(gate=GATE, host=made.host, port=made.component_port, folder=tmp_path)
        (tmp_path / "biboumi.cfg").write_text(written)
        process = await run(path, str(tmp_path / "biboumi.cfg"), folder=tmp_path)
        try:
            listener = made.kernel.service(ComponentServer)
            await asyncio.wait_for(until(lambda: listener.list_components()[0]["connected"]), PATIENCE)
            yield made
        finally:
            await end(process)


async def seen(client: Client, wanted: Callable[[Element], object]) -> Element:
    """The next stanza that is wanted; others are skipped (a network has much to say)."""
    async with asyncio.timeout(PATIENCE):
        while not wanted(got := await client.receive()):
            pass
    return got


async def configure(client: Client, port: int) -> None:
    """Tell the gateway where the network is, by its form (XEP-0050)."""
    command = f"<command xmlns='{COMMANDS}' node='configure'"
    got = await client.iq(f"<iq type='set' id='form' to='{NETWORK}'>{command} action='execute'/></iq>")
    session = got[0].get("sessionid")
    form = f"<field var='ports'><value>{port}</value></field><field var='tls_ports'><value/></field>"
    got = await client.iq(
        f"<iq type='set' id='filled' to='{NETWORK}'>{command} sessionid='{session}' action='complete'>"
        f"<x xmlns='jabber:x:data' type='submit'>{form}</x></command></iq>"
    )
    assert got[0].get("status") == "completed"


async def enter(client: Client, nick: str) -> None:
    """Join the channel, up to its topic."""
    client.send(f"<presence to='{CHANNEL}/{nick}'><x xmlns='{MUC}'/></presence>")
    own = await seen(client, lambda got: "110" in codes(got))
    assert own.get("from") == f"{CHANNEL}/{nick}"


def codes(stanza: Element) -> set[str | None]:
    return {each.get("code") for each in stanza.iter(f"{{{MUC}#user}}status")}


def says(nick: str, body: str) -> Callable[[Element], bool]:
    sender = f"{CHANNEL}/{nick}"
    return lambda got: got.get("from") == sender and got.findtext("{jabber:client}body") == body


async def test_a_channel_is_a_room(server: FederatedServer, irc: int) -> None:
    romeo = await server.client("romeo@a.example/orchard", presence=True)
    juliet = await server.client("juliet@a.example/balcony", presence=True)
    for client, nick in ((romeo, "romeo"), (juliet, "juliet")):
        await configure(client, irc)
        await enter(client, nick)
    await seen(romeo, lambda got: got.get("from") == f"{CHANNEL}/juliet" and got.get("type") is None)
    juliet.send(f"<message to='{CHANNEL}' type='groupchat' id='m1'><body>ay me</body></message>")
    await seen(juliet, says("juliet", "ay me"))
    assert (await seen(romeo, says("juliet", "ay me"))).get("type") == "groupchat"
    await romeo.iq(f"<iq type='get' id='p' to='{CHANNEL}/romeo'><ping xmlns='urn:xmpp:ping'/></iq>")  # XEP-0410

    romeo.send(f"<presence to='{CHANNEL}/montague'/>")
    gone = await seen(juliet, lambda got: got.get("from") == f"{CHANNEL}/romeo" and got.get("type") == "unavailable")
    assert "303" in codes(gone)
    romeo.send(f"<message to='{CHANNEL}/juliet' type='chat'><body>call me but love</body></message>")
    private = await seen(juliet, lambda got: got.findtext("{jabber:client}body") == "call me but love")
    assert private.get("type") == "chat"

    phone = await server.client("romeo@a.example/phone", presence=True)
    await enter(phone, "montague")
    history = await seen(phone, says("juliet", "ay me"))
    assert history.find("{urn:xmpp:delay}delay") is not None
    phone.send(f"<iq type='set' id='mam' to='{CHANNEL}'><query xmlns='urn:xmpp:mam:2'/></iq>")
    kept = await seen(phone, lambda got: got.find("{urn:xmpp:mam:2}result") is not None)
    assert kept.findtext(".//{jabber:client}body") == "ay me"

    juliet.drop()  # her connection breaks off: the server tells the gateway, the gateway the channel
    for client in (romeo, phone):
        await seen(client, lambda got: got.get("from") == f"{CHANNEL}/juliet" and got.get("type") == "unavailable")
