"""Where the tests of protocols are, for docs/xeps.md, as far as the name of the source does not say it."""

from typing import Final

OF_SOURCE: Final[dict[str, dict[int, str]]] = {
    "core/clock.py": {82: "core/test_clock.py"},
    "modules/accounts/": {438: "test_keys.py test_module.py"},
    "modules/blocking/": {
        16: "test_privacy.py test_rules.py",
        191: "test_command.py test_rules.py",
        377: "test_command.py",
    },
    "modules/caps/": {115: "test_hashes.py test_module.py", 390: "test_hashes.py test_module.py"},
    "modules/mam/": {
        136: "test_legacy.py",
        297: "test_module.py test_query.py",
        313: "test_module.py test_query.py test_store.py",
        334: "test_rules.py test_module.py",
        359: "test_module.py test_ids.py",
        424: "test_module.py",
        431: "test_query.py",
        441: "test_prefs.py",
    },
    "modules/muc/": {
        45: "test_service.py test_requests.py test_entering.py test_talk.py test_visits.py test_config_form.py "
        "test_privileges.py",
        249: "test_invitations.py",
        317: "test_wardrobe.py",
        410: "test_requests.py",
        421: "test_talk.py",
        424: "test_records.py",
        425: "test_records.py",
        433: "test_discovery.py",
        486: "test_requests.py test_discovery.py",
        500: "test_talk.py",
    },
    "modules/offline/": {
        160: "test_storing.py test_delivering.py test_waiting.py test_sockets.py",
        203: "test_storing.py",
    },
    "modules/portable/": {227: "test_import.py test_export.py ../../system/test_import.py"},
    "modules/pubsub/": {
        4: "test_config.py test_subscription_options.py",
        59: "test_entity.py test_subscriber.py",
        60: "test_entity.py test_subscriber.py test_publisher.py test_owner.py",
        68: "test_config.py test_owner.py",
        80: "../../scenarios/rows/test_people.py",
        84: "test_foreign_clients.py",
        107: "test_personal.py",
        108: "../../scenarios/rows/test_people.py",
        118: "test_personal.py test_foreign_clients.py",
        163: "test_personal.py test_last_items.py test_personal_audience.py",
        172: "test_pieces.py",
        222: "test_publisher.py",
        223: "test_conversions.py test_personal.py",
        277: "../../scenarios/rows/test_feeds.py",
        312: "../../scenarios/rows/test_feeds.py",
        384: "test_foreign_clients.py test_personal.py",
        402: "test_conversions.py test_foreign_clients.py",
        462: "test_entity.py",
        472: "../../scenarios/rows/test_feeds.py",
    },
    "modules/push/": {357: "test_requests.py test_when.py test_failures.py test_restart.py test_news.py"},
    "modules/register/": {
        77: "test_module.py test_limits.py",
        158: "test_captcha.py test_module.py",
        221: "test_captcha.py",
        231: "test_module.py",
        445: "test_module.py",
    },
    "modules/roster/": {237: "test_module.py"},
    "modules/sm/": {198: "test_acks.py test_resume.py test_restart.py"},
    "modules/vcard/": {
        54: "test_module.py",
        153: "test_module.py",
        292: "test_convert.py test_module.py",
        398: "test_module.py",
    },
    "net/privilege/": {
        356: "test_announcement.py test_iqs.py test_messages.py test_presences.py test_roster.py",
    },
    "stream/features.py": {
        170: "stream/test_machine_sasl.py",
        440: "stream/test_machine.py stream/sasl/test_offer.py",
        478: "stream/test_machine.py net/test_s2s.py",
    },
    "stream/sasl/scram.py": {
        474: "stream/sasl/test_scram.py stream/sasl/test_offer.py",
        515: "stream/sasl/test_scram.py net/test_c2s_sockets.py",
    },
    "stream/s2s_in.py": {178: "stream/test_s2s.py net/test_s2s.py", 288: "stream/test_s2s.py net/test_s2s.py"},
}
"""Source → number → tests, below tests/ and, for a folder, below the folder of its tests."""

_ROWS: Final = "scenarios/rows/"
_PLUGINS: Final = "interop/test_account_plugins.py"
_FEATURES: Final = "interop/test_account_features.py"
_ACCOUNTS: Final = "interop/test_accounts.py"
_GAJIM: Final = "interop/test_gajim.py"

PLAYS: Final[dict[int, str]] = {
    4: f"{_ROWS}test_forms.py {_PLUGINS}",
    12: f"{_ROWS}test_accounts.py {_FEATURES}",
    16: f"{_ROWS}test_people.py {_PLUGINS}",
    30: f"{_ROWS}test_discovery.py {_PLUGINS}",
    33: f"{_ROWS}test_messages.py {_ACCOUNTS}",
    45: "interop/test_rooms.py",
    48: f"{_ROWS}test_accounts.py {_PLUGINS}",
    49: f"{_ROWS}test_accounts.py {_PLUGINS}",
    50: f"{_ROWS}test_accounts.py {_ACCOUNTS}",
    54: f"{_ROWS}test_people.py {_FEATURES}",
    55: f"{_ROWS}test_accounts.py {_PLUGINS}",
    59: f"{_ROWS}test_messages.py {_PLUGINS}",
    77: f"{_ROWS}test_accounts.py {_ACCOUNTS} {_GAJIM}",
    79: f"{_ROWS}test_messages.py {_ACCOUNTS}",
    80: f"{_PLUGINS} {_GAJIM}",
    84: f"{_ROWS}test_people.py {_PLUGINS} {_GAJIM}",
    92: f"{_ROWS}test_accounts.py {_FEATURES}",
    114: "interop/test_components.py",
    107: f"{_ROWS}test_people.py {_PLUGINS} {_GAJIM}",
    108: f"{_PLUGINS} {_GAJIM}",
    115: f"{_ROWS}test_discovery.py {_FEATURES}",
    118: f"{_ROWS}test_people.py {_PLUGINS} {_GAJIM}",
    122: _PLUGINS,
    128: f"{_ROWS}test_accounts.py {_PLUGINS}",
    133: f"{_ROWS}test_forms.py {_ROWS}test_accounts.py {_ACCOUNTS}",
    136: f"{_ROWS}test_messages.py",
    153: f"{_ROWS}test_people.py {_FEATURES} {_GAJIM}",
    157: f"{_ROWS}test_accounts.py {_PLUGINS}",
    158: f"{_ROWS}test_forms.py {_PLUGINS} {_GAJIM}",
    160: f"{_ROWS}test_messages.py system/test_crash.py",
    163: f"{_ROWS}test_people.py {_PLUGINS} {_GAJIM}",
    172: f"{_ROWS}test_people.py {_PLUGINS} {_GAJIM}",
    191: f"{_ROWS}test_people.py {_FEATURES} {_GAJIM}",
    198: "scenarios/test_chaos.py interop/test_resumption.py",
    202: f"{_ROWS}test_accounts.py {_FEATURES}",
    215: f"{_ROWS}test_accounts.py",
    231: f"{_ROWS}test_forms.py {_GAJIM}",
    232: f"{_ROWS}test_accounts.py",
    280: f"{_ROWS}test_messages.py interop/test_archives.py",
    292: f"{_ROWS}test_accounts.py {_PLUGINS}",
    313: f"{_ROWS}test_messages.py interop/test_archives.py",
    321: "net/privilege/test_remote_roster.py",
    352: f"{_ROWS}test_messages.py",
    357: "interop/test_push.py",
    356: "interop/test_components.py",
    377: f"{_ROWS}test_accounts.py {_PLUGINS}",
    379: f"{_ROWS}test_accounts.py {_PLUGINS}",
    390: f"{_ROWS}test_accounts.py",
    398: f"{_ROWS}test_people.py {_FEATURES} {_GAJIM}",
    401: f"{_ROWS}test_accounts.py",
    402: f"{_ROWS}test_accounts.py {_PLUGINS}",
    411: f"{_ROWS}test_accounts.py",
    445: f"{_ROWS}test_accounts.py",
    504: f"{_ROWS}test_accounts.py {_PLUGINS}",
}
"""Number → plays and tests with foreign clients, below tests/, besides those of the source."""

PASSING: Final[tuple[tuple[int, str, str], ...]] = (
    (22, "1.4", f"{_ROWS}test_messages.py scenarios/test_payloads.py"),
    (66, "1.5", "modules/mam/test_rules.py"),
    (71, "1.5.4", f"{_ROWS}test_messages.py scenarios/test_payloads.py {_PLUGINS}"),
    (85, "2.1", f"{_ROWS}test_messages.py {_PLUGINS}"),
    (184, "1.4.0", f"{_ROWS}test_messages.py {_PLUGINS}"),
    (308, "1.2.1", "scenarios/test_payloads.py"),
    (333, "1.0.0", "scenarios/test_payloads.py modules/mam/test_rules.py"),
    (353, "0.8.0", "modules/test_csi.py modules/mam/test_rules.py scenarios/test_message_kinds.py"),
    (444, "0.2.1", "scenarios/test_payloads.py"),
    (461, "0.2.1", "scenarios/test_payloads.py"),
)
"""What clients do among themselves and the server has to let through, and to treat rightly in archives and stores."""


def tests_of(number: int, source: str) -> list[str]:
    """The paths of a protocol's tests, below the repository, those of the source first."""
    folder = f"tests/{source}" if source.endswith("/") else "tests/"
    named = OF_SOURCE.get(source, {}).get(number)
    if named is None:
        above, _, name = source.rpartition("/")
        own = [] if source.endswith("/") else [f"tests/{above}/test_{name}"]
    else:
        own = [_plain(f"{folder}{name}") for name in named.split()]
    return list(dict.fromkeys([*own, *(f"tests/{name}" for name in PLAYS.get(number, "").split())]))


def _plain(path: str) -> str:
    """Without `..`, which only names what is above the folder of a module's tests."""
    return "tests/" + path.rpartition("../")[2] if "../" in path else path
