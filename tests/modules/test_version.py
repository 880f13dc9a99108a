"""XEP-0092 and XEP-0232 through a whole server."""

import platform
from typing import Any

import pytest

from beamish import __version__
from beamish.testing.world import World

ASK = "<query xmlns='jabber:iq:version'/>"
V = "{jabber:iq:version}"


@pytest.mark.parametrize(
    ("options", "version", "os"),
    [
        ({}, __version__, None),
        ({"show_version": False}, "", None),
        ({"show_os": True}, __version__, f"{platform.system()} {platform.release()}"),
    ],
)
async def test_the_server_tells_what_it_is(options: dict[str, Any], version: str, os: str | None) -> None:
    async with World(settings={"modules": {"version": options}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        got = await romeo.iq(f"<iq type='get' id='v' to='example.org'>{ASK}</iq>")
        assert got.findtext(f".//{V}name") == "Beamish"
        assert got.findtext(f".//{V}version") == version
        assert got.findtext(f".//{V}os") == os
        info = await romeo.iq(
            "<iq type='get' id='i' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        )
        fields = {
            field.get("var"): field.findtext("{jabber:x:data}value")
            for form in info.iter("{jabber:x:data}x")
            if form.findtext("{jabber:x:data}field/{jabber:x:data}value") == "urn:xmpp:dataforms:softwareinfo"
            for field in form
        }
        assert fields["software"] == "Beamish"
        assert fields.get("software_version", "") == version
        assert (fields.get("os") is not None) is (os is not None)


async def test_clients_answer_for_themselves(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await romeo.iq(f"<iq type='get' id='v' to='romeo@example.org'>{ASK}</iq>", type="error")
