import pytest

from beamish.core.events import Context
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

SESSION = "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>"


@pytest.mark.parametrize("to", ["", "to='example.org'"])
async def test_the_session_step_succeeds_and_does_nothing(world: World, to: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    answer = await romeo.iq(f"<iq type='set' id='s1' {to}>{SESSION}</iq>")
    assert len(answer) == 0


async def test_the_feature_is_offered_as_optional(world: World) -> None:
    romeo = world.connect()
    await romeo.open_stream("example.org")
    features = await romeo.authenticate("romeo", "correct horse")
    session = features.find("{urn:ietf:params:xml:ns:xmpp-session}session")
    assert session is not None
    assert session.find("{*}optional") is not None


async def test_nobody_from_elsewhere_gets_a_session(world: World) -> None:
    """A request that no local session sent bounces, and its error goes to the one who pretended."""
    romeo = await world.login("romeo@example.org/orchard")
    world.kernel.router.route(
        Context(
            Stanza.build("iq", "set", id="s2", sender=romeo.jid, to=JID.parse("example.org"), content=SESSION.encode())
        )
    )
    await romeo.expect("<iq type='error' id='s2'><error type='cancel'/></iq>")
