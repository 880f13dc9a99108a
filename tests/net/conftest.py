"""A certificate authority for tests, and both event loops that the server may run on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from beamish.testing import federated
from beamish.testing.names import Directory

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Pair(NamedTuple):
    """Files of one certificate."""

    certificate: Path
    key: Path
    der: bytes


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Root → intermediate → servers, written as PEM files under one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root_key, self.middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.root = self._sign("Test Root", "Test Root", self.root_key, self.root_key, ca=True)
        self.middle = self._sign("Test Intermediate", "Test Root", self.middle_key, self.root_key, ca=True)
        self.root_file = directory / "root.pem"
        self.root_file.write_bytes(self.root.public_bytes(Encoding.PEM))

    def issue(
        self,
        stem: str,
        *names: x509.GeneralName | str,
        chain: bool = True,
        key: Key | None = None,
        days: tuple[float, float] = (-1, 90),
        password: bytes = b"",
        common_name: str = "server",
    ) -> Pair:
        """`<stem>.pem` and `<stem>.key`, valid from days[0] to days[1] from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        general = [x509.DNSName(name) if isinstance(name, str) else name for name in names]
        leaf = self._sign(common_name, "Test Intermediate", key, self.middle_key, ca=False, names=general, days=days)
        pem = leaf.public_bytes(Encoding.PEM) + (self.middle.public_bytes(Encoding.PEM) if chain else b"")
        files = Pair(self.directory / f"{stem}.pem", self.directory / f"{stem}.key", leaf.public_bytes(Encoding.DER))
        files.certificate.write_bytes(pem)
        files.key.touch(mode=0o600)
        files.key.write_bytes(
            key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password) if password else NoEncryption()
            )
        )
        return files

    def _sign(
        self,
        subject: str,
        issuer: str,
        key: Key,
        signer: Key,
        *,
        ca: bool,
        names: list[x509.GeneralName] | None = None,
        days: tuple[float, float] = (-1, 90),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signer, hashes.SHA256())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Issues certificates into the test's directory."""
    return Authority(tmp_path)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine to its end, once per kind of loop."""

    def run_on(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, 10))

    return run_on


@pytest.fixture
def ca(tmp_path: Path) -> federated.Authority:
    """Signs what servers that federate show one another."""
    return federated.Authority(tmp_path)


@pytest.fixture
def names() -> Directory:
    """Where servers that federate find one another."""
    return Directory()


@pytest_asyncio.fixture
async def two(
    ca: federated.Authority, names: Directory
) -> AsyncIterator[tuple[federated.FederatedServer, federated.FederatedServer]]:
    """Servers a and b of `tests.net.federated`."""
    async with (
        federated.FederatedServer(ca, names, domains=("a.example",), accounts=("romeo@a.example",)) as a,
        federated.FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",)) as b,
    ):
        yield a, b
