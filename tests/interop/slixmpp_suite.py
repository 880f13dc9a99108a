"""slixmpp's own integration tests against a server, in a process of their own: they log in by the name of the domain."""

from __future__ import annotations

import os
import socket
import unittest
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

warnings.simplefilter("ignore")  # what foreign code does is not ours to mend

import slixmpp  # noqa: E402
import slixmpp.test.integration  # noqa: E402
from tests.interop.foreign_suite import Order, Telling, report_to, tests_in  # noqa: E402


class WithAccounts(Telling):
    """Names two accounts in the environment for each test."""

    def __init__(self, report: TextIO, order: Order) -> None:
        super().__init__(report)
        self._password = order.password
        self._accounts: Iterator[str] = order.accounts()

    def startTest(self, test: unittest.TestCase) -> None:
        for n in (1, 2):
            os.environ[f"CI_ACCOUNT{n}"] = next(self._accounts)
            os.environ[f"CI_ACCOUNT{n}_PASSWORD"] = self._password
        super().startTest(test)


def resolve_to(order: Order) -> None:
    """The domain has the address of the server, for everybody in this process."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return real(order.host if host == order.domain else host, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


def client_class(order: Order) -> type[Any]:
    """Clients that trust the certificate of the server, and find both its ports as they would by DNS."""

    class Client(slixmpp.ClientXMPP):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.ca_certs = order.ca
            self.enable_plaintext = False

        async def get_dns_records(self, domain: str, port: int | None = None) -> list[tuple[str, str, str, int]]:
            found = []
            if self.enable_starttls:
                found.append(("xmpp-client", domain, domain, order.port))
            if self.enable_direct_tls:
                found.append(("xmpps-client", domain, domain, order.tls_port))
            return found

    return Client


def main() -> None:
    """Run the folder `itests`."""
    report = report_to()
    order = Order.given()
    resolve_to(order)
    os.environ["CI_MUC_SERVER"] = f"conference.{order.domain}"
    slixmpp.ClientXMPP = slixmpp.test.integration.ClientXMPP = client_class(order)
    tests_in(order, "itests", "test_*.py").run(WithAccounts(report, order))


if __name__ == "__main__":
    main()
