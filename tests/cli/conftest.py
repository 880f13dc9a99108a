import sys
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import beamish
from beamish.config import Config


class CommandFailed(Exception):
    """What the server side raises when a command cannot be done."""


class Server(types.ModuleType):
    """The server side seen from the command line: accounts in a dict, and a server that starts and stops at once."""

    CommandFailed = CommandFailed

    def __init__(self) -> None:
        super().__init__("beamish.app")
        self.accounts: dict[str, str] = {}
        self.served: list[Config] = []
        self.cannot_start: OSError | None = None
        self.reload: Callable[[], Config] | None = None

    async def serve(
        self, config: Config, *, reload: Callable[[], Config], ready: Callable[[list[str]], Awaitable[None] | None]
    ) -> None:
        if self.cannot_start:
            raise self.cannot_start
        self.served.append(config)
        self.reload = reload
        ready(["c2s 127.0.0.1:45222 starttls", "c2s 127.0.0.1:45223 tls"])

    async def run_command(self, config: Config, name: str, args: dict[str, Any]) -> Any:
        config.server.data_dir.mkdir(exist_ok=True)
        config.database.touch()
        match name, args:
            case "user.add", {"jid": jid, "password": password}:
                if jid in self.accounts:
                    raise CommandFailed(f"{jid} exists already")
                self.accounts[jid] = password
            case "user.passwd", {"jid": jid, "password": password} if jid in self.accounts:
                self.accounts[jid] = password
            case "user.remove", {"jid": jid} if jid in self.accounts:
                del self.accounts[jid]
            case "user.list", {"domain": domain}:
                return [{"jid": jid} for jid in self.accounts if jid.endswith(f"@{domain}")]
            case "user.list", {}:
                return [{"jid": jid} for jid in self.accounts]
            case _:
                raise CommandFailed(f"no such account or command: {name} {args.get('jid')}")
        return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """A server side of its own, and an empty current directory without any system configuration."""
    server = Server()
    monkeypatch.setitem(sys.modules, "beamish.app", server)
    monkeypatch.setattr(beamish, "app", server, raising=False)
    monkeypatch.setattr("beamish.net.address.obstacle", lambda address: "")  # whatever else runs on this machine
    monkeypatch.setattr("beamish.cli.console.SYSTEM_CONFIG", tmp_path / "etc" / "beamish.toml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BEAMISH_CONFIG", raising=False)
    return server


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()
