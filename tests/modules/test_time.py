"""XEP-0202 through a whole server."""

from datetime import timedelta

import pytest

from beamish.modules.time import offset
from beamish.testing.world import World


async def test_the_server_tells_the_time(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    got = await romeo.iq("<iq type='get' id='t' to='example.org'><time xmlns='urn:xmpp:time'/></iq>")
    assert got.findtext(".//{urn:xmpp:time}utc") == "2023-11-14T22:13:20.000Z"
    assert got.findtext(".//{urn:xmpp:time}tzo") == offset(1_700_000_000.0)


async def test_the_account_does_not_know_where_its_user_is(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await romeo.iq("<iq type='get' id='t' to='romeo@example.org'><time xmlns='urn:xmpp:time'/></iq>", type="error")


@pytest.mark.parametrize(
    ("minutes", "text"), [(0, "+00:00"), (60, "+01:00"), (-210, "-03:30"), (345, "+05:45"), (-360, "-06:00")]
)
def test_offsets(minutes: int, text: str) -> None:
    assert offset(0.0, timedelta(minutes=minutes)) == text
