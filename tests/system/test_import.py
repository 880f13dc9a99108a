"""`beamish user import` and `export` (XEP-0227): with the server stopped, and never beside one that runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.conftest import BEAMISH, PATIENCE

if TYPE_CHECKING:
    from tests.system.conftest import Daemon

FILE = """<?xml version='1.0' encoding='UTF-8'?>
<server-data xmlns='urn:xmpp:pie:0'><host jid='example.org'>
<user name='romeo' password='by the moon'>
<query xmlns='jabber:iq:roster'><item jid='juliet@example.org' subscription='both'><group>Verona</group></item></query>
</user>
{more}
</host></server-data>
"""
SAMPLES = Path(__file__).parent.parent / "modules" / "portable" / "data"


async def test_accounts_are_taken_while_the_server_is_stopped(daemon: Daemon) -> None:
    file = daemon.directory / "export.xml"
    file.write_text(FILE.format(more="<user name='tybalt' password='prick-song'><rapier xmlns='test:arms'/></user>"))
    status, out, err = await daemon.command("user", "import", "--dry-run", "export.xml")
    assert (status, "would take: 2 accounts" in out) == (1, True), err
    assert f"{file}:6: tybalt@example.org: not taken: the element {{test:arms}}rapier" in err
    await daemon.start()
    status, out, err = await daemon.command("user", "import", "export.xml")
    assert (status, out) == (1, "")
    assert "while the server is stopped" in err
    assert await daemon.stop() == 0
    status, out, err = await daemon.command("user", "import", "--json", "export.xml")
    told = json.loads(out)
    assert (status, told["not_taken"], told["taken"]) == (1, 1, {"accounts": 2, "contacts": 1}), err
    file.write_text(FILE.format(more="").replace("romeo", "paris"))
    status, out, err = await daemon.command("user", "import", "export.xml")
    assert (status, err) == (0, "")
    await daemon.start()
    romeo = await daemon.client("romeo@example.org/orchard", "by the moon")
    assert [el.get("jid") for el in (await romeo.roster())[0]] == ["juliet@example.org"]
    await daemon.client("paris@example.org/church", "by the moon")


async def test_keys_are_of_use_where_only_plain_is_offered(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(c2s='mechanisms = ["PLAIN"]', server="")
    shutil.copytree(SAMPLES / "ejabberd", daemon.directory / "old")
    daemon.config = daemon.config.replace('"example.org", "example.net"', '"ejab.example"')
    _, out, err = await daemon.command("user", "import", "old/server.xml")
    assert "taken: 3 accounts" in out
    assert "new password" not in err


async def test_what_is_exported_is_there_again_after_an_import(daemon: Daemon) -> None:
    (daemon.directory / "export.xml").write_text(FILE.format(more="<user name='paris' password='p'/>"))
    await daemon.command("user", "import", "export.xml")
    await daemon.start()
    status, _, err = await daemon.command("user", "export", "all.xml")
    assert status == 1
    assert "while the server is stopped" in err
    assert await daemon.stop() == 0
    status, _, err = await daemon.command("user", "export", "all.xml", "romeo@example.org")
    assert (status, err) == (0, "written: 1 accounts to all.xml\n")
    status, _, err = await daemon.command("user", "export", "all.xml")
    assert (status, "all.xml: File exists" in err) == (1, True)
    for name in ("romeo", "paris"):
        assert (await daemon.command("user", "remove", f"{name}@example.org"))[0] == 0
    status, _, err = await daemon.command("user", "import", "all.xml")
    assert (status, err) == (0, "")
    await daemon.start()
    romeo = await daemon.client("romeo@example.org/orchard", "by the moon")
    assert [el.get("jid") for el in (await romeo.roster())[0]] == ["juliet@example.org"]
    assert (await daemon.command("user", "list"))[1] == "romeo@example.org\n"


async def test_accounts_of_a_server_with_other_domains_are_left_out(daemon: Daemon) -> None:
    shutil.copytree(SAMPLES / "ejabberd", daemon.directory / "old")
    status, out, err = await daemon.command("user", "import", "old/server.xml")
    assert (status, out) == (1, "not taken: 3\n")
    assert err.count("ejab.example is not a domain of this server (example.org, example.net)") == 3


async def test_an_import_that_is_killed_has_whole_accounts_only_and_goes_on_where_it_was(daemon: Daemon) -> None:
    daemon.write_config()
    delay = "<delay xmlns='urn:xmpp:delay' stamp='2026-01-01T00:00:00Z'/>"
    kept = "".join(
        f"<message xmlns='jabber:client' from='a@b.example' type='chat' id='m{n}'><body>{n}</body>{delay}</message>"
        for n in range(30)
    )
    nurse = (
        "<user name='nurse' password='by the sun'><query xmlns='jabber:iq:roster'><item jid='romeo@example.org'/></query>"
        f"<offline-messages>{kept}</offline-messages><rapier xmlns='test:arms'/>"
    )
    whole = FILE.format(more=f"{nurse}</user>")
    begun = whole[: whole.index("</user>", whole.index("test:arms"))] + " " * 200_000
    pipe = daemon.directory / "pipe"
    os.mkfifo(pipe)
    process = await asyncio.create_subprocess_exec(
        *(BEAMISH, "user", "import", "pipe", "-c", "beamish.toml"),
        cwd=daemon.directory,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        writer = await asyncio.wait_for(asyncio.to_thread(os.open, pipe, os.O_WRONLY), PATIENCE)
        feeding = asyncio.create_task(asyncio.to_thread(os.write, writer, begun.encode()))
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stderr.readline(), PATIENCE)  # everything before it was taken
        assert b"rapier" in line
    finally:
        process.kill()
        await process.wait()
    await asyncio.gather(feeding, return_exceptions=True)
    os.close(writer)
    status, out, _ = await daemon.command("user", "list")
    assert (status, out) == (0, "romeo@example.org\n")
    (daemon.directory / "export.xml").write_text(whole)
    _, out, err = await daemon.command("user", "import", "--json", "export.xml")
    assert json.loads(out)["taken"] == {"accounts": 1, "contacts": 1, "offline messages": 30}, err
    await daemon.start()
    client = await daemon.client("nurse@example.org/home", "by the sun")
    await client.appear()
    assert [(await client.receive()).findtext("{jabber:client}body") for _ in range(30)] == [str(n) for n in range(30)]
