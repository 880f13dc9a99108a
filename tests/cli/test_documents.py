from __future__ import annotations

from pathlib import Path

from lxml import etree

from beamish.cli.catalogue import declared
from beamish.cli.documents import commands_markdown, doap, hooks_markdown, implemented, xeps_markdown
from beamish.cli.xep_titles import TITLES
from beamish.core.events import CATALOGUE
from beamish.core.registry import discover

ROOT = Path(__file__).parents[2]


def test_every_protocol_has_a_title_a_source_and_a_row() -> None:
    modules = discover()
    text = xeps_markdown(modules)
    for each in implemented(modules):
        assert TITLES[each.xep.number]
        assert (ROOT / "src" / "beamish" / each.file).exists(), each.file
        assert f"| [{each.xep.number:04}](" in text and f"[{each.file}](../src/beamish/{each.file})" in text


def test_a_protocol_has_one_version() -> None:
    versions: dict[int, set[str]] = {}
    for each in implemented(discover()):
        versions.setdefault(each.xep.number, set()).add(each.xep.version)
    assert {number: found for number, found in versions.items() if len(found) > 1} == {}


def test_the_doap_file_lists_each_protocol_once() -> None:
    modules = discover()
    tree = etree.fromstring(doap(modules).encode())
    space = {"d": "http://usefulinc.com/ns/doap#", "x": "https://linkmauve.fr/ns/xmpp-doap#"}
    listed = [
        el.get("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}resource", "")
        for el in tree.iterfind(".//d:implements/x:SupportedXep/x:xep", space)
    ]
    numbers = {each.xep.number for each in implemented(modules)}
    assert sorted(listed) == [f"https://xmpp.org/extensions/xep-{number:04}.html" for number in sorted(numbers)]
    states = {el.text for el in tree.iterfind(".//x:status", space)}
    assert states <= {"complete", "partial"}


def test_every_command_and_hook_is_described() -> None:
    modules = discover()
    commands, hooks = commands_markdown(modules), hooks_markdown(modules)
    for command in declared(modules):
        assert f"### `{command.name}`" in commands and f"Node: `{command.node}`" in commands
    for point in CATALOGUE:
        assert f"## `{point.name}`" in hooks
    assert "Listening: addressing" not in hooks.split("## `remote`")[1].split("##")[0]
