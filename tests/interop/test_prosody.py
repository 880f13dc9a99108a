"""Federation with Debian's Prosody, over TLS verified with an authority of the test."""

import shutil
from pathlib import Path

import pytest
from tests.interop.federation import Federates
from tests.interop.foreign import Prosody

pytestmark = [
    pytest.mark.skipif(shutil.which("prosody") is None, reason="prosody is not installed (apt-get install prosody)"),
    pytest.mark.skipif(
        not any(Path("/usr/lib").glob("*/lua/5.4/lunbound.so*")),
        reason="prosody asks no other name servers than this machine's (apt-get install lua-unbound)",
    ),
]


@pytest.mark.slow
@pytest.mark.usefixtures("no_unexpected_errors")
class TestProsody(Federates):
    server = Prosody
    bidi = True
    verifies = True
    client_usage = False
