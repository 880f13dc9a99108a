from __future__ import annotations

import pytest

from beamish.modules.pubsub.config import FIELDS, Bounds, NodeConfig, changed, unmet
from beamish.modules.pubsub.names import Access
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.payload.forms import Submission

BOUNDS = Bounds(items=100, payload=1000)


def submitted(**fields: str) -> Submission:
    return Submission({f"pubsub#{name}": tuple(value.split(",")) for name, value in fields.items()})


def test_form_and_submission_know_the_same_fields() -> None:
    assert {f.var for f in NodeConfig().fields(BOUNDS)} == FIELDS


def test_a_form_sent_back_unchanged_changes_nothing() -> None:
    config = NodeConfig(title="T", max_items="max", roster_groups_allowed=("a",), contact=("a@example.org",))
    fields = {f.var: f.values for f in config.fields(BOUNDS)}
    fields["pubsub#max_payload_size"] = ("0",)
    assert changed(config, Submission(fields), BOUNDS) == config


def test_storage_round_trip_and_other_versions() -> None:
    config = NodeConfig(title="ü", access_model="roster", roster_groups_allowed=("a", "b"), item_expire=60)
    assert NodeConfig.from_json(config.to_json()) == config
    assert NodeConfig.from_json('{"title": "x", "from_the_future": 1}') == NodeConfig(title="x")


@pytest.mark.parametrize(
    ("max_items", "persist", "kept"), [(5, True, 5), ("max", True, 100), (500, True, 100), (5, False, 0)]
)
def test_items_kept(max_items: int | str, persist: bool, kept: int) -> None:
    assert NodeConfig(max_items=max_items, persist_items=persist).items_kept(100) == kept


@pytest.mark.parametrize(
    ("fields", "missed"),
    [
        ({"access_model": "open"}, ""),
        ({"access_model": "presence"}, "pubsub#access_model"),
        ({"max_items": "max"}, ""),
        ({"max_items": "100"}, ""),
        ({"max_items": "99"}, "pubsub#max_items"),
        ({"roster_groups_allowed": "b,a"}, ""),
        ({"roster_groups_allowed": "a"}, "pubsub#roster_groups_allowed"),
        ({"persist_items": "true", "deliver_payloads": "1"}, ""),
        ({"notify_delete": "false"}, "pubsub#notify_delete"),
        ({"item_expire": "max"}, ""),
        ({"item_expire": "5"}, "pubsub#item_expire"),
        ({"max_payload_size": "1000"}, ""),
        ({"max_payload_size": "999"}, "pubsub#max_payload_size"),
    ],
)
def test_preconditions(fields: dict[str, str], missed: str) -> None:
    config = NodeConfig(max_items="max", roster_groups_allowed=("a", "b"))
    assert unmet(config, submitted(**fields), BOUNDS) == missed


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"unknown": "1"}, Condition.BAD_REQUEST),
        ({"max_items": "101"}, Condition.NOT_ACCEPTABLE),
        ({"access_model": "magic"}, Condition.NOT_ACCEPTABLE),
        ({"node_type": "collection"}, Condition.FEATURE_NOT_IMPLEMENTED),
    ],
)
def test_impossible_preconditions(fields: dict[str, str], condition: Condition) -> None:
    with pytest.raises(StanzaError) as caught:
        unmet(NodeConfig(), submitted(**fields), BOUNDS)
    assert caught.value.condition is condition


def test_access_models_may_be_fewer() -> None:
    bounds = Bounds(10, 10, (Access.OPEN,))
    with pytest.raises(StanzaError) as caught:
        changed(NodeConfig(), submitted(access_model="presence"), bounds)
    assert caught.value.app is not None
    assert str(caught.value.app.tag).endswith("unsupported-access-model")
