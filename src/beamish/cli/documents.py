"""Documents made from what modules declare: protocols, commands, hooks, and the DOAP file (`beamish dev gen`)."""

import inspect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from beamish.cli.catalogue import declared
from beamish.cli.xep_tests import PASSING, tests_of
from beamish.cli.xep_titles import TITLES
from beamish.core.commands import Command, Kind, Parameter
from beamish.core.events import CATALOGUE
from beamish.core.hooks import HookKind
from beamish.core.module import HookMark, Xep
from beamish.xmpp.xml import escape_attr, escape_text

_MADE: Final = "Made by `beamish dev gen` from the source; do not edit."
_SOURCE: Final = "src/beamish/"


@dataclass(frozen=True, slots=True)
class Implemented:
    """One protocol in one place."""

    xep: Xep
    file: str
    """Below src/beamish."""


BELOW_MODULES: Final = (
    Implemented(Xep(59, "1.0"), "xmpp/payload/rsm.py"),
    Implemented(Xep(82, "1.1.1"), "core/clock.py"),
    Implemented(Xep(114, "1.6", note="components connect to the server"), "net/component.py"),
    Implemented(
        Xep(122, "1.0.2", status="partial", note="data types, ranges and open lists; no regular expressions"),
        "xmpp/payload/forms.py",
    ),
    Implemented(Xep(170, "1.0"), "stream/features.py"),
    Implemented(Xep(175, "1.2"), "stream/sasl/anonymous.py"),
    Implemented(Xep(178, "1.2", note="between servers"), "stream/s2s_in.py"),
    Implemented(Xep(185, "1.0"), "stream/dialback.py"),
    Implemented(Xep(198, "1.6.3", note="between servers"), "stream/s2s_acks.py"),
    Implemented(Xep(205, "1.0.2"), "net/throttle.py"),
    Implemented(Xep(220, "1.1.1"), "stream/dialback.py"),
    Implemented(Xep(288, "1.0.1"), "stream/s2s_in.py"),
    Implemented(Xep(356, "0.4.1"), "net/privilege/"),
    Implemented(Xep(368, "1.1.0"), "net/dns.py"),
    Implemented(Xep(440, "1.0.0"), "stream/features.py"),
    Implemented(Xep(474, "0.5.0"), "stream/sasl/scram.py"),
    Implemented(Xep(478, "0.2.0"), "stream/features.py"),
    Implemented(Xep(515, "0.1.0"), "stream/sasl/scram.py"),
)
"""What no module declares, because it is not one's: the protocol of streams, sockets, and what payloads share."""


def implemented(modules: Sequence[Any]) -> list[Implemented]:
    """Every protocol and where it is, by number."""
    found = [Implemented(xep, _file_of(module)) for module in modules for xep in getattr(module, "xeps", ())]
    return sorted([*found, *BELOW_MODULES], key=lambda each: (each.xep.number, each.file))


def _file_of(module: Any) -> str:
    """The module's file, or its folder if it has one, below src/beamish."""
    name = str(module.__module__).removeprefix("beamish.").replace(".", "/")
    parts = name.split("/")
    return f"{parts[0]}/{parts[1]}/" if len(parts) > 2 else f"{name}.py"


def xeps_markdown(modules: Sequence[Any]) -> str:
    """docs/xeps.md: number, title, version, state, source and tests of everything that is implemented."""
    rows = [
        "# Extension protocols",
        "",
        _MADE,
        "",
        "`complete` means every part that is a server's business, with the exception in the note, if there is one.",
        "Tests are those of the source first, then plays over sockets and with foreign clients.",
        "",
        "| XEP | title | version | state | source | tests |",
        "|---|---|---|---|---|---|",
    ]
    for each in implemented(modules):
        xep = each.xep
        state = xep.status + (f": {xep.note}" if xep.note else "")
        tests = _links(tests_of(xep.number, each.file))
        source = f"[{each.file}](../{_SOURCE}{each.file})"
        title = _cell(_title(xep.number))
        rows.append(f"| {_xep(xep.number)} | {title} | {xep.version} | {_cell(state)} | {source} | {tests} |")
    rows += [
        "",
        "## What passes through",
        "",
        "Clients do these among themselves. The server does not change them, and knows them where archives, stored messages,",
        "copies for other devices and clients in the background have rules about them.",
        "",
        "| XEP | title | version | tests |",
        "|---|---|---|---|",
    ]
    for number, version, names in PASSING:
        tests = _links([f"tests/{name}" for name in names.split()])
        rows.append(f"| {_xep(number)} | {_cell(_title(number))} | {version} | {tests} |")
    return "\n".join(rows) + "\n"


def _xep(number: int) -> str:
    return f"[{number:04}](https://xmpp.org/extensions/xep-{number:04}.html)"


def _links(paths: Sequence[str]) -> str:
    """Links to tests, each named as shortly as it can be told from the others."""
    names = [Path(path).name for path in paths]
    shown = [
        name if names.count(name) == 1 else "/".join(Path(path).parts[-2:])
        for name, path in zip(names, paths, strict=True)
    ]
    return ", ".join(f"[{name}](../{path})" for name, path in zip(shown, paths, strict=True))


def doap(modules: Sequence[Any]) -> str:
    """docs/beamish.doap: the same as XEP-0453 wants it."""
    by_number: dict[int, list[Implemented]] = defaultdict(list)
    for each in implemented(modules):
        by_number[each.xep.number].append(each)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<!-- Made by `beamish dev gen` from the source; do not edit. -->",
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://usefulinc.com/ns/doap#"',
        '         xmlns:xmpp="https://linkmauve.fr/ns/xmpp-doap#">',
        "  <Project>",
        "    <name>Beamish</name>",
        '    <shortdesc xml:lang="en">An XMPP server</shortdesc>',
        '    <description xml:lang="en">An XMPP server daemon in Python with one configuration file.</description>',
        "    <programming-language>Python</programming-language>",
        "    <os>Linux</os>",
        '    <category rdf:resource="https://linkmauve.fr/ns/xmpp-doap#category-server"/>',
    ]
    lines += [f'    <implements rdf:resource="https://xmpp.org/rfcs/rfc{n}.html"/>' for n in (6120, 6121, 7590, 7622)]
    for number, found in sorted(by_number.items()):
        state = "partial" if any(each.xep.status != "complete" for each in found) else "complete"
        notes = "; ".join(dict.fromkeys(each.xep.note for each in found if each.xep.note))
        version = max(each.xep.version for each in found)
        resource = escape_attr(f"https://xmpp.org/extensions/xep-{number:04}.html")
        lines += [
            "    <implements>",
            "      <xmpp:SupportedXep>",
            f'        <xmpp:xep rdf:resource="{resource}"/>',
            f"        <xmpp:status>{state}</xmpp:status>",
            f"        <xmpp:version>{version}</xmpp:version>",
            f"        <xmpp:since>{min(each.xep.since for each in found)}</xmpp:since>",
            *([f'        <xmpp:note xml:lang="en">{escape_text(notes)}</xmpp:note>'] if notes else []),
            "      </xmpp:SupportedXep>",
            "    </implements>",
        ]
    return "\n".join([*lines, "  </Project>", "</rdf:RDF>"]) + "\n"


def commands_markdown(modules: Sequence[Any]) -> str:
    """docs/commands.md: what every command is called on the command line and as an ad-hoc command, and what it wants."""
    rows = [
        "# Commands",
        "",
        _MADE,
        "",
        "On the command line `user.disable` is `beamish user disable`; every command takes `-c FILE` and `--json`. With the",
        "server running it is done there, otherwise on its data; those marked *live* need the running server. What fails",
        "is a line on standard error and the exit code 1, with `--json`, too (2: called wrongly). All are",
        "ad-hoc commands (XEP-0050) of every domain as well, for administrators unless it says otherwise.",
        "Streams with other servers, and components, have commands of their own: `beamish s2s --help`,",
        "`beamish component --help`. Accounts come from other servers and go there by `beamish user import` and `export`.",
    ]
    group = ""
    for command in declared(modules):
        if command.name.partition(".")[0] != group:
            group = command.name.partition(".")[0]
            rows += ["", f"## {group}"]
        rows += ["", f"### `{command.name}`", "", f"{command.summary}. {_about(command)}".strip(), ""]
        rows.append(f"Node: `{command.node}`. For {_who(command)}.{' *Live.*' if command.live else ''}")
        if command.parameters:
            rows += ["", "| parameter | what it is | value | default |", "|---|---|---|---|"]
            rows += [_parameter_row(parameter) for parameter in command.parameters]
    return "\n".join(rows) + "\n"


def _about(command: Command) -> str:
    about = " ".join(inspect.cleandoc(command.run.__doc__ or "").split())
    return "" if about.rstrip(".") == command.summary else about


def _who(command: Command) -> str:
    marked = next((m for m in getattr(command.run, "__beamish__", ()) if getattr(m, "name", "") == command.name), None)
    if marked is not None and callable(marked.access):
        return "administrators, and every account if the configuration says so"
    return command.access.value


def _parameter_row(parameter: Parameter) -> str:
    kinds = {
        Kind.NUMBER: "number",
        Kind.BOOLEAN: "yes or no",
        Kind.SECRET: "password",
        Kind.LINES: "text of several lines",
    }
    kind = kinds.get(parameter.kind, "address" if parameter.address else "text")
    if parameter.options:
        kind = ", ".join(f"`{option}`" for option in parameter.options)
    if parameter.many or parameter.each:
        kind = f"{kind}, several"
    where = " (command line only)" if parameter.console else ""
    name = parameter.name if parameter.var == parameter.name else f"{parameter.name}` / `{parameter.var}"
    default = "required" if parameter.required else "–" if parameter.default in (None, "") else f"`{parameter.default}`"
    return f"| `{name}` | {_cell(parameter.label)}{where} | {_cell(kind)} | {default} |"


def hooks_markdown(modules: Sequence[Any]) -> str:
    """docs/hooks.md: the hooks in the order in which a stanza meets them, and which modules listen."""
    listening: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for module in modules:
        for name in dir(module):
            for mark in getattr(getattr(module, name), "__beamish__", ()):
                if isinstance(mark, HookMark):
                    listening[mark.point.name].append((mark.at, module.name))
    rows = [
        "# Hooks",
        "",
        _MADE,
        "",
        "Places in the way of a session and its stanzas where modules listen (`@on(events.inbound)`), in the order in which",
        "they are met. A *guard* that crashes refuses the stanza, an *observer* that crashes is passed over. Listeners are",
        "called by rising number, 50 if none is named, and get what `core/events.py` says in brackets: `HookPoint[Context]`.",
        "",
        "Listed are the modules that always listen. Others hook in only while they have something to do (access, blocking,",
        "offline, sm); so do federation, connections and privileged components, which are not modules.",
    ]
    for point in CATALOGUE:
        listeners = ", ".join(f"{name} ({at})" for at, name in sorted(listening[point.name])) or "no module always"
        kind = "guard" if point.kind is HookKind.GUARD else "observer"
        rows += ["", f"## `{point.name}`", "", f"*{kind}*. {point.doc}", "", f"Listening: {listeners}."]
    return "\n".join(rows) + "\n"


def _title(number: int) -> str:
    return TITLES.get(number, "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
