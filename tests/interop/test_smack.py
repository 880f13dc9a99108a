"""Smack's own integration tests, run by Smack against a server of ours: a foreign suite with foreign opinions.

They look the server up by its SRV record, log in over STARTTLS with the certificate checked, let an administrator make their
accounts (XEP-0133), and then go through what their authors expect of a server. `make smack` fetches them; they need Java 11.

Some of them race against Smack's own threads (a list of occupants is counted while another thread fills it) and fail now and
then with any server. So what failed is run again by itself, three times at most; only what fails each time is a failure.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest
from tests.processes import run_to_end

from beamish.net.dns import Srv
from beamish.testing import LiveServer
from beamish.testing.names import Directory, NameServer

pytestmark = pytest.mark.slow

LIBRARY: Final = Path(sys.prefix) / "smack"
PATIENCE: Final = 240.0
AGAIN: Final = 3
ADMIN: Final = "admin@example.org"

LEFT_OUT: Final = ("FileTransferIntegrationTest",)
"""Its receiver begins to wait for the stream after it has said that it may come; here it comes at once."""
DIFFERENT: Final = {"MultiUserChatEntityIntegrationTest.mucTestForDiscoveringRoomItems"}
"""XEP-0045 §6.5 lets a room tell strangers who is inside, or not. Ours does not."""
EXPECTED: Final = {
    "AdHocCommandIntegrationTest": 4,
    "ChatStateIntegrationTest": 1,
    "ChatTest": 2,
    "EntityCapsTest": 4,
    "FormTest": 1,
    "GeolocationIntegrationTest": 2,
    "IncomingMessageListenerIntegrationTest": 1,
    "IoTControlIntegrationTest": 1,
    "IoTDataIntegrationTest": 1,
    "LoginIntegrationTest": 1,
    "LowLevelRosterIntegrationTest": 1,
    "MamIntegrationTest": 2,
    "ModularXmppClientToServerConnectionLowLevelIntegrationTest": 2,
    "MoodIntegrationTest": 2,
    "MultiUserChatEntityIntegrationTest": 5,
    "MultiUserChatIntegrationTest": 6,
    "MultiUserChatLowLevelIntegrationTest": 1,
    "MultiUserChatOccupantIntegrationTest": 21,
    "MultiUserChatRolesAffiliationsPrivilegesIntegrationTest": 18,
    "OXInstantMessagingIntegrationTest": 1,
    "OutgoingMessageListenerIntegrationTest": 1,
    "ParticipantStatusIntegrationTest": 2,
    "PingIntegrationTest": 2,
    "PubSubIntegrationTest": 2,
    "RosterIntegrationTest": 7,
    "SimpleXmppConnectionIntegrationTest": 1,
    "SoftwareInfoIntegrationTest": 1,
    "StreamManagementTest": 1,
    "UserStatusIntegrationTest": 2,
    "UserTuneIntegrationTest": 2,
    "VersionIntegrationTest": 1,
    "WaitForClosingStreamElementTest": 1,
    "XmppConnectionIntegrationTest": 1,
}
"""Tests of each class that find what they need here. What we do not offer (HTTP upload) or what needs another way in
(WebSocket) Smack leaves out by itself."""

_VERDICT: Final = re.compile(r"^[A-Z]+: (\w+)\.(\w+) \(.*\) (Success|Failed)$", re.MULTILINE)


class Verdicts:
    """What Smack said: by class, the names of the tests that passed and of those that failed."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.passed: defaultdict[str, set[str]] = defaultdict(set)
        self.failed: defaultdict[str, set[str]] = defaultdict(set)
        for case, test, verdict in _VERDICT.findall(said):
            (self.passed if verdict == "Success" else self.failed)[case].add(test)

    def again(self, later: Verdicts) -> None:
        """What some of the tests came to when they were run once more."""
        self.said = later.said
        for case, tests in later.passed.items():
            self.failed[case] -= tests
            self.passed[case] |= tests


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (apt-get install default-jre-headless)")
    return path


async def judge(*only: str) -> str:
    """Let Smack test a server, everything or only some tests; its log."""
    java, keytool = program("java"), program("keytool")
    names = Directory()
    server = LiveServer(
        domains=("example.org",),
        accounts=(ADMIN,),
        settings={
            "server": {"admins": [ADMIN]},
            "modules": {"presence": {"requests_from_strangers": True}},  # its accounts know nobody, and ask one another
        },
    )
    with tempfile.TemporaryDirectory(prefix="beamish-smack-") as folder:
        async with server, NameServer(names) as resolver:
            names.records["_xmpp-client._tcp.example.org"] = [Srv(0, 0, server.port, "localhost")]
            trusted = Path(folder) / "trusted"
            await run_to_end(
                keytool, "-importcert", "-noprompt", "-alias", "ca", "-file", server.ca, "-keystore", trusted,
                "-storepass", "changeit", seconds=30.0,
            )  # fmt: skip
            settings = {
                "javax.net.ssl.trustStore": str(trusted),
                "javax.net.ssl.trustStorePassword": "changeit",
                "dns.server": f"127.0.0.1:{resolver.port}",
                "sinttest.service": "example.org",
                "sinttest.dnsResolver": "dnsjava",
                "sinttest.securityMode": "required",
                "sinttest.enabledConnections": "tcp",
                "sinttest.adminAccountUsername": "admin",
                "sinttest.adminAccountPassword": server.password,
                "sinttest.replyTimeout": "15000" if only else "5000",
                "sinttest.disabledTests": ",".join(LEFT_OUT),
            }
            if only:
                settings["sinttest.enabledTests"] = ",".join(only)
            ended = await run_to_end(
                java,
                "-Xmx256m",
                "-cp",
                f"{LIBRARY}/*",
                *(f"-D{key}={value}" for key, value in settings.items()),
                "org.igniterealtime.smack.inttest.SmackIntegrationTestFramework",
                seconds=PATIENCE,
                together=True,
            )
            return ended.out


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    if not (LIBRARY / ".complete").exists():
        pytest.skip("Smack's integration tests are not there (make smack)")
    verdicts = Verdicts(asyncio.run(judge()))
    for _ in range(AGAIN):
        failed = {f"{case}.{test}" for case, tests in verdicts.failed.items() for test in tests} - DIFFERENT
        if not failed:
            break
        verdicts.again(Verdicts(asyncio.run(judge(*sorted(failed)))))
    return verdicts


@pytest.mark.parametrize("case", EXPECTED)
def test_smack(verdicts: Verdicts, case: str) -> None:
    different = {name.partition(".")[2] for name in DIFFERENT if name.startswith(f"{case}.")}
    assert verdicts.failed[case] == different, verdicts.said[-20_000:]
    assert len(verdicts.passed[case]) >= EXPECTED[case], verdicts.said[-20_000:]


def test_smack_tests_nothing_else(verdicts: Verdicts) -> None:
    """A class that a newer version brings is to be named above."""
    assert set(verdicts.passed) | set(verdicts.failed) <= set(EXPECTED)
