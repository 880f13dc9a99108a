from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from beamish.cli import commands
from beamish.cli.catalogue import declared, tell
from beamish.core.commands import ADMIN, Command, Kind, Parameter
from beamish.core.registry import discover

OWN_SCREENS = ("user.add", "user.passwd", "user.remove")
"""Commands with a command line of their own."""


class Server:
    """The server side seen from the command line: notes what is asked, answers what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answer: Any = None

    async def run_command(self, config: Any, name: str, args: dict[str, Any]) -> Any:
        self.asked.append((name, args))
        return self.answer


@pytest.fixture
def asked(server: Any, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(server, "run_command", made.run_command)
    return made


def test_every_declared_command_is_a_command(server: Any, runner: CliRunner) -> None:
    names = [command.name for command in declared(discover())]
    assert len(names) > 40 and len(set(names)) == len(names)
    for name in names:
        group, _, verb = name.partition(".")
        result = runner.invoke(commands, [group, verb, "--help"])
        assert result.exit_code == 0, (name, result.output)


def sample(parameter: Parameter) -> list[str]:
    """What the command line wants for a required parameter."""
    if parameter.kind is Kind.SECRET:
        return ["--random"]
    return [{Kind.JID: "juliet@example.org", Kind.JIDS: "juliet@example.org"}.get(parameter.kind, "text")]


@pytest.mark.parametrize("command", [c for c in declared(discover()) if c.node.startswith(ADMIN)], ids=lambda c: c.name)
def test_each_command_of_the_specification_answers_programs_and_people(
    asked: Server, runner: CliRunner, command: Command
) -> None:
    group, _, verb = command.name.partition(".")
    words = [word for parameter in command.parameters if parameter.required for word in sample(parameter)]
    asked.answer = {"accountjid": "juliet@example.org", "number": 1}
    result = runner.invoke(commands, [group, verb, *words, "--json"])
    assert result.exit_code == 0, result.output
    if command.name not in OWN_SCREENS:
        assert json.loads(result.stdout) == asked.answer
    else:
        json.loads(result.stdout)
    assert asked.asked[-1][0] == command.name
    assert {p.name for p in command.parameters if p.required} <= asked.asked[-1][1].keys()


def test_the_specification_has_thirty() -> None:
    assert sum(c.node.startswith(ADMIN) for c in declared(discover())) == 30


@pytest.mark.parametrize(
    ("call", "name", "arguments"),
    [
        (["user", "disable", "a@b", "c@d"], "user.disable", {"jid": ["a@b", "c@d"]}),
        (["blacklist", "set", "a.example", "b@c"], "blacklist.set", {"jids": ["a.example", "b@c"]}),
        (["blacklist", "set"], "blacklist.set", {}),
        (["users", "count", "--domain", "b"], "users.count", {"domain": "b"}),
        (["users", "registered"], "users.registered", {"max_items": "none"}),
        (
            ["announce", "all", "Hear ye", "--subject", "News"],
            "announce.all",
            {"announcement": "Hear ye", "subject": "News"},
        ),
        (["server", "restart", "--delay", "30"], "server.restart", {"delay": 30}),
        (["invite"], "invite.create", {}),
        (
            ["invite", "create", "--username", "tybalt", "--subscribe"],
            "invite.create",
            {"username": "tybalt", "subscribe": True, "uses": 1},
        ),
        (["invite", "contact", "--inviter", "a@b"], "invite.contact", {"inviter": "a@b"}),
        (["motd", "delete"], "motd.delete", {}),
    ],
)
def test_arguments_become_parameters(
    asked: Server, runner: CliRunner, call: list[str], name: str, arguments: dict[str, Any]
) -> None:
    result = runner.invoke(commands, call)
    assert result.exit_code == 0, result.output
    assert asked.asked == [(name, arguments)]


@pytest.mark.parametrize(
    "call", [["user", "disable"], ["motd", "set"], ["server", "restart", "--delay", "soon"], ["user", "fly"]]
)
def test_a_wrong_call_ends_with_2(asked: Server, runner: CliRunner, call: list[str]) -> None:
    assert runner.invoke(commands, call).exit_code == 2
    assert asked.asked == []


def test_results_as_json(asked: Server, runner: CliRunner) -> None:
    asked.answer = [{"jid": "a@b", "configured": True}]
    result = runner.invoke(commands, ["admins", "list", "--json"])
    assert json.loads(result.stdout) == asked.answer


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ([{"a": "x", "b": 1}, {"a": None, "b": [1, 2]}], "x\t1\n\t1, 2\n"),
        ({"number": 3}, "3\n"),
        ({"jids": ["a", "b"]}, "a\nb\n"),
        ({"jids": []}, ""),
        ({"a": 1, "b": ["x", "y"]}, "a: 1\nb: x, y\n"),
        ({"jid": "a", "contacts": [{"jid": "b", "groups": ["c"]}]}, "jid: a\ncontacts:\n  jid=b groups=c\n"),
        (["x", "y"], "x\ny\n"),
        (None, ""),
        ("text", "text\n"),
    ],
)
def test_results_for_people(result: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    tell(result, as_json=False)
    assert capsys.readouterr().out == said


def test_every_group_says_what_it_is_about(server: Any, runner: CliRunner) -> None:
    assert "Commands of" not in runner.invoke(commands, ["--help"]).stdout
