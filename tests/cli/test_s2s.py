import json
from typing import Any

import pytest
from typer.testing import CliRunner

from beamish.cli import commands

STREAM = {
    "direction": "out",
    "local": "a.example",
    "remote": "b.example",
    "method": "external",
    "tls": "TLSv1.3",
    "peer": "192.0.2.1:5269",
    "in": 0,
    "out": 12,
    "idle": 3,
}
WAITING = {
    "direction": "waiting",
    "local": "a.example",
    "remote": "c.example",
    "queued": 2,
    "state": "resting",
    "reason": "refused: host.c.example:5269 refused the connection",
}


@pytest.fixture
def answers(server: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server answers to each command; `asked` is what it was asked."""
    table: dict[str, Any] = {"asked": []}

    async def run_command(_config: Any, name: str, args: dict[str, Any]) -> Any:
        table["asked"].append((name, args))
        if name not in table:
            raise server.CommandFailed(f"{name} needs a running server")
        return table[name]

    monkeypatch.setattr(server, "run_command", run_command, raising=False)
    return table


def test_a_line_for_every_stream(runner: CliRunner, answers: dict[str, Any]) -> None:
    answers["s2s.list"] = [STREAM, WAITING]
    done = runner.invoke(commands, ["s2s", "list"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "out\ta.example\tb.example\texternal\tTLSv1.3\t192.0.2.1:5269\t0\t12\t3",
        "waiting\ta.example\tc.example\trefused: host.c.example:5269 refused the connection\t\t\t\t2\t",
    ]


def test_as_json(runner: CliRunner, answers: dict[str, Any]) -> None:
    answers["s2s.list"] = [STREAM]
    assert json.loads(runner.invoke(commands, ["s2s", "list", "--json"]).stdout) == [STREAM]


def test_steps_and_exit_code(runner: CliRunner, answers: dict[str, Any]) -> None:
    answers["s2s.test"] = {"domain": "b.example", "ok": False, "steps": ["one", "two"], "cause": "dns"}
    done = runner.invoke(commands, ["s2s", "test", "B.example", "--from", "a.example"])
    assert (done.exit_code, done.stdout) == (1, "one\ntwo\n")
    assert answers["asked"] == [("s2s.test", {"domain": "b.example", "sender": "a.example"})]
    answers["s2s.test"]["ok"] = True
    assert runner.invoke(commands, ["s2s", "test", "b.example"]).exit_code == 0


def test_what_is_no_domain(runner: CliRunner, answers: dict[str, Any]) -> None:
    done = runner.invoke(commands, ["s2s", "test", "me@b.example"])
    assert done.exit_code == 2
    assert not answers["asked"]


def test_without_a_server(runner: CliRunner, answers: dict[str, Any]) -> None:
    done = runner.invoke(commands, ["s2s", "list"])
    assert done.exit_code == 1
    assert "needs a running server" in done.stderr
