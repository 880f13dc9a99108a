from __future__ import annotations

import pytest
from pydantic import ValidationError

from beamish.modules.contact import Config
from beamish.testing.match import mismatch
from beamish.testing.world import World

INFO = "<iq type='get' id='d' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
LISTS = ("abuse", "admin", "feedback", "sales", "security", "status", "support")


async def test_every_list_is_told() -> None:
    contact = {name: [f"mailto:{name}@example.org", f"https://example.org/{name}?a=1&b=2"] for name in LISTS}
    async with World(settings={"modules": {"contact": contact}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        info = await romeo.iq(INFO)
        inner = "".join(
            f"<field var='{name}-addresses' type='list-multi'><value>mailto:{name}@example.org</value>"
            f"<value>https://example.org/{name}?a=1&amp;b=2</value></field>"
            for name in LISTS
        )
        wanted = (
            "<iq><query xmlns='http://jabber.org/protocol/disco#info'><x xmlns='jabber:x:data' type='result'>"
            f"<field var='FORM_TYPE' type='hidden'><value>http://jabber.org/network/serverinfo</value></field>{inner}"
            "</x></query></iq>"
        )
        assert mismatch(wanted, info) == ""


async def test_without_any_there_is_no_form(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    types = [value.text for value in (await romeo.iq(INFO)).iter("{jabber:x:data}value")]
    assert not {"http://jabber.org/network/serverinfo", "urn:xmpp:sos:0"} & set(types)


async def test_where_to_read_about_outages() -> None:
    """XEP-0455 §2.1, for every domain."""
    addresses = ["https://status.example.net/a.json", "http://status.example.com/?a&b"]
    async with World(settings={"modules": {"contact": {"outages": addresses}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for domain in ("example.org", "example.net"):
            info = await romeo.iq(INFO.replace("example.org", domain))
            wanted = (
                "<iq><query xmlns='http://jabber.org/protocol/disco#info'><x xmlns='jabber:x:data' type='result'>"
                "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:sos:0</value></field>"
                "<field var='external-status-addresses' type='list-multi'>"
                "<value>https://status.example.net/a.json</value><value>http://status.example.com/?a&amp;b</value></field>"
                "</x></query></iq>"
            )
            assert mismatch(wanted, info) == ""
            types = [value.text for value in info.iter("{jabber:x:data}value")]
            assert "http://jabber.org/network/serverinfo" not in types


@pytest.mark.parametrize(
    "wrong", ["mailto:a@example.org", "ftp://example.org/x", "https://", "https://a b", "status.json"]
)
def test_a_report_of_outages_is_on_the_web(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Config(outages=(wrong,))
    Config(outages=("HTTPS://example.org/",))


@pytest.mark.parametrize("wrong", ["abuse@example.org", "", "mailto:", ":x", "https://a b", "mailto:<a@b>", "x:\n"])
def test_addresses_are_uris(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Config(abuse=(wrong,))
