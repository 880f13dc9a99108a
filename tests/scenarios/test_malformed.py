"""Clients that do not escape: they are told at once, and not left talking to a stream that has gone deaf."""

import pytest

from beamish.testing import World


@pytest.mark.parametrize("text", ["Tom & Jerry", "&3", "x &lt y", "&&", "a &# b"])
async def test_a_loose_ampersand_ends_the_stream(world: World, text: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send(f"<message to='juliet@example.org' type='chat'><body>{text}</body></message>")
    await romeo.expect_closed("not-well-formed")


@pytest.mark.parametrize("text", ["Tom &amp; Jerry", "&#38;", "&#x26;&apos;", "<![CDATA[Tom & Jerry]]>", "&amp;lt y"])
async def test_one_that_is_escaped_does_not(world: World, text: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    for pieces in ([text], [text[:4], text[4:]]):
        romeo.send("<message to='juliet@example.org' type='chat'><body>")
        for piece in pieces:
            romeo.send(piece)
        romeo.send("</body></message>")
        got = await juliet.receive()
        assert "&" in (got.findtext("{jabber:client}body") or "") or "'" in (got.findtext("{jabber:client}body") or "")
