"""`beamish user import` and `export`: accounts from other servers and for them (XEP-0227), with the server stopped."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beamish.cli.console import (
    ConfigOption,
    JsonOption,
    become_owner,
    config_file,
    expected_failures,
    fail,
    load_or_exit,
    print_json,
    reason,
)
from beamish.config import Config
from beamish.config.values import account_address
from beamish.stream.sasl import ALGORITHMS, Algorithm
from beamish.xmpp.jid import JID

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

MOST_LISTED = 100_000
"""Things not taken that are listed in JSON; beyond that, only their number counts."""


def add_to(group: typer.Typer) -> None:
    """Add the commands to `beamish user`."""
    group.command("import")(import_accounts)
    group.command("export")(export_accounts)


def import_accounts(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files in the format of XEP-0227.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, store nothing.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make accounts of files that another server wrote, with all that they have. The server must be stopped.

    Passwords or SCRAM keys, contacts, requests to subscribe, vCards, private data, privacy lists, nodes (PEP) and offline
    messages are taken. Accounts that exist are left as they are, so it can be run again. Whatever is not taken is named with
    its file and line on standard error; the exit code is 1 then. The owner of the data directory must be able to read the
    files. See docs/ops/moving.md.
    """
    from beamish import app  # noqa: F401  while this user may read the program

    loaded = load_or_exit(config_file(config))
    become_owner(loaded.server.data_dir)
    skipped: list[str] = []
    count = 0

    def told(notice: Any) -> None:
        nonlocal count
        count += 1
        if not as_json:
            print(notice, file=sys.stderr)
        elif count <= MOST_LISTED:
            skipped.append(str(notice))

    try:
        tally, notes = asyncio.run(_load(loaded, [path.absolute() for path in files], told, dry_run))
    except expected_failures() as error:
        fail(reason(error))
    if as_json:
        print_json({"taken": tally, "not_taken": count, "skipped": skipped, "notes": notes, "dry_run": dry_run})
    else:
        for kind, many in sorted(tally.items()):
            print(f"{'would take' if dry_run else 'taken'}: {many} {kind}")
        print(f"not taken: {count}")
        for note in notes:
            print(note)
    if count:
        raise typer.Exit(1)


def export_accounts(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not be there yet.")],
    jids: Annotated[list[str] | None, typer.Argument(metavar="JID…", help="Only these accounts.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write accounts with what they have to a file that other servers can read (XEP-0227). The server must be stopped.

    SCRAM keys, contacts, requests to subscribe, vCards, private data, privacy lists, nodes (PEP) and offline messages are
    written; archives are not. The keys of locked accounts are left out. The file is for the owner of the data directory, who
    must be able to write there, and for nobody else: whoever has it can try passwords.
    """
    from beamish import app  # noqa: F401  while this user may read the program

    users = [_account(text) for text in jids or ()]
    loaded = load_or_exit(config_file(config))
    become_owner(loaded.server.data_dir)
    try:
        count = asyncio.run(_save(loaded, file.absolute(), users))
    except expected_failures() as error:
        fail(reason(error))
    if as_json:
        print_json({"file": str(file.absolute()), "accounts": count})
    else:
        print(f"written: {count} accounts to {file}", file=sys.stderr)


def _account(text: str) -> JID:
    try:
        return account_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


async def _save(config: Config, path: Path, users: list[JID]) -> int:
    from beamish import app
    from beamish.core.services import PortableService
    from beamish.xmpp.errors import StanzaError

    async with _opened(config) as kernel:
        try:
            return await kernel.service(PortableService).save(path, users)
        except StanzaError as error:
            raise app.CommandFailed(error.text or error.condition.value) from None


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator["Kernel"]:
    """The kernel of a server that is stopped, with the module. Raises `CommandFailed`."""
    from beamish import app
    from beamish.core import log
    from beamish.core.services import PortableService
    from beamish.storage.sole import DirectoryInUse

    log.configure("error", config.server.log.format)
    try:
        async with app.open_kernel(config, patience=0) as kernel:
            if kernel.service_or_none(PortableService) is None:
                raise app.CommandFailed("the module portable is disabled")
            yield kernel
    except DirectoryInUse as error:
        raise app.CommandFailed(f"{error}; this is done while the server is stopped") from None


def hashes(mechanisms: Iterable[str]) -> frozenset[Algorithm]:
    """The hash functions of the SCRAM mechanisms among those that the configuration names. Without any, passwords come by
    PLAIN, for which keys of every hash will do.
    """
    named = set(mechanisms)
    return frozenset(each for each in ALGORITHMS if {f"SCRAM-{each}", f"SCRAM-{each}-PLUS"} & named)


async def _load(config: Config, paths: list[Path], told: Any, dry: bool) -> tuple[dict[str, int], list[str]]:
    from beamish.core.services import AccountsService, PortableService

    offered = hashes(config.c2s.mechanisms)
    async with _opened(config) as kernel:
        tally = await kernel.service(PortableService).load(paths, offered or frozenset(ALGORITHMS), told, dry=dry)
        accounts = kernel.service(AccountsService)
        lacking = {domain: offered - accounts.algorithms(domain) for domain in kernel.domains}
    return tally, [
        f"{domain}: not offered until all accounts have keys for them: "
        + ", ".join(f"SCRAM-{each}" for each in ALGORITHMS if each in lacked)
        for domain, lacked in lacking.items()
        if lacked
    ]
