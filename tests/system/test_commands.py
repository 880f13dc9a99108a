"""Commands of the catalogue on the command line, and what only a process can show: an end, and a new beginning."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

import pytest

from beamish import app
from beamish.net.control import ControlError, call
from beamish.storage.api import StorageUnavailable
from beamish.testing import Client, World

if TYPE_CHECKING:
    from tests.system.conftest import Daemon, NotifySocket


async def run(daemon: Daemon, *args: str) -> str:
    status, out, err = await daemon.command(*args)
    assert status == 0, err
    return out


async def test_an_invitation_made_without_a_server_makes_an_account_in_one(daemon: Daemon) -> None:
    made = json.loads(await run(daemon, "invite", "create", "--username", "tybalt", "--json"))
    token = made["uri"].rpartition("=")[2]
    await daemon.start()
    client = await daemon.connect()
    await client.open_stream("example.org")
    await client.start_tls("example.org")
    await client.iq(f"<iq type='set' id='1' to='example.org'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></iq>")
    await client.iq(
        "<iq type='set' id='2'><query xmlns='jabber:iq:register'><username>tybalt</username>"
        "<password>prince of cats</password></query></iq>"
    )
    await client.authenticate("tybalt", "prince of cats")
    await client.bind("street")
    assert await run(daemon, "users", "online") == "tybalt@example.org\n"
    assert json.loads(await run(daemon, "invite", "list", "--json")) == []
    assert await daemon.stop() == 0


async def test_a_live_command_says_that_it_needs_a_server(daemon: Daemon) -> None:
    status, out, err = await daemon.command("server", "shutdown")
    assert (status, out) == (1, "") and "needs a running server" in err


async def test_shutdown_ends_the_process_in_good_order(daemon: Daemon) -> None:
    await daemon.start()
    await daemon.add("romeo@example.org", "a wise password")
    romeo = await daemon.client("romeo@example.org/orchard", "a wise password")
    told = json.loads(await run(daemon, "server", "shutdown", "--announcement", "Good night", "--json"))
    assert told == {"restart": False, "delay": 0}
    await romeo.expect("<message type='headline'><body>Good night</body></message>")
    await romeo.expect_closed("system-shutdown")
    romeo.drop()
    assert await daemon.ended() == 0


async def test_restart_begins_anew_in_the_same_process(daemon: Daemon, notify_socket: NotifySocket) -> None:
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path), WATCHDOG_USEC="60000000")
    await notify_socket.until("READY=1")
    await daemon.add("romeo@example.org", "a wise password")
    assert daemon.process is not None and daemon.process.stdout is not None
    romeo = await daemon.client("romeo@example.org/orchard", "a wise password")
    daemon.config = daemon.config.replace("shutdown_grace = 5", "shutdown_grace = 4")
    await run(daemon, "server", "restart")
    await romeo.expect_closed("system-shutdown")
    daemon.signal(signal.SIGHUP)  # a reload asked for now has nothing left to do
    romeo.drop()
    line = await asyncio.wait_for(daemon.process.stdout.readline(), 30.0)
    for listener in json.loads(line)["listening"]:
        protocol, address, kind = listener.split()
        if (protocol, kind) == ("c2s", "starttls"):
            daemon.port = int(address.rpartition(":")[2])
    again: Client = await daemon.client("romeo@example.org/orchard", "a wise password")
    await again.expect_nothing()
    begun = daemon.events("ready")
    assert len(begun) == 2 and begun[0]["pid"] == begun[1]["pid"]
    # systemd takes STOPPING=1 as the end of the service, and kills what is still there after TimeoutStopSec
    told = await notify_socket.until("READY=1")
    assert "RELOADING=1" in told and "STATUS=restarting" in told
    assert "STOPPING=1" not in told
    assert await daemon.stop() == 0


async def test_commands_for_what_is_not_configured_say_so(daemon: Daemon) -> None:
    daemon.config = daemon.config.replace("[s2s]", "[s2s]\nenabled = false")
    await daemon.start()
    status, out, err = await daemon.command("component", "list")
    assert (status, out) == (1, "") and "the configuration has none ([components])" in err
    status, out, err = await daemon.command("s2s", "list")
    assert (status, out) == (1, "") and "s2s.enabled is false" in err


async def test_a_command_that_the_disk_refuses_tells_why(world: World, expected_errors: set[str]) -> None:
    expected_errors.add("command_not_stored")
    world.db.fail_next(StorageUnavailable("database or disk is full"))
    with pytest.raises(app.CommandFailed, match="could not be stored: database or disk is full"):
        await app._command(world.kernel, "user.add", {"jid": "tybalt@example.org", "password": "prince of cats"})


async def test_a_restart_into_a_broken_configuration_does_not_happen(
    daemon: Daemon, notify_socket: NotifySocket
) -> None:
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path))
    await notify_socket.until("READY=1")
    good = daemon.config
    await daemon.add("romeo@example.org", "a wise password")
    romeo = await daemon.client("romeo@example.org/orchard", "a wise password")
    broken = good + "[c2s.oops]\nx = 1\n"
    control = daemon.directory / "data" / "control.sock"
    (daemon.directory / "beamish.toml").write_text(broken)
    with pytest.raises(ControlError, match=r"not restarted: the configuration has errors: .*c2s\.oops"):
        await call(control, "server.restart", {"announcement": "Never mind"})
    # nor if it is broken only when the time has come
    (daemon.directory / "beamish.toml").write_text(good)
    assert await call(control, "server.restart", {"delay": 1}) == {"restart": True, "delay": 1}
    (daemon.directory / "beamish.toml").write_text(broken)
    async with asyncio.timeout(30):
        while not daemon.events("not_restarted"):
            await romeo.expect_nothing()  # no announcement either
    assert daemon.events("config_problem")
    # a certificate that the server can do without as long as it runs keeps it from starting
    (daemon.directory / "half.pem").write_text("no certificate")
    (daemon.directory / "beamish.toml").write_text(good + '[tls]\ncertificate = "half.pem"\nkey = "half.pem"\n')
    with pytest.raises(ControlError, match=r"a certificate cannot be used: .*half\.pem"):
        await call(control, "server.restart", {})
    # an end is an end, whatever the file says
    assert await call(control, "server.shutdown", {}) == {"restart": False, "delay": 0}
    romeo.drop()
    assert await daemon.ended() == 0
