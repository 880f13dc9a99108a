"""`beamish user import` (XEP-0227): with the server stopped, and never beside one that runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

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


async def test_accounts_of_a_server_with_other_domains_are_left_out(daemon: Daemon) -> None:
    shutil.copytree(SAMPLES / "ejabberd", daemon.directory / "old")
    status, out, err = await daemon.command("user", "import", "old/server.xml")
    assert (status, out) == (1, "not taken: 3\n")
    assert err.count("ejab.example is not a domain of this server (example.org, example.net)") == 3
