"""`beamish user import`: accounts from other servers (XEP-0227), with the server stopped."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

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

MOST_LISTED = 100_000
"""Things not taken that are listed in JSON; beyond that, only their number counts."""


def add_to(group: typer.Typer) -> None:
    """Add the command to `beamish user`."""
    group.command("import")(import_accounts)


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


async def _load(config: Config, paths: list[Path], told: Any, dry: bool) -> tuple[dict[str, int], list[str]]:
    from beamish import app
    from beamish.core import log
    from beamish.core.services import AccountsService, PortableService
    from beamish.storage.sole import DirectoryInUse
    from beamish.stream.sasl import ALGORITHMS

    log.configure("error", config.server.log.format)
    usable = frozenset(
        each for each in ALGORITHMS if {f"SCRAM-{each}", f"SCRAM-{each}-PLUS"} & set(config.c2s.mechanisms)
    )
    try:
        async with app.open_kernel(config, patience=0) as kernel:
            service = kernel.service_or_none(PortableService)
            if service is None:
                raise app.CommandFailed("the module portable is disabled")
            tally = await service.load(paths, usable, told, dry=dry)
            accounts = kernel.service(AccountsService)
            lacking = {domain: usable - accounts.algorithms(domain) for domain in kernel.domains}
    except DirectoryInUse as error:
        raise app.CommandFailed(f"{error}; accounts are imported while the server is stopped") from None
    return tally, [
        f"{domain}: not offered until all accounts have keys for them: "
        + ", ".join(f"SCRAM-{each}" for each in ALGORITHMS if each in lacked)
        for domain, lacked in lacking.items()
        if lacked
    ]
