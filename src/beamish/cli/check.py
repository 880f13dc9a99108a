"""`beamish config`: is this configuration usable, and if not, what is wrong where; and what may be in one."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import typer

from beamish.cli.console import (
    ConfigOption,
    JsonOption,
    become_owner,
    config_file,
    module_classes,
    print_json,
    screen,
)
from beamish.config import Config, ConfigProblems, Problem, load
from beamish.config.locate import Path as KeyPath
from beamish.config.locate import Position, locate
from beamish.config.problems import dotted
from beamish.config.reference import example_toml

commands = typer.Typer(help="Look at the configuration.", no_args_is_help=True)


@commands.callback()
def config_commands() -> None:
    """Look at the configuration."""


@commands.command()
def example() -> None:
    """Print a configuration file with every option, its description and its default, all commented out."""
    print(example_toml(module_classes()), end="")


@commands.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Read the configuration and the certificates it names; print every mistake as `file:line: key: message`.

    Exit code 1 if there is any error; warnings are printed all the same. Run it as the server's user, since whether a key
    can be read depends on who asks; called by root, it goes on as the owner of the data directory.
    """
    # while this user may read the program; the first is what looking up a host's name loads
    import encodings.idna  # noqa: F401

    from beamish.net import address, tls  # noqa: F401
    from beamish.storage import sole  # noqa: F401

    path = config_file(config)
    asked_by = os.geteuid()
    errors: list[Problem] = []
    warnings: list[Problem] = []
    loaded = None
    try:
        loaded = load(path, module_classes())
    except ConfigProblems as found:
        errors = found.problems
    else:
        errors += _modules_that_do_not_fit(path, loaded)
        errors += _components_in_the_way(path, loaded)
        become_owner(loaded.server.data_dir)
        if path is not None and not os.access(path, os.R_OK):
            errors.append(Problem(str(path), None, None, "", "may not be read by the owner of the data directory"))
            path = None
        errors += _data_dir(path, loaded)
        warnings += _listeners(path, loaded)
        for is_error, problem in _certificates(path, loaded):
            (errors if is_error else warnings).append(problem)
    if as_json:
        result = {"problems": errors, "warnings": warnings}
        listed = {key: [problem.as_json() for problem in problems] for key, problems in result.items()}
        print_json({"ok": not errors, "file": str(path) if path else None, **listed})
    else:
        for problem in (*errors, *warnings):
            print(problem)
        if loaded is not None and os.geteuid() != asked_by:
            print(f"looked at as the user {_user()}, whose data directory it is: {loaded.server.data_dir}")
        if loaded is not None and not errors:
            for line in _summary(path, loaded):
                screen().print(line, markup=False)
    if errors:
        raise typer.Exit(1)


def _modules_that_do_not_fit(path: Path | None, config: Config) -> Iterator[Problem]:
    """A module that needs another which does not run; the registry knows, and would say so at start."""
    from beamish.core.registry import ModuleError, discover, select, start_order

    try:
        start_order(select(discover(), config.modules.enable, config.modules.disable))
    except ModuleError as error:
        yield _problem(path, ("modules",), str(error))


def _components_in_the_way(path: Path | None, config: Config) -> Iterator[Problem]:
    """A component for a domain that a module serves: the option `host` says which those are."""
    modules = config.modules
    served = {
        str(getattr(modules[name], "host", "")).replace("{domain}", domain): name
        for name in modules.active
        for domain in config.server.domains
    }
    for domain in config.components:
        if domain in served:
            yield _problem(path, ("components", domain), f"the domain is served by the module {served[domain]}")


def _listeners(path: Path | None, config: Config) -> Iterator[Problem]:
    """Warnings of addresses that cannot be had just now. While a server runs on the data nothing can be told."""
    import asyncio

    from beamish.net.address import obstacle
    from beamish.storage.sole import LOCK, DirectoryInUse, sole_user

    async def unused() -> bool:
        try:
            async with sole_user(config.server.data_dir):
                return True
        except (DirectoryInUse, OSError):
            return False

    try:
        if (config.server.data_dir / LOCK).exists() and not asyncio.run(unused()):
            return
    except PermissionError:  # said of the directory
        return
    wanted = [("c2s", "listen", config.c2s.listen), ("c2s", "direct_tls", config.c2s.direct_tls)]
    if config.s2s.enabled:
        wanted += [("s2s", "listen", config.s2s.listen), ("s2s", "direct_tls", config.s2s.direct_tls)]
    if config.components:
        wanted.append(("component_listener", "listen", config.component_listener.listen))
    for section, key, addresses in wanted:
        for index, address in enumerate(addresses):
            if reason := obstacle(address):
                yield _problem(path, (section, key, index), f"warning: {reason}")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _data_dir(path: Path | None, config: Config) -> Iterator[Problem]:
    """A data directory that is there, but not for this user. One that is missing is made at the start."""
    directory = config.server.data_dir
    try:
        if not directory.exists():
            return
    except PermissionError:
        pass
    else:
        if directory.is_dir() and os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            return
    kind = "may not be read and written by this user" if directory.is_dir() else "is not a directory"
    yield _problem(path, ("server", "data_dir"), f"{directory} {kind}")


def _certificates(path: Path | None, config: Config) -> Iterator[tuple[bool, Problem]]:
    """What is wrong with the certificate files, each at the key that names the file, and whether it is an error."""
    from beamish.net.certificate import Severity
    from beamish.net.tls import CertificateStore

    tls = config.tls
    keys: dict[Path, KeyPath] = {}
    for domain, own in tls.domains.items():
        table = _as_written(path, domain)
        keys |= {own.certificate: (*table, "certificate"), own.key: (*table, "key")}
    for name in ("certificate", "key"):
        if (file := getattr(tls, name)) is not None:
            keys[file] = ("tls", name)
    for fault in CertificateStore(tls, config.server.domains, config.server.data_dir).check():
        is_error = fault.severity is not Severity.WARNING
        text = str(fault) if is_error else f"warning: {fault}"
        yield is_error, _problem(path, keys.get(fault.file, ("tls",)), text)


def _as_written(path: Path | None, domain: str) -> KeyPath:
    """The path of a domain's table, spelt as in the file; the model knows the prepared form only."""
    from beamish.config.values import domain_name

    for each in _positions(path):
        if len(each) == 3 and each[:2] == ("tls", "domains") and domain_name(str(each[2])) == domain:
            return each
    return ("tls", "domains", domain)


def _positions(path: Path | None) -> dict[KeyPath, Position]:
    return locate(path.read_text(encoding="utf-8")) if path else {}


def _problem(path: Path | None, key: KeyPath, message: str) -> Problem:
    positions = _positions(path)
    place = next((positions[key[:n]] for n in range(len(key), 0, -1) if key[:n] in positions), None)
    line, column = (place.line, place.column) if place else (None, None)
    return Problem(str(path) if path else "defaults", line, column, dotted(key), message)


def _summary(path: Path | None, config: Config) -> list[str]:
    active = config.modules.active
    idle = [name for name in config.modules.known if name in config.modules.model_fields_set and name not in active]
    servers = ", ".join((*config.s2s.listen, *(f"{each} (TLS)" for each in config.s2s.direct_tls)))
    lines = [
        f"ok: {path}" if path else "ok: no configuration file, the defaults apply",
        f"  domains   {', '.join(config.server.domains)}",
        f"  database  {config.database}",
        f"  clients   {', '.join((*config.c2s.listen, *(f'{each} (TLS)' for each in config.c2s.direct_tls)))}",
        *([f"  servers   {servers}"] if config.s2s.enabled and servers else []),
        *([f"  components  {', '.join(config.component_listener.listen)}"] if config.components else []),
        f"  modules   {', '.join(active) or 'none'}",
    ]
    if idle:
        lines.append(f"  configured, but not enabled: {', '.join(idle)}")
    return lines
