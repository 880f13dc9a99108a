from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from beamish.modules.policy import Config
from beamish.testing.world import World

INFO = "<iq type='get' id='d' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
POLICY = "urn:xmpp:data-policy:0"
WHOLE: dict[str, Any] = {
    "auth_data": "hidden",
    "data_transmission": "encrypted",
    "encryption_algorithm": "TLSv1.3",
    "data_retention": 720,
    "data_deletion": True,
    "encryption_at_rest": False,
    "tos": "https://example.org/terms",
    "data_export": True,
    "access_policy": ["admins", "government"],
    "full_erasure": True,
    "backup_frequency": 24,
    "backup_retention": "unknown",
    "extra_info": ["We are a cooperative.", "Come & see."],
}


async def test_everything_that_is_set_is_told() -> None:
    async with World(settings={"modules": {"policy": WHOLE}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        info = await romeo.iq(INFO)
        form = next(x for x in info.iter("{jabber:x:data}x") if x.findtext(".//{jabber:x:data}value") == POLICY)
        told = {f.get("var"): (f.get("type"), [v.text for v in f]) for f in form}
        assert told == {
            "FORM_TYPE": ("hidden", ["urn:xmpp:data-policy:0"]),
            "auth_data": ("list-single", ["hidden"]),
            "data_transmission": ("list-single", ["encrypted"]),
            "encryption_algorithm": ("text-single", ["TLSv1.3"]),
            "data_retention": ("text-single", ["720"]),
            "data_deletion": ("boolean", ["true"]),
            "encryption_at_rest": ("boolean", ["false"]),
            "tos": ("text-single", ["https://example.org/terms"]),
            "data_export": ("boolean", ["true"]),
            "access_policy": ("list-multi", ["admins", "government"]),
            "full_erasure": ("boolean", ["true"]),
            "backup_frequency": ("text-single", ["24"]),
            "backup_retention": ("text-single", ["unknown"]),
            "extra_info": ("text-multi", ["We are a cooperative.", "Come & see."]),
        }


async def test_nothing_is_told_of_what_is_not_set(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    types = [value.text for value in (await romeo.iq(INFO)).iter("{jabber:x:data}value")]
    assert "urn:xmpp:data-policy:0" not in types


@pytest.mark.parametrize(
    "wrong",
    [
        {"auth_data": "magic"},
        {"data_retention": -1},
        {"data_retention": "for ever"},
        {"access_policy": ["none", "admins"]},
        {"encryption_algorithm": "TLSv1.3"},
        {"tos": "no uri"},
        {"extra_info": ["two\nlines"]},
    ],
)
def test_what_cannot_be_a_policy(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config(**wrong)
