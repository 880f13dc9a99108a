"""Federation with Debian's ejabberd, over TLS verified with an authority of the test."""

import shutil

import pytest
from tests.interop.federation import Federates
from tests.interop.foreign import Ejabberd

from beamish.testing.federated import Authority
from beamish.testing.names import NameServer

pytestmark = pytest.mark.skipif(
    shutil.which("ejabberdctl", path="/usr/sbin:/usr/bin:/sbin:/bin") is None,
    reason="ejabberd is not installed (apt-get install ejabberd)",
)


@pytest.mark.slow
@pytest.mark.usefixtures("no_unexpected_errors")
class TestEjabberd(Federates):
    server = Ejabberd
    bidi = False
    verifies = False
    client_usage = True

    async def test_a_certificate_for_servers_only_will_do(self, ca: Authority, dns: NameServer) -> None:
        """What public authorities issue now, ejabberd 23.01 refuses as a client's certificate; Debian's 24.12 takes it."""
        old = "-23." in Ejabberd.installed().name
        async with self.theirs(ca, dns) as p, self.ours(ca, dns, files=ca.issue("a.example")) as a:
            await self.exchange(a, p)
            methods = {s["method"] for s in a.federation.list_streams() if s["direction"] == "out" and s["out"]}
            assert methods == {"dialback"} or (methods == {"external"} and not old)
