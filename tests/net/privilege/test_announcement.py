"""XEP-0356: what a component is told that it may do."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from beamish.app import CommandFailed
from beamish.config.model import ComponentConfig, ComponentsConfig
from beamish.testing.client import Client
from beamish.testing.component import component
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory

SECRET = "between us"
C = "xmlns='jabber:component:accept'"


async def told(client: Client, count: int) -> list[str]:
    """The domain and namespace of announcements, with their permissions."""
    found = []
    for _ in range(count):
        got = await client.receive()
        [privilege] = got
        perms = " ".join(
            f"{perm.get('access')}={perm.get('type')}/{perm.get('push')}"
            + "".join(f"[{each.get('ns')} {each.get('type')}]" for each in perm)
            for perm in privilege
        )
        found.append(f"{got.get('from')} {str(privilege.tag)[1:].partition('}')[0][-1]} {perms}")
    await client_is_idle(client)
    return found


async def client_is_idle(client: Client) -> None:
    client.send(
        f"<iq type='get' from='{client.jid.domain}' to='a.example' id='idle'><ping xmlns='urn:xmpp:ping'/></iq>"
    )
    await client.expect(f"<iq {C} id='idle'/>")


@pytest.mark.parametrize(
    ("name", "told_"),
    [
        ("none", []),
        ("ask", []),
        ("get", ["roster=get/false", "roster=get/None"]),
        ("set", ["roster=set/false", "roster=set/None"]),
        ("both", ["roster=both/true", "roster=both/None"]),
        ("say", ["message=outgoing/None", "message=outgoing/None"]),
        ("see", ["presence=managed_entity/None", "presence=managed_entity/None"]),
        ("all", ["roster=get/true presence=roster/None", "roster=get/None presence=roster/None"]),
        (
            "half",
            [
                "roster=both/true message=outgoing/None iq=None/None[http://jabber.org/protocol/pubsub both] "
                "presence=managed_entity/None",
                "roster=both/None message=outgoing/None presence=managed_entity/None",
            ],
        ),
    ],
)
async def test_4_2_what_is_configured_is_announced_and_nothing_else(
    server: FederatedServer, name: str, told_: list[str]
) -> None:
    client = await component(server, f"{name}.a.example", SECRET)
    client.jid = type(client.jid).of("", f"{name}.a.example")
    domains = ("a.example",) if name == "half" else ("a.example", "c.example")
    expected = [
        f"{domain} {version} {perms}" for domain in domains for version, perms in zip("21", told_, strict=False)
    ]
    assert await told(client, len(expected)) == expected


async def test_6_2_permissions_for_iqs_are_new_in_version_2(server: FederatedServer) -> None:
    client = await component(server, "iq.a.example", SECRET)
    client.jid = type(client.jid).of("", "iq.a.example")
    spaces = (
        "[http://jabber.org/protocol/pubsub both][jabber:iq:private set][urn:xmpp:ping get][urn:xmpp:carbons:2 both]"
    )
    assert await told(client, 2) == [f"{domain} 2 iq=None/None{spaces}" for domain in ("a.example", "c.example")]


def test_7_4_presence_of_contacts_needs_the_roster() -> None:
    for roster in ("none", "set"):
        with pytest.raises(ValidationError, match="needs roster"):
            ComponentConfig.model_validate({"secret": "s", "presence": "roster", "roster": roster})
    assert ComponentConfig.model_validate({"secret": "s", "presence": "roster", "roster": "get"}).presence == "roster"


async def test_privileges_for_a_domain_that_is_not_ours(tmp_path: Path) -> None:
    settings = {"components": {"x.a.example": {"secret": SECRET, "roster": "get", "domains": ("b.example",)}}}
    with pytest.raises(CommandFailed, match=r"b\.example, which has no accounts here"):
        async with FederatedServer(Authority(tmp_path), Directory(), accounts=(), settings=settings):
            pass


async def test_remote_rosters_need_their_module(tmp_path: Path) -> None:
    settings = {
        "components": {"x.a.example": {"secret": SECRET, "remote_roster": "ask"}},
        "modules": {"disable": ("remote_roster",)},
    }
    with pytest.raises(CommandFailed, match="needs the module remote_roster"):
        async with FederatedServer(Authority(tmp_path), Directory(), accounts=(), settings=settings):
            pass


def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/modules/components.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        tree = tomllib.loads(example)
        for options in tree["components"].values():
            ComponentConfig.model_validate(options)
        ComponentsConfig.model_validate(tree.get("component_listener", {}))
