"""The test suites that client libraries were written with, aioxmpp's and slixmpp's, judge the server.

Their sources are fetched by `suites.sh` and run in processes of their own (`aioxmpp_suite.py`, `slixmpp_suite.py`).

A few of their tests take the first stanza that comes for the one they mean, and fail now and then where two cross. So a suite
in which something failed is run again, with a server of its own, twice at most; only what fails each time is a failure.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.interop.foreign_suite import Order, Outcome
from tests.processes import run_to_end

from beamish.testing import LiveServer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SOURCES = Path(sys.prefix) / "suites"
PATIENCE = 110.0
ATTEMPTS = 3
ACCOUNTS = 200


@dataclass(frozen=True)
class Suite:
    """How many tests of a library pass, and which are none for this server, and why."""

    library: str
    passed: int
    leave_out: dict[str, str]
    skipped: dict[str, str]
    """These skip themselves."""


AIOXMPP = Suite(
    "aioxmpp",
    62,
    {
        "tests.muc.test_e2e.TestMuc.test_set_topic": "it takes the subject that comes at the end of entering for the new one,"
        " if that has not come when it begins",
    },
    {
        "tests.adhoc.test_e2e.TestAdHocClient.test_ping": "a command that Prosody has",
        "tests.adhoc.test_e2e.TestAdHocClient.test_ping_with_async_cm": "the same",
        "tests.httpupload.test_e2e.TestE2E.test_upload": "there is no HTTP here",
        "tests.test_e2e.TestMisc.test_handle_id_less_IQ_request_gracefully": "not with stream management",
        "tests.test_e2e.TestMisc.test_handle_malformed_iq_error_gracefully": "not with stream management",
    },
)
SLIXMPP = Suite(
    "slixmpp",
    34,
    {
        "itests.test_httpupload.TestHTTPUpload.test_httpupload": "there is no HTTP here",
        "itests.test_last_activity.TestLastActivity.test_activity": "asks somebody whose presence it may not see, which"
        " XEP-0012 §4 forbids the server to let through",
        "itests.test_moderate.TestModerate.test_moderate_msg": "looks for the element that version 0.3 of XEP-0425 has not,"
        " which the library itself no longer reads",
        "itests.test_sos.TestSos.test_sos": "there is no HTTP here",
    },
    {"itests.test_component.SlixComponentIntegration.test_ping": "it wants its own server; see test_components.py"},
)


@asynccontextmanager
async def prepared() -> AsyncIterator[LiveServer]:
    """One that has the standard ports, at an address of the loopback that nobody else uses."""
    pid = os.getpid()
    host = f"127.{64 | pid >> 16 & 63}.{pid >> 8 & 255}.{pid & 255}"
    settings = {
        "c2s": {"listen": (f"{host}:5222",), "direct_tls": (f"{host}:5223",)},
        "modules": {"presence": {"requests_from_strangers": True}},  # as Prosody does it, for which they were written
    }
    names = [f"suite{n}@example.org" for n in range(ACCOUNTS)]
    async with LiveServer(domains=("example.org",), accounts=names, settings=settings) as made:
        made.host = host
        yield made


async def run(server: LiveServer, suite: Suite) -> list[Outcome]:
    """Run a suite to its end."""
    sources = SOURCES / suite.library
    if not sources.is_dir():
        pytest.skip(f"the sources of {suite.library} are not in {SOURCES} (sh tests/interop/suites.sh)")
    order = Order(
        str(sources),
        server.host,
        server.port,
        server.tls_port,
        str(server.ca),
        "example.org",
        server.password,
        "suite",
        list(suite.leave_out),
    )
    module = f"tests.interop.{suite.library}_suite"
    ended = await run_to_end(sys.executable, "-m", module, order.to_json(), cwd=ROOT, seconds=PATIENCE)
    assert ended.status == 0, ended.err[-4000:]
    return [Outcome(**json.loads(line)) for line in ended.out.splitlines()]


def names(ended: Collection[Outcome]) -> set[str]:
    return {each.test for each in ended}


@pytest.mark.parametrize("suite", [AIOXMPP, SLIXMPP], ids=lambda suite: suite.library)
async def test_a_library_finds_the_server_as_its_own_tests_want_it(suite: Suite) -> None:
    passed: set[str] = set()
    for _ in range(ATTEMPTS):
        ended: dict[str, list[Outcome]] = defaultdict(list)
        async with prepared() as server:
            for each in await run(server, suite):
                ended[each.outcome].append(each)
        assert names(ended["skipped"]) == set(suite.skipped), ended["skipped"]
        passed |= names(ended["passed"])
        failed = [each for each in ended["failed"] if each.test not in passed]
        if not failed:
            break
    assert not failed, "\n\n".join(f"{each.test}: {each.why}" for each in failed)
    assert len(passed) == suite.passed
