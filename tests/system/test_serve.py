"""Start, stop and reload of `beamish serve`."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from tests.processes import run_to_end
from tests.system.conftest import BEAMISH, PATIENCE

from beamish.net.certificate import keep_self_signed
from beamish.net.control import call

if TYPE_CHECKING:
    from tests.system.conftest import Daemon, NotifySocket


async def test_it_tells_where_it_listens_and_that_it_is_ready(daemon: Daemon, notify_socket: NotifySocket) -> None:
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path))
    told = await notify_socket.until("READY=1")
    assert told[0] == "EXTEND_TIMEOUT_USEC=30000000", "a migration may take longer than the unit's TimeoutStartSec"
    assert "STATUS=serving example.org, example.net" in told
    assert daemon.port and daemon.tls_port
    (ready,) = daemon.events("ready")
    assert [line for line in ready["listening"] if line.startswith("c2s")] == [
        f"c2s 127.0.0.1:{daemon.port} starttls",
        f"c2s 127.0.0.1:{daemon.tls_port} direct-tls",
    ]
    for direct_tls in (False, True):
        client = await daemon.connect("example.net", direct_tls=direct_tls)
        await client.open_stream("example.net")
    assert daemon.process is not None
    assert await daemon.stop() == 0
    assert "STOPPING=1" in await notify_socket.until("EXTEND_TIMEOUT_USEC=45000000")  # of 5 seconds' grace each, and 30
    assert daemon.events("stopping")


async def test_its_log_of_writes_has_its_size_soon(daemon: Daemon) -> None:
    free = shutil.disk_usage(daemon.directory).free
    if free < 2_000_000_000:
        pytest.skip("a disk that is nearly full is left alone")
    await daemon.start()
    log = daemon.directory / "data" / "beamish.db-wal"
    async with asyncio.timeout(PATIENCE):
        for number in itertools.count():
            if log.stat().st_size >= 16_000_000:
                break
            await daemon.add(f"user{number}@example.org", "some password")  # it serves meanwhile


async def test_it_shows_signs_of_life_to_a_watchdog(daemon: Daemon, notify_socket: NotifySocket) -> None:
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path), WATCHDOG_USEC="200000")
    for _ in range(3):
        await notify_socket.until("WATCHDOG=1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_streams_are_closed_before_it_stops(daemon: Daemon, number: signal.Signals) -> None:
    await daemon.start()
    await daemon.add("romeo@example.org", "secret of romeo")
    bound = await daemon.client("romeo@example.org/orchard", "secret of romeo")
    stranger = await daemon.connect()
    await stranger.open_stream("example.org")
    daemon.signal(number)
    for client in (bound, stranger):
        await client.expect_closed("system-shutdown")
        assert client.closed
        client.send("</stream:stream>")
    assert await daemon.ended() == 0


async def test_what_comes_while_it_stops_changes_nothing(daemon: Daemon) -> None:
    """A reload asked for then ended it at once; a restart that was due then began it anew."""
    await daemon.start()
    await daemon.add("romeo@example.org", "secret of romeo")
    bound = await daemon.client("romeo@example.org/orchard", "secret of romeo")
    await call(daemon.directory / "data" / "control.sock", "server.restart", {"delay": 1})
    daemon.signal(signal.SIGTERM)
    await bound.expect_closed("system-shutdown")
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
        daemon.signal(number)
    assert await daemon.ended() == 0  # the client has three seconds to close the connection, and does not
    assert len(daemon.events("ready")) == len(daemon.events("stopped")) == 1
    bound.drop()


async def test_a_restart_that_is_under_way_can_be_called_off(daemon: Daemon, notify_socket: NotifySocket) -> None:
    """`systemctl stop` right behind `server restart`: it goes on to stop in order, and that was it."""
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path))
    await daemon.add("romeo@example.org", "secret of romeo")
    bound = await daemon.client("romeo@example.org/orchard", "secret of romeo")
    await call(daemon.directory / "data" / "control.sock", "server.restart", {})
    await bound.expect_closed("system-shutdown")
    daemon.signal(signal.SIGTERM)
    await notify_socket.until("STOPPING=1")
    bound.drop()
    assert await daemon.ended() == 0
    assert len(daemon.events("ready")) == len(daemon.events("stopped")) == 1


async def test_a_reload_during_the_start_follows_it(daemon: Daemon, notify_socket: NotifySocket) -> None:
    """It ended the process: what renews certificates does not ask whether the server is up yet."""
    starting = asyncio.create_task(daemon.start(NOTIFY_SOCKET=str(notify_socket.path)))
    await notify_socket.until("EXTEND_TIMEOUT_USEC=30000000")  # the start begins
    daemon.signal(signal.SIGHUP)
    await starting
    await notify_socket.until("READY=1")
    await notify_socket.until("RELOADING=1")
    await notify_socket.until("READY=1")
    assert await daemon.stop() == 0  # it tells systemd before it writes its log
    assert len(daemon.events("reloaded")) == 1


async def test_a_client_that_does_not_say_goodbye_cannot_hold_it_up(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(server="")
    daemon.config = daemon.config.replace("shutdown_grace = 5", "shutdown_grace = 0.2")
    await daemon.start()
    await daemon.connect()
    assert await daemon.stop() == 0


async def test_what_was_stored_is_there_after_a_restart(daemon: Daemon) -> None:
    await daemon.start()
    await daemon.add("romeo@example.org", "secret of romeo")
    romeo = await daemon.client("romeo@example.org/orchard", "secret of romeo")
    await romeo.iq(
        "<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='juliet@example.org' name='J'/></query></iq>"
    )
    certificate = daemon.ca.read_bytes()
    assert await daemon.stop() == 0
    await daemon.start()
    romeo = await daemon.client("romeo@example.org/orchard", "secret of romeo")
    roster = await romeo.roster()
    assert [item.get("jid") for item in roster.iter("{jabber:iq:roster}item")] == ["juliet@example.org"]
    assert daemon.ca.read_bytes() == certificate
    (data,) = {path for path in daemon.directory.iterdir() if path.name == "data"}
    assert [oct(path.stat().st_mode & 0o077) for path in (data, data / "beamish.db", daemon.ca)] == ["0o0"] * 3


async def test_hangup_takes_a_new_certificate_and_keeps_streams(
    make_daemon: Callable[..., Daemon], notify_socket: NotifySocket, tmp_path: Path
) -> None:
    daemon = make_daemon(rest='[tls]\ncertificate = "used.pem"\nkey = "used.pem"')
    first, second = (make_certificate(tmp_path / name) for name in ("first", "second"))
    used = tmp_path / "used.pem"
    shutil.copy(first, used)
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path))
    await notify_socket.until("READY=1")
    await daemon.add("romeo@example.org", "secret of romeo")
    assert await served_certificate(daemon) == fingerprint(first)
    daemon.ca = first
    romeo = await daemon.client("romeo@example.org/orchard", "secret of romeo")

    shutil.copy(second, used)
    daemon.signal(signal.SIGHUP)
    told = await notify_socket.until("READY=1")
    assert told[0] == "RELOADING=1"
    assert told[1].startswith("MONOTONIC_USEC=")
    assert await served_certificate(daemon) == fingerprint(second)
    assert await starttls_certificate(daemon) == fingerprint(second)
    await romeo.iq("<iq type='get' id='still-here'><query xmlns='jabber:iq:roster'/></iq>")

    used.write_text("no certificate any more")
    daemon.signal(signal.SIGHUP)
    await notify_socket.until("READY=1")
    assert daemon.events("certificate_problem")
    assert await served_certificate(daemon) == fingerprint(second)
    assert await daemon.stop() == 0


async def test_hangup_leaves_everything_as_it_is_if_the_file_is_broken(
    daemon: Daemon, notify_socket: NotifySocket
) -> None:
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path))
    await notify_socket.until("READY=1")
    (daemon.directory / "beamish.toml").write_text(daemon.config.replace("require_tls", "x") + "\n[c2s.oops]\nx = 1\n")
    daemon.signal(signal.SIGHUP)
    told = await notify_socket.until("READY=1")
    assert "STATUS=serving example.org, example.net; configuration not reloaded: it has errors" in told
    (problem,) = daemon.events("config_problem")
    assert re.search(r"beamish\.toml:\d+: ", problem["problem"])
    client = await daemon.connect()
    await client.open_stream("example.org")


async def test_hangup_says_each_time_what_waits_for_a_restart(
    make_daemon: Callable[..., Daemon], notify_socket: NotifySocket
) -> None:
    daemon = make_daemon(rest='[tls]\nminimum = "1.2"')
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path))
    await notify_socket.until("READY=1")
    here = 'domains = ["example.org", "example.net"]'
    changes = (
        (here, 'domains = ["example.org"]', ["server"]),
        (here, here + '\nadmins = ["romeo@example.org"]', ["server"]),
        ("shutdown_grace = 5", "shutdown_grace = 6", ["server"]),
        ('minimum = "1.2"', 'minimum = "1.3"', ["tls"]),
        ('level = "info"', 'level = "warning"', []),
    )
    for before, after, sections in changes:
        assert before in daemon.config
        (daemon.directory / "beamish.toml").write_text(daemon.config.replace(before, after))
        for _ in range(2):  # what was named once still waits
            daemon.signal(signal.SIGHUP)
            told = await notify_socket.until("READY=1")
            status = "STATUS=serving example.org, example.net"
            assert told[-1] == (f"{status}; restart needed: {sections[0]}" if sections else status)
    assert [each["sections"] for each in daemon.events("restart_needed")] == [["server"]] * 6 + [["tls"]] * 2


async def test_a_process_that_a_watchdog_ends_says_what_it_was_doing(daemon: Daemon) -> None:
    await daemon.start()
    daemon.signal(signal.SIGABRT)
    assert await daemon.ended() == -signal.SIGABRT
    told = daemon.log.read_text()
    assert "Fatal Python error: Aborted" in told
    assert 'cli/serve.py"' in told


@pytest.mark.parametrize("command", [["serve"], ["config", "check"], ["user", "list"]])
async def test_a_mistake_in_the_file_is_named_by_line(make_daemon: Callable[..., Daemon], command: list[str]) -> None:
    daemon = make_daemon(c2s="requires_tls = true")
    status, out, err = await daemon.command(*command)
    line = 1 + daemon.config[: daemon.config.index("requires_tls")].count("\n")
    assert status == (78 if command == ["serve"] else 1)  # EX_CONFIG: the unit does not try again
    told = out + err
    assert f"beamish.toml:{line}: " in told
    assert "require_tls" in told.replace("requires_tls", "")  # what was probably meant
    assert "Traceback" not in told
    assert not (daemon.directory / "data").exists()


async def test_two_servers_on_one_directory_are_refused(daemon: Daemon) -> None:
    await daemon.start()
    status, _, err = await asyncio.wait_for(daemon.command("serve"), 30)
    assert status == 1
    assert "Traceback" not in err
    client = await daemon.connect()
    await client.open_stream("example.org")


def make_certificate(directory: Path) -> Path:
    from datetime import UTC, datetime

    return keep_self_signed(directory, ("example.org", "example.net"), (), datetime.now(UTC))


def fingerprint(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(HASH)


HASH = x509.base.hashes.SHA256()


async def served_certificate(daemon: Daemon) -> bytes:
    """The fingerprint of what a fresh direct TLS connection is shown."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", daemon.tls_port, ssl=unverified(), server_hostname="example.org"
    )
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await reader.read()
    return x509.load_der_x509_certificate(der).fingerprint(HASH)


async def starttls_certificate(daemon: Daemon) -> bytes:
    """The same after STARTTLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    writer.write(
        b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='example.org' "
        b"version='1.0'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
    )
    await asyncio.wait_for(reader.readuntil(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"), 10)
    await writer.start_tls(unverified(), server_hostname="example.org")
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await reader.read()
    return x509.load_der_x509_certificate(der).fingerprint(HASH)


def unverified() -> object:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_the_command_is_installed() -> None:
    import sys

    assert os.access(Path(sys.executable).with_name("beamish"), os.X_OK)


async def test_a_second_server_on_the_same_data_touches_nothing(daemon: Daemon) -> None:
    await daemon.start()
    await daemon.add("romeo@example.org", "secret of romeo")
    assert daemon.process is not None
    second = await run_to_end(BEAMISH, "serve", "-c", "beamish.toml", cwd=daemon.directory, seconds=PATIENCE)
    assert second.status == 1
    (line,) = second.err.splitlines()  # no module was started, no certificate looked at
    assert f"in use by another server or command (process {daemon.process.pid})" in line
    client = await daemon.client("romeo@example.org/orchard", "secret of romeo")
    client.send("</stream:stream>")
