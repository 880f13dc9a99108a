"""What all commands share: where the configuration is, how modules are found, how things are said and failures end.

Exit codes: 0 done, 1 it failed, 2 the command was called wrongly, 78 (`serve` alone) it cannot start before somebody
mends something, so that whoever supervises it need not try again.
"""

import asyncio
import encodings
import json
import os
import pwd
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer
from rich.console import Console

from beamish.config import Config, ConfigProblems, ModuleClass, load
from beamish.config.problems import PERMISSION

SYSTEM_CONFIG: Final = Path("/etc/beamish/beamish.toml")
"""The file that is read when none is named and it exists."""

UNSTARTABLE: Final = 78
"""Exit code of `serve` for what no further try will mend; EX_CONFIG of sysexits(3), and the unit's RestartPreventExitStatus."""

T = TypeVar("T")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        envvar="BEAMISH_CONFIG",
        help=f"Configuration file. Without it: {SYSTEM_CONFIG} if that exists, else the defaults.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def module_classes(code: int = 1) -> Sequence[ModuleClass]:
    """Every module of this installation: the server's own by name, then those of other packages.

    Ends with this exit code and the reason if one of those cannot be loaded.
    """
    from beamish.core.registry import ModuleError, discover

    try:
        return discover()
    except ModuleError as error:
        complain(f"beamish: {error}")
        raise typer.Exit(code) from None


def config_file(named: Path | None) -> Path | None:
    """The file to read: the one named, else the system's if it exists, else none (the defaults)."""
    if named is not None:
        return named
    try:
        return SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else None
    except PermissionError:
        return SYSTEM_CONFIG  # for the server's user only; whoever reads it says so


def load_or_exit(path: Path | None, code: int = 1, *, told: bool = True) -> Config:
    """The configuration; with problems in it, one line each on standard error and this exit code.

    `told`: where there is no file, and no data that the defaults could be about, it is said that they apply (the server's
    log says as much).
    """
    try:
        config = load(path, module_classes(code))
        if told and path is None and not config.server.data_dir.exists():
            complain(f"beamish: no {SYSTEM_CONFIG}, -c FILE or BEAMISH_CONFIG: {_defaults(config)}")
        return config
    except ConfigProblems as found:
        for problem in found.problems:
            complain(str(problem))
        raise typer.Exit(code) from None


def _defaults(config: Config) -> str:
    return f"the defaults apply, domain {config.server.domains[0]}, data in {config.server.data_dir}"


def complain(text: str) -> None:
    """Say what is wrong on standard error; in the journal, as an error."""
    from beamish.core import log

    print(log.for_journal(text) if log.to_journal() else text, file=sys.stderr)


def fail(message: str, code: int = 1) -> NoReturn:
    """Say on standard error what failed, and end with this exit code."""
    complain(f"beamish: {message}")
    raise typer.Exit(code)


def print_json(value: object) -> None:
    """A JSON document on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def screen() -> Console:
    """Standard output for people: coloured on a terminal, never broken up or shortened when it goes to a file."""
    return Console(soft_wrap=True, highlight=False)


def reason(error: Exception) -> str:
    """What went wrong, for a person: the system's errors without their number, and with the file they are about."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return f"{text}; {PERMISSION}" if isinstance(error, PermissionError) else text
    return str(error)


def expected_failures() -> tuple[type[Exception], ...]:
    """What a start or a command may fail with for reasons outside the program; the message is enough, without traceback.

    A port in use, a disk that is full, a database of a newer version, a certificate that cannot be used.
    """
    from beamish import app
    from beamish.core.registry import ModuleError
    from beamish.net.tls import CertificatesUnusable
    from beamish.storage.api import StorageError

    return app.CommandFailed, ModuleError, CertificatesUnusable, StorageError, OSError


def run_command(config: Config, name: str, args: dict[str, Any]) -> Any:
    """Have a command done by the running server, or on the database itself when no server runs.

    Ends with exit code 1 and the reason when the command fails.
    """
    from beamish import app

    async def run() -> Any:
        return await app.run_command(config, name, args)

    become_owner(config.server.data_dir)
    try:
        return asyncio.run(run())
    except expected_failures() as error:
        fail(reason(error))


def run_server(main: Coroutine[Any, Any, T]) -> T:
    """Run the server's coroutine on uvloop until it ends; says why and exits with 1 or `UNSTARTABLE` when it cannot start.

    A port in use or a full disk may be over at the next try; files and a database that this program cannot use will not.
    """
    import uvloop

    from beamish.core.registry import ModuleError
    from beamish.net.tls import CertificatesUnusable
    from beamish.storage.api import DatabaseTooNew, MigrationChanged

    try:
        return uvloop.run(main)
    except (ModuleError, CertificatesUnusable, DatabaseTooNew, MigrationChanged) as error:
        fail(str(error), UNSTARTABLE)
    except expected_failures() as error:
        fail(reason(error))
    except KeyboardInterrupt:  # before the server had its own handler in place
        raise typer.Exit(130) from None


def become_owner(directory: Path) -> bool:
    """As root, go on as the user whose directory this is, with the groups that this user has: keys may be for one of these.
    True if that is another user now.

    Otherwise files that root makes in it (the database's log) would shut the server out the next time it starts.
    Ends with exit code 1 where root may not do that (in a container without capabilities).
    """
    if os.geteuid() != 0:
        return False
    try:
        owner = directory.stat()
    except OSError:  # not there, or nothing that can be a directory: whoever wants to use it says so
        return False
    if owner.st_uid == 0:
        return False
    group, groups = owner.st_gid, []
    with suppress(KeyError):  # a number without a name, as in containers, has no groups
        user = pwd.getpwuid(owner.st_uid)
        group = group or user.pw_gid  # root's directory by its group is no reason to see what root's group may
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
    try:
        os.setgroups(groups)
        os.setgid(group)
        os.setuid(owner.st_uid)
    except OSError as error:
        fail(f"cannot act as the owner of {directory}, the user {owner.st_uid}: {error.strerror}")
    return True


def check_program() -> None:
    """End with `UNSTARTABLE` where this user may not read the program, some of which is loaded only when it is needed.

    So it is for the owner of the data when root has installed it, or its Python, into a directory of its own.
    """
    for file in (Path(encodings.__file__), Path(__file__)):
        if not os.access(file, os.R_OK):
            text = f"the user {os.geteuid()}, whose data it is, may not read this program in {file.parent}"
            fail(f"{text}; install it, and Python, where everybody may", UNSTARTABLE)
