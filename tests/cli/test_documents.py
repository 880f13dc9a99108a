from __future__ import annotations

import re
from pathlib import Path

import pytest
from lxml import etree

from beamish.cli.catalogue import declared
from beamish.cli.documents import commands_markdown, doap, hooks_markdown, implemented, xeps_markdown
from beamish.cli.xep_tests import OF_SOURCE, PASSING, PLAYS
from beamish.cli.xep_titles import TITLES
from beamish.config import build_root, load
from beamish.config.problems import resolved
from beamish.config.reference import reference_markdown
from beamish.core.events import CATALOGUE
from beamish.core.registry import discover

ROOT = Path(__file__).parents[2]


def test_every_protocol_has_a_title_a_source_and_a_row() -> None:
    modules = discover()
    text = xeps_markdown(modules)
    for each in implemented(modules):
        assert TITLES.get(each.xep.number), f"cli/xep_titles.py has no title of XEP-{each.xep.number:04}"
        assert (ROOT / "src" / "beamish" / each.file).exists(), each.file
        assert f"| [{each.xep.number:04}](" in text and f"[{each.file}](../src/beamish/{each.file})" in text


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their heads."""
    lines = [line.removeprefix("| ").removesuffix(" |") for line in text.splitlines() if line.startswith("| [")]
    return [re.split(r"(?<!\\) \| ", line) for line in lines]


def test_every_row_is_whole_and_its_tests_are_there() -> None:
    text = xeps_markdown(discover())
    assert len(rows(text)) == len(implemented(discover())) + len(PASSING)
    for cells in rows(text):
        xep, title, version, *middle, tests = cells
        assert re.fullmatch(r"\[\d{4}\]\(https://xmpp\.org/extensions/xep-\d{4}\.html\)", xep)
        assert title and re.fullmatch(r"\d+(\.\d+){1,2}", version), xep
        if middle:
            state, source = middle
            assert re.match(r"(complete|partial)(: .|$)", state), xep
            (file,) = re.findall(r"\(\.\./(.+?)\)", source)
            assert (ROOT / file).exists(), xep
        links = re.findall(r"\[(.+?)\]\(\.\./(.+?)\)", tests)
        assert links, f"{xep} has no tests"
        assert len({name for name, _ in links}) == len(links), f"two tests of {xep} have the same name"
        for _, path in links:
            assert (ROOT / path).is_file(), f"{xep}: there is no {path}"
            assert "def test_" in (ROOT / path).read_text(), f"{xep}: {path} tests nothing"


def test_nothing_is_said_about_tests_of_what_is_not_there() -> None:
    found = {(each.file, each.xep.number) for each in implemented(discover())}
    said = {(source, number) for source, numbers in OF_SOURCE.items() for number in numbers}
    assert said - found == set()
    assert PLAYS.keys() - {number for _, number in found} == set()
    passing = [number for number, _, _ in PASSING]
    assert not set(passing) & {number for _, number in found} and passing == sorted(passing)


@pytest.mark.parametrize("number", [48, 49, 82, 353, 402, 411, 474])
def test_what_was_forgotten_once_is_listed(number: int) -> None:
    assert any(cells[0].startswith(f"[{number:04}]") for cells in rows(xeps_markdown(discover())))


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


def test_every_module_has_a_page() -> None:
    for module in discover():
        page = f"docs/modules/{module.name}.md"
        assert (ROOT / page).exists(), f"{page}: what it does, its options, its errors, what is not done"


def test_a_module_without_options_says_so() -> None:
    section = reference_markdown(discover()).partition("## `[modules.ping]`\n")[2].partition("\n## ")[0]
    assert section.strip() == "No options. Runs by default."


def test_every_link_in_the_documents_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 50
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            file, _, heading = target.partition("#")
            if file.startswith(("http:", "https:", "mailto:")):
                continue
            found = page.parent / file if file else page
            assert found.exists(), f"{page}: {target}"
            if heading and found.suffix == ".md":
                assert heading in headings(found), f"{page}: {target}"


def headings(page: Path) -> set[str]:
    """What a heading is called in a link to it."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_every_file_that_is_named_is_there() -> None:
    """`core/hooks.py` is one of the package, `tests/conftest.py` one of the repository."""
    named = re.compile(r"`((?:src|tests|docs|config|decisions|[a-z0-9]+)/[\w./-]+?(?:\.py|\.md|\.toml|\.service|/))`")
    examples = {"src/beamish/x/y.py", "tests/x/test_y.py", "x/y.py", "x/test_y.py", "var/bench/bench.md"}
    package = ROOT / "src" / "beamish"
    found = 0
    for page in PAGES:
        for name in set(named.findall(page.read_text())) - examples:
            places = ROOT, package, package / "modules", ROOT / "docs", page.parent
            assert any((place / name).exists() for place in places), f"{page}: {name}"
            found += 1
    assert found > 50


def test_every_option_that_is_named_exists() -> None:
    schema = build_root(discover()).model_json_schema()
    sections = "|".join(schema["properties"])
    named = re.compile(rf"`((?:{sections})(?:\.(?:[a-z0-9_]+|\"[^\"`]+\"))+)(?: = [^`]*)?`")
    others = {"storage.api", "server.cut"}  # a file, a method
    found = 0
    for page in PAGES:
        if page.name == "commands.md":  # they are called like options
            continue
        for name in set(named.findall(page.read_text())) - others:
            at = schema
            for part in name.split("."):
                at = resolved(schema, at)
                at = at.get("properties", {}).get(part) or at.get("additionalProperties")
                assert isinstance(at, dict), f"{page}: {name}"
            found += 1
    assert found > 15


def test_every_example_of_a_configuration_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "beamish.toml"
    found = 0
    for page in PAGES:
        for example in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if example.startswith("[project."):  # of a package
                continue
            file.write_text(example)
            load(file, discover())
            found += 1
    assert found > 10


def test_the_pages_of_modules_tell_the_defaults_of_today() -> None:
    """In tables of an option, or several, and the default, or one for each."""
    row = re.compile(r"^\| ((?:`[a-z_]+`(?:, )?)+) \| ((?:`[^`|]*`(?:, )?)+) \|", re.MULTILINE)
    found = 0
    for module in discover():
        fields = module.Config.model_fields
        for options, told in row.findall((ROOT / "docs" / "modules" / f"{module.name}.md").read_text()):
            pairs = zip(re.findall("`(.+?)`", options), re.findall("`(.+?)`", told), strict=False)
            for option, text in pairs:
                if option in fields:
                    default = as_told(fields[option].get_default(call_default_factory=True))
                    assert text.strip('"') in (default, default.removesuffix(".0")), f"{module.name}.{option}"
                    found += 1
    assert found > 80


def as_told(default: object) -> str:
    """A default as the tables write it: as in TOML, text without its quotes."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "[" + ", ".join(f'"{each}"' for each in default) + "]"
    return str(default)
