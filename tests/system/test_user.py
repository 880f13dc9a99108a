"""`beamish user` with the server running and stopped, and what clients notice of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from beamish.testing import ClientError

if TYPE_CHECKING:
    from tests.system.conftest import Daemon

ROMEO = "romeo@example.org"


async def can_log_in(daemon: Daemon, password: str) -> bool:
    client = await daemon.connect()
    await client.open_stream("example.org")
    await client.start_tls("example.org")
    try:
        await client.authenticate("romeo", password)
    except ClientError as refused:
        reason = str(refused)
    else:
        return True
    assert "not-authorized" in reason
    return False


async def add(daemon: Daemon, address: str, password: str) -> None:
    status, _, err = await daemon.command("user", "add", address, "--password-stdin", stdin=f"{password}\n")
    assert status == 0, err


async def accounts(daemon: Daemon) -> list[str]:
    status, out, err = await daemon.command("user", "list", "--json")
    assert status == 0, err
    return [each["jid"] for each in json.loads(out)]


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_accounts_are_made_changed_and_removed(daemon: Daemon, running: bool) -> None:
    if running:
        await daemon.start()
    await add(daemon, ROMEO, "first")
    await add(daemon, "benvolio@example.net", "other")
    assert sorted(await accounts(daemon)) == ["benvolio@example.net", ROMEO]
    status, out, _ = await daemon.command("user", "list", "example.net")
    assert (status, out) == (0, "benvolio@example.net\n")
    status, out, err = await daemon.command("user", "passwd", ROMEO, "--password-stdin", stdin="second\n")
    assert status == 0, err
    if not running:
        await daemon.start()
    assert not await can_log_in(daemon, "first")
    assert await can_log_in(daemon, "second")
    if not running:
        assert await daemon.stop() == 0
    status, out, err = await daemon.command("user", "remove", ROMEO)
    assert status == 0, err
    assert await accounts(daemon) == ["benvolio@example.net"]
    if not running:
        await daemon.start()
    assert not await can_log_in(daemon, "second")


async def test_a_removed_account_is_logged_out(daemon: Daemon) -> None:
    await daemon.start()
    await add(daemon, ROMEO, "secret")
    romeo = await daemon.client(f"{ROMEO}/orchard", "secret")
    status, _, err = await daemon.command("user", "remove", ROMEO)
    assert status == 0, err
    await romeo.expect_closed("not-authorized")


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_what_cannot_be_done_is_said(daemon: Daemon, running: bool) -> None:
    if running:
        await daemon.start()
    await add(daemon, ROMEO, "secret")
    for args, reason in (
        (("add", ROMEO, "--random"), "exists already"),
        (("add", "romeo@example.com", "--random"), "example.com is not a domain of this server"),
        (("passwd", "juliet@example.org", "--random"), "there is no account"),
        (("remove", "juliet@example.org"), "there is no account"),
    ):
        status, out, err = await daemon.command("user", *args)
        assert (status, out) == (1, "")
        assert reason in err
        assert "Traceback" not in err
    status, _, err = await daemon.command("user", "add", "romeo@@example.org", "--random")
    assert status == 2
    assert "romeo@@example.org" in err
