"""What plays about blocking have in common."""

from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.xml import Element


async def block(client: Client, *addresses: str) -> None:
    """Block addresses; pushes stay in the inbox."""
    items = "".join(f"<item jid='{address}'/>" for address in addresses)
    await client.iq(f"<iq type='set' id='block'><block xmlns='urn:xmpp:blocking'>{items}</block></iq>")


async def unblock(client: Client, *addresses: str) -> None:
    """Unblock addresses, or all."""
    items = "".join(f"<item jid='{address}'/>" for address in addresses)
    await client.iq(f"<iq type='set' id='unblock'><unblock xmlns='urn:xmpp:blocking'>{items}</unblock></iq>")


async def blocklist(client: Client) -> list[str]:
    """The blocked addresses."""
    got = await client.iq("<iq type='get' id='list'><blocklist xmlns='urn:xmpp:blocking'/></iq>")
    return [item.get("jid", "") for item in got.iter("{urn:xmpp:blocking}item")]


async def privacy(client: Client, inner: str, type: str = "set", answer: str = "result") -> Element:
    """A privacy list request."""
    return await client.iq(
        f"<iq type='{type}' id='pl'><query xmlns='jabber:iq:privacy'>{inner}</query></iq>", type=answer
    )


async def friends(world: World) -> tuple[Client, Client]:
    """Juliet and Romeo, subscribed to each other, inboxes empty."""
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.befriend(juliet, romeo)
    return juliet, romeo
