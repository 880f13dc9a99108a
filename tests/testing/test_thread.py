"""The server in a thread, for tests that know nothing of asyncio."""

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from beamish.testing import LiveServer, ServerThread
from beamish.testing.live import trust


def test_a_client_that_blocks_talks_to_it() -> None:
    with ServerThread() as thread:
        server = thread.server
        with (
            socket.create_connection((server.host, server.tls_port), 10) as plain,
            trust(server.ca).wrap_socket(plain, server_hostname="example.org") as secure,
        ):
            secure.sendall(b"<stream:stream to='example.org' version='1.0' xmlns='jabber:client' ")
            secure.sendall(b"xmlns:stream='http://etherx.jabber.org/streams'>")
            said = b""
            while b"</stream:features>" not in said:
                piece = secure.recv(4096)
                assert piece
                said += piece
        assert b"SCRAM-SHA-256" in said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.tls_port), 10)
    assert "beamish-live-server" not in {running.name for running in threading.enumerate()}


def test_its_own_client_is_used_in_its_loop() -> None:
    with ServerThread(LiveServer(domains=["localhost"], accounts=["romeo@localhost", "juliet@localhost"])) as thread:
        romeo, juliet = (thread.run(thread.server.client(f"{who}@localhost/x")) for who in ("romeo", "juliet"))

        async def talk() -> None:
            romeo.send(f"<message to='{juliet.jid}'><body>Hi</body></message>")
            await juliet.expect(f"<message from='{romeo.jid}'><body>Hi</body></message>")

        thread.run(talk())
        assert len(thread.run(thread.server.command("user.list"))) == 2


def test_what_goes_wrong_in_the_loop_is_raised_here() -> None:
    with ServerThread() as thread:
        with pytest.raises(ssl.SSLCertVerificationError):
            thread.run(thread.server.connect("example.com", direct_tls=True))
        with pytest.raises(TimeoutError):
            thread.run(asyncio.Event().wait(), timeout=0.01)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    settings = {"tls": {"certificate": tmp_path / "none.pem", "key": tmp_path / "none.key"}}
    with pytest.raises(Exception, match=r"none\.pem"), ServerThread(LiveServer(settings=settings)):
        pytest.fail("it did start")


@pytest.mark.parametrize(("logging", "said"), [("pass", 0), ("logging.basicConfig(level='INFO')", 5)])
def test_it_logs_where_the_process_wants_it_and_prints_nothing(logging: str, said: int) -> None:
    program = f"import logging; {logging}\nfrom beamish.testing import ServerThread\nwith ServerThread(): pass"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert outcome.stdout == ""
    assert outcome.stderr.count(":account_added\n") == said
    assert bool(outcome.stderr) == bool(said)
