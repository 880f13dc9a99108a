"""aioxmpp's own end-to-end tests against a server, in a process of their own: they bring their loop with them."""

from __future__ import annotations

import asyncio
import logging
import unittest
import warnings
from pathlib import Path
from typing import Any, TextIO

warnings.simplefilter("ignore")  # what foreign code does is not ours to mend

import aioxmpp  # noqa: E402
import aioxmpp.connector  # noqa: E402
import aioxmpp.e2etest  # noqa: E402
from aioxmpp.e2etest import provision  # noqa: E402
from tests.interop.aioxmpp_security import security  # noqa: E402
from tests.interop.foreign_suite import Order, Telling, report_to, tests_in  # noqa: E402

PATIENCE = 20.0
"""Seconds for a test."""


class Accounts(provision._AutoConfiguredProvisioner):
    """Gives the tests their clients, and tells them what the server can do, which it finds out by service discovery."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._order = order
        self._accounts = order.accounts()
        self._domain = aioxmpp.JID.fromstr(order.domain)
        self._blockmap: dict[Any, Any] = {}
        self._quirks = {provision.Quirk.NO_ADHOC_PING}  # a command of Prosody's

    async def _make_client(self, logger: logging.Logger) -> Any:
        return aioxmpp.PresenceManagedClient(
            aioxmpp.JID.fromstr(next(self._accounts)),
            security(Path(self._order.ca), self._order.password),
            override_peer=[(self._order.host, self._order.port, aioxmpp.connector.STARTTLSConnector())],
            logger=logger,
        )


class WithAccounts(Telling):
    """Logs out after each test what it logged in."""

    def __init__(self, report: TextIO, loop: asyncio.AbstractEventLoop, accounts: Accounts) -> None:
        super().__init__(report)
        self._loop = loop
        self._accounts = accounts

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._loop.run_until_complete(self._accounts.setup())

    def stopTest(self, test: unittest.TestCase) -> None:
        self._loop.run_until_complete(self._accounts.teardown())
        super().stopTest(test)


def main() -> None:
    """Run everything that is called `test_e2e.py`."""
    report = report_to()
    order = Order.given()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    accounts = Accounts(order)
    aioxmpp.e2etest.provisioner = accounts
    aioxmpp.e2etest.timeout = PATIENCE
    aioxmpp.e2etest.TestCase.__unittest_skip__ = False
    loop.run_until_complete(accounts.initialise())
    tests_in(order, "tests", "**/test_e2e.py").run(WithAccounts(report, loop, accounts))
    loop.run_until_complete(accounts.finalise())


if __name__ == "__main__":
    main()
