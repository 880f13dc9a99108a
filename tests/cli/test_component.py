import json
from typing import Any

import pytest
from typer.testing import CliRunner

from beamish.cli import commands

CONNECTED = {
    "domain": "irc.a.example",
    "connected": True,
    "queued": 0,
    "peer": "127.0.0.1:40000",
    "in": 3,
    "out": 12,
    "age": 60,
    "idle": 0,
}
AWAY = {"domain": "bot.a.example", "connected": False, "queued": 2}
NEVER = {"domain": "x.a.example", "connected": False, "queued": 0}


@pytest.fixture
def answers(server: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server answers to each command."""
    table: dict[str, Any] = {}

    async def run_command(_config: Any, name: str, args: dict[str, Any]) -> Any:
        if name not in table:
            raise server.CommandFailed(f"{name} needs a running server")
        return table[name]

    monkeypatch.setattr(server, "run_command", run_command, raising=False)
    return table


def test_a_line_for_every_component(runner: CliRunner, answers: dict[str, Any]) -> None:
    answers["component.list"] = [AWAY, CONNECTED, NEVER]
    done = runner.invoke(commands, ["component", "list"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "bot.a.example\taway, 2 waiting\t-\t-\t-\t-\t-",
        "irc.a.example\tconnected\t127.0.0.1:40000\t3\t12\t60\t0",
        "x.a.example\taway\t-\t-\t-\t-\t-",
    ]


def test_as_json(runner: CliRunner, answers: dict[str, Any]) -> None:
    answers["component.list"] = [CONNECTED]
    assert json.loads(runner.invoke(commands, ["component", "list", "--json"]).stdout) == [CONNECTED]


def test_without_a_server(runner: CliRunner, answers: dict[str, Any]) -> None:
    done = runner.invoke(commands, ["component", "list"])
    assert done.exit_code == 1
    assert "needs a running server" in done.stderr
