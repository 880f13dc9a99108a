"""`serve --demo`: two accounts to try the server with, and how to reach it, for whoever has just started it."""

import json
import os
import secrets
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from beamish import __version__
from beamish.config import Config

NAMES: Final = ("alice", "bob")

RunCommand = Callable[[Config, str, dict[str, Any]], Coroutine[Any, Any, Any]]


def accounts_file(config: Config) -> Path:
    """Where the demo's passwords are kept, readable by the server's user alone."""
    return config.server.data_dir / "demo-accounts.txt"


async def prepare(config: Config, run_command: RunCommand) -> dict[str, str]:
    """The demo's accounts and their passwords; makes them when the data directory is new.

    A directory that has a database but no file of demo accounts belongs to somebody: it is left alone (no accounts).
    The file is written before the accounts are made, so that a start cut short is completed by the next one.
    """
    file = accounts_file(config)
    if file.exists():
        accounts = read(file)
    elif config.database.exists():
        return {}
    else:
        accounts = {f"{name}@{config.server.domains[0]}": secrets.token_urlsafe(9) for name in NAMES}
        write(file, accounts)
    existing = {row["jid"] for row in await run_command(config, "user.list", {})}
    for jid, password in accounts.items():
        if jid not in existing:
            await run_command(config, "user.add", {"jid": jid, "password": password})
    return accounts


def read(file: Path) -> dict[str, str]:
    """Accounts from lines `JID password`; other lines, and those that start with #, are passed over."""
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {words[0]: words[1] for words in lines if len(words) == 2}


def write(file: Path, accounts: dict[str, str]) -> None:
    """Write the accounts, mode 0600 from the first byte on; makes the directory (0700) when missing."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write("# Accounts made by `beamish serve --demo`: JID and password\n")
        out.writelines(f"{jid} {password}\n" for jid, password in accounts.items())
    part.rename(file)


def tell(console: Console, config: Config, accounts: dict[str, str], listening: Sequence[str]) -> None:
    """Print how to connect: addresses, accounts, and what clients will say about the certificate."""
    say = console.print
    say(f"\n[bold green]Beamish {__version__} is ready[/] for {escape(', '.join(config.server.domains))}\n")
    for line in listening:
        say(f"  listening  {escape(line)}")
    for jid, password in accounts.items():
        say(f"  account    [bold]{escape(jid)}[/]  password [bold]{escape(password)}[/]")
    if accounts:
        say(f"  kept in    {escape(str(accounts_file(config)))}")
    else:
        say("  No demo accounts: this data directory is in use already. Make one with: beamish user add JID")
    if config.tls.certificate is None:
        say("\n  The certificate is self-signed: a client will ask whether to trust it, or needs to be told to.")
    port = next((text.split()[1].rpartition(":")[2] for text in listening if text.endswith(" starttls")), None)
    if len(accounts) >= 2 and port is not None:
        (sender, password), (receiver, _) = list(accounts.items())[:2]
        command = f"echo hello | go-sendxmpp -n -u {sender} -p {password} -j localhost:{port} {receiver}"
        say(f"\n  Try:       [bold]{escape(command)}[/]")
    say("  Stop with: Ctrl-C\n")


def as_json(accounts: dict[str, str], listening: Sequence[str]) -> str:
    """The same for programs: one line of JSON."""
    return json.dumps({"listening": list(listening), "accounts": accounts})
