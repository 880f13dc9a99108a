"""The composition root: configuration → storage → kernel → modules → listeners. The only file that sees every layer."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from beamish import __version__
from beamish.config import Config, ConfigProblems
from beamish.core import events
from beamish.core import log as logging
from beamish.core.clock import Clock
from beamish.core.commands import CommandError
from beamish.core.events import Stopping
from beamish.core.kernel import Kernel, new_id
from beamish.core.later import is_later
from beamish.core.module import Module
from beamish.core.registry import ModuleError, discover, select, start_order
from beamish.core.services import AccountsService
from beamish.net import heap, systemd
from beamish.net.address import BACKLOG, bind_all, format_peer
from beamish.net.c2s import C2SLimits, C2SServer
from beamish.net.certificate import Severity
from beamish.net.component import ComponentLimits, ComponentServer
from beamish.net.control import ControlError, ControlServer, ControlUnavailable, call
from beamish.net.dns import DnsResolver, Resolver, Target
from beamish.net.s2s import Federation, Policy, S2SLimits
from beamish.net.signals import Signals
from beamish.net.tls import CertificateStore
from beamish.net.tls_memory import TlsContexts
from beamish.net.verify import Trust
from beamish.net.wirelog import WireLog
from beamish.storage.api import StorageError
from beamish.storage.sole import DirectoryInUse, sole_user
from beamish.storage.sqlite import SqliteDatabase
from beamish.stream import features
from beamish.stream.dialback import DialbackSecret
from beamish.stream.features import StreamFeature
from beamish.stream.machine import C2SSettings
from beamish.stream.parser import ParserLimits
from beamish.stream.s2s import S2SSettings

log = structlog.get_logger(__name__)

CommandFailed = ControlError
"""A command could not be carried out; the text is for the administrator."""

_CONTROL: Final = "control.sock"
_DAY: Final = 86_400.0
_NEEDED: Final = {
    "s2s": "there are no streams with other servers: s2s.enabled is false",
    "component": "there are no components: the configuration has none ([components])",
}
"""What groups of commands need in order to be there."""
_MORE_SECONDS: Final = 30.0
"""What the service manager is asked for again and again while the start takes long (a migration), and once for the stop on
top of the graces: the database has to be closed."""
_GRACES: Final = 3
"""Clients, components and other servers have `shutdown_grace` each, one after the other."""
_STARTING_SECONDS: Final = 10.0
"""How long a command waits for a server that has the data but does not listen for commands (yet, or any more)."""


def c2s_server(
    kernel: Kernel, config: Config, certificates: CertificateStore | None, wire_log: WireLog | None = None
) -> C2SServer:
    """The client side of a started kernel, as the configuration wants it; it listens nowhere yet."""
    limits, c2s = config.limits, config.c2s
    contributed: list[StreamFeature] = [f for module in kernel.registry.modules for f in module.stream_features]
    idle = int(c2s.probe_after) if c2s.probe_after else None
    contributed.append(StreamFeature(features.limits(limits.stanza_bytes, idle)))
    settings = C2SSettings(
        serves=kernel.is_local_domain,
        new_id=new_id,
        ledger=kernel.names,
        default_domain=kernel.domains[0],
        limits=ParserLimits(limits.stanza_bytes, limits.depth, limits.elements, limits.attributes),
        unauthenticated_bytes=limits.unauthenticated_bytes,
        sasl_attempts=limits.sasl_attempts,
        require_tls=c2s.require_tls,
        anonymous=c2s.anonymous,
        mechanisms=frozenset(c2s.mechanisms) | (frozenset(("ANONYMOUS",)) if c2s.anonymous else frozenset()),
        algorithms=kernel.service(AccountsService).algorithms,
        features=tuple(contributed),
        early_nonzas=frozenset(tag for tag, handler in kernel.nonzas.items() if handler.early),
        early_iqs=frozenset(kernel.early_iqs),
    )
    bounds = C2SLimits(
        unauthenticated_seconds=limits.unauthenticated_seconds,
        stanzas_per_second=limits.stanzas_per_second,
        stanza_burst=limits.stanza_burst,
        bytes_per_second=limits.bytes_per_second,
        bytes_burst=limits.bytes_burst,
        connections_per_address=limits.connections_per_address,
        login_failures_per_address=limits.login_failures_per_address,
        login_failures_per_account=limits.login_failures_per_account,
        login_failure_window=limits.login_failure_window,
        unsent_bytes=limits.unsent_bytes,
        probe_after=c2s.probe_after,
        probe_timeout=c2s.probe_timeout,
    )
    return C2SServer(kernel, settings, bounds, certificates, wire_log or WireLog(config.server.log.wire))


def federation(
    kernel: Kernel,
    config: Config,
    certificates: CertificateStore,
    wire_log: WireLog | None = None,
    *,
    resolver: Resolver | None = None,
) -> Federation:
    """The side of a started kernel that faces other servers; it listens nowhere and carries nothing yet.

    `resolver` takes the place of the DNS.
    """
    limits, s2s = config.limits, config.s2s
    settings = S2SSettings(
        serves=kernel.router.serves,
        new_id=new_id,
        ledger=kernel.names,
        secret=DialbackSecret(secrets.token_bytes(32)),
        limits=ParserLimits(limits.stanza_bytes * 2, limits.depth, limits.elements, limits.attributes),
        dialback=s2s.dialback,
        idle_seconds=int(s2s.idle_seconds * 2),
    )
    bounds = S2SLimits(
        connect_seconds=s2s.connect_seconds,
        negotiation_seconds=s2s.negotiation_seconds,
        retry_seconds=s2s.retry_seconds,
        backoff_seconds=s2s.backoff_seconds,
        idle_seconds=s2s.idle_seconds,
        resume_seconds=s2s.resume_seconds,
        queue_stanzas=s2s.queue_stanzas,
        queue_bytes=s2s.queue_bytes,
        queue_bytes_in_all=s2s.queue_bytes_in_all,
        routes=s2s.domains,
        domains_waited_for=s2s.domains_waited_for,
        streams_per_domain=s2s.streams_per_domain,
        connections_per_address=limits.connections_per_address,
        stanzas_per_second=s2s.stanzas_per_second,
        stanza_burst=s2s.stanza_burst,
        bytes_per_second=s2s.bytes_per_second,
        bytes_burst=s2s.bytes_burst,
        unsent_bytes=limits.unsent_bytes,
        presences=s2s.presences,
    )
    policy = Policy(
        open=s2s.policy == "open",
        allow=frozenset(s2s.allow),
        deny=frozenset(s2s.deny),
        require_verified=s2s.require_verified_tls,
        unverified=frozenset(s2s.unverified),
    )
    return Federation(
        kernel,
        settings,
        bounds,
        policy,
        TlsContexts(certificates.certificate_for, config.tls.minimum),
        Trust(s2s.trust),
        resolver or DnsResolver(s2s.dns_seconds),
        wire_log or WireLog(config.server.log.wire),
        hosts={domain: Target(address.host, address.port) for domain, address in s2s.hosts.items()},
    )


def component_server(kernel: Kernel, config: Config, wire_log: WireLog | None = None) -> ComponentServer:
    """The components of a started kernel; it listens nowhere and serves no domain yet."""
    limits, listener = config.limits, config.component_listener
    bounds = ComponentLimits(
        queue_stanzas=listener.queue_stanzas,
        queue_bytes=listener.queue_bytes,
        away_seconds=listener.away_seconds,
        unsent_bytes=limits.unsent_bytes,
        presences=config.s2s.presences,
        replace=listener.conflict == "replace",
        connections_per_address=listener.connections_per_address,
        handshake_failures=listener.handshake_failures,
        handshake_failure_window=listener.handshake_failure_window,
        stanzas_per_second=listener.stanzas_per_second,
        stanza_burst=listener.stanza_burst,
        bytes_per_second=listener.bytes_per_second,
        bytes_burst=listener.bytes_burst,
        probe_after=listener.probe_after,
        probe_timeout=listener.probe_timeout,
    )
    return ComponentServer(
        kernel,
        config.components,
        ParserLimits(limits.stanza_bytes * 2, limits.depth, limits.elements, limits.attributes),
        bounds,
        wire_log or WireLog(config.server.log.wire),
    )


def chosen_modules(config: Config) -> list[type[Module]]:
    """The modules that the configuration wants to run. Raises `ModuleError`."""
    return select(discover(), config.modules.enable, config.modules.disable)


@asynccontextmanager
async def open_kernel(config: Config, *, clock: Clock | None = None, patience: float = 3.0) -> AsyncIterator[Kernel]:
    """Storage, kernel and modules, without any listener; everything is stopped and stored on the way out.

    `clock` is for tests; the machine's own if there is none. Raises `DirectoryInUse` when another process has the data for
    longer than `patience` seconds, before anything is read or changed.
    """
    make_data_dir(config.server.data_dir)
    async with sole_user(config.server.data_dir, patience), _opened(config, clock) as kernel:
        yield kernel


@asynccontextmanager
async def _opened(config: Config, clock: Clock | None) -> AsyncIterator[Kernel]:
    database = await SqliteDatabase.open(config.database, synchronous=config.storage.synchronous)
    try:
        kernel = Kernel(
            domains=config.server.domains,
            db=database,
            limits=config.limits,
            admins=config.server.admins,
            clock=clock,
            scram_iterations=config.c2s.scram_iterations,
        )
        classes = chosen_modules(config)
        await kernel.start(classes, {cls.name: config.modules[cls.name] for cls in classes})
        try:
            yield kernel
        finally:
            await kernel.stop()
    finally:
        await database.close()


def make_data_dir(path: Path) -> None:
    """Create the data directory for its owner only, if it is not there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


async def run_command(config: Config, name: str, args: dict[str, Any]) -> Any:
    """Carry out an administrative command: in the running server, or on its data if none runs.

    Raises `CommandFailed`, and what `open_kernel` raises.
    """
    make_data_dir(config.server.data_dir)
    logging.configure("warning", config.server.log.format)
    until = asyncio.get_running_loop().time() + _STARTING_SECONDS
    while True:
        with suppress(ControlUnavailable):
            return await call(config.server.data_dir / _CONTROL, name, args)
        try:
            async with open_kernel(config, patience=0) as kernel:
                command = kernel.commands.get(name)
                if command is None or command.live:
                    raise CommandFailed(f"{name} needs a running server")
                return await _command(kernel, name, args)
        except DirectoryInUse:  # by a server that starts or stops, or by another command
            if asyncio.get_running_loop().time() >= until:
                raise
            await asyncio.sleep(0.1)


async def _command(kernel: Kernel, name: str, args: dict[str, Any]) -> Any:
    missing = _NEEDED.get(name.partition(".")[0])
    if missing is not None and kernel.commands.get(name) is None:
        raise CommandFailed(missing)
    try:
        return await kernel.commands.run(name, args)
    except CommandError as error:
        raise CommandFailed(str(error)) from error
    except StorageError as error:
        log.error("command_not_stored", command=name, error=str(error))
        raise CommandFailed(f"it could not be stored: {error}") from error


async def serve(
    config: Config,
    *,
    reload: Callable[[], Config] | None = None,
    ready: Callable[[list[str]], Awaitable[None] | None] | None = None,
) -> bool:
    """Run the server until SIGTERM or SIGINT, or an administrator ends it; True if it is to be started anew.

    `reload` gives the configuration anew at SIGHUP (it may raise `ConfigProblems`). `ready` is called with a line per
    listener (`c2s 127.0.0.1:5222 starttls`) once clients can connect.
    """
    logging.configure(config.server.log.level, config.server.log.format)
    # the writer's thread must get its turns while the loop is busy, or acknowledgements wait
    sys.setswitchinterval(0.001)
    heap.keep_large_blocks_apart()
    stop = asyncio.Event()
    again = False

    def asked_to_stop(and_restart: bool) -> None:
        nonlocal again
        if stop.is_set():
            return  # what was to be later comes too late
        if and_restart and (obstacle := _obstacle(reload)):
            log.error("not_restarted", reason=obstacle)
            return
        again = and_restart
        stop.set()

    def terminated() -> None:
        nonlocal again
        if again:  # on its way to begin anew: it is not to
            again = False
            log.info("restart_called_off")
            systemd.stopping(seconds=most)
        stop.set()

    most = _GRACES * config.server.shutdown_grace + _MORE_SECONDS
    async with AsyncExitStack() as up:
        signals = up.enter_context(Signals(terminated, lambda: state.reload()))
        starting = up.enter_context(_SignsOfLife())
        kernel = await up.enter_async_context(open_kernel(config))
        kernel.ask_to_stop = asked_to_stop
        kernel.obstacle = lambda: _obstacle(reload)
        certificates = CertificateStore(config.tls, config.server.domains, config.server.data_dir)
        certificates.load()
        wire_log = WireLog(config.server.log.wire)
        server = c2s_server(kernel, config, certificates, wire_log)
        control = ControlServer(config.server.data_dir / _CONTROL, lambda name, args: _command(kernel, name, args))
        await up.enter_async_context(control)
        services = await listen_services(kernel, config, certificates, up, wire_log=wire_log)
        listening = await listen(server, config, certificates, up) + services
        state = _Reloadable(config, certificates, wire_log, reload)
        signals.ready()
        server.start()
        # what lives as long as the process need not be looked at by every garbage collection
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)  # a login makes hundreds of objects, none of them in a ring
        starting.over()
        systemd.ready(_serving(config))
        log.info(
            "ready", version=__version__, domains=list(config.server.domains), listening=listening, pid=os.getpid()
        )
        if ready is not None:
            outcome = ready(listening)
            if inspect.isawaitable(outcome):
                await outcome
        daily = kernel.tasks.spawn(_watch_certificates(certificates), "certificates")
        up.callback(daily.cancel)  # the stop waits for tasks to end by themselves
        if isinstance(kernel.db, SqliteDatabase):
            kernel.tasks.spawn(kernel.db.reserve_log(), "log.reserve")
        await stop.wait()
        signals.stopping()
        if again:
            systemd.reloading("restarting")  # after STOPPING=1, what still runs at the end of TimeoutStopSec is killed
        else:
            systemd.stopping(seconds=most)
        log.info("stopping", and_start_again=again)
    log.info("stopped")
    return again


async def listen(server: C2SServer, config: Config, certificates: CertificateStore, up: AsyncExitStack) -> list[str]:
    """Open the client listeners; on the way out they stop accepting, then every stream is closed within the grace.

    Returns a line for each (`c2s 127.0.0.1:5222 starttls`), with the port that was chosen where 0 was asked for.
    """
    loop = asyncio.get_running_loop()
    up.push_async_callback(server.drain, config.server.shutdown_grace)
    lines = []
    kinds: tuple[tuple[Sequence[str], bool], ...] = ((config.c2s.listen, False), (config.c2s.direct_tls, True))
    for addresses, direct in kinds:
        for sock in bind_all(addresses) if addresses else ():
            listener = await loop.create_server(
                partial(server.connection, direct),
                sock=sock,
                backlog=BACKLOG,
            )
            up.callback(listener.close)
            lines.append(f"c2s {format_peer(sock.getsockname())} {'direct-tls' if direct else 'starttls'}")
    return lines


async def listen_services(
    kernel: Kernel,
    config: Config,
    certificates: CertificateStore,
    up: AsyncExitStack,
    *,
    wire_log: WireLog | None = None,
    resolver: Resolver | None = None,
) -> list[str]:
    """Begin to exchange stanzas with other servers and components, and open their listeners; on the way out all stops.

    To be called before `listen`, so that what clients say at the end still gets through. Lines as of `listen`.
    """
    loop = asyncio.get_running_loop()
    lines: list[str] = []
    if config.s2s.enabled:
        s2s = federation(kernel, config, certificates, wire_log, resolver=resolver)
        kernel.provide(Federation, s2s)
        s2s.start()
        up.push_async_callback(s2s.stop, config.server.shutdown_grace)
        for addresses, direct in ((config.s2s.listen, False), (config.s2s.direct_tls, True)):
            for sock in bind_all(addresses) if addresses else ():
                listener = await loop.create_server(
                    partial(s2s.connection, direct_tls=direct), sock=sock, backlog=BACKLOG
                )
                up.callback(listener.close)
                lines.append(f"s2s {format_peer(sock.getsockname())} {'direct-tls' if direct else 'starttls'}")
    if config.components:
        components = component_server(kernel, config, wire_log)
        kernel.provide(ComponentServer, components)
        try:
            components.start()
        except ValueError as error:
            raise CommandFailed(f"a component cannot be served: {error}") from error
        up.push_async_callback(components.stop, config.server.shutdown_grace)
        for sock in bind_all(config.component_listener.listen):
            listener = await loop.create_server(components.connection, sock=sock, backlog=BACKLOG)
            up.callback(listener.close)
            lines.append(f"component {format_peer(sock.getsockname())} plain")
    up.push_async_callback(_last_words, kernel)
    return lines


async def _last_words(kernel: Kernel) -> None:
    """Before the streams with others are closed, they are told what they have to know."""
    outcome: Any = kernel.hooks[events.stopping].run(Stopping())
    if is_later(outcome):
        await outcome


class _Reloadable:
    """What SIGHUP changes while the server runs: certificates, and log settings. The rest is named and left alone."""

    def __init__(
        self,
        config: Config,
        certificates: CertificateStore,
        wire_log: WireLog,
        load: Callable[[], Config] | None,
    ) -> None:
        self._running = config
        self._log = config.server.log
        self._certificates = certificates
        self._wire_log = wire_log
        self._load = load

    def reload(self) -> None:
        """Read the configuration and the certificates again; a broken file leaves everything as it is."""
        systemd.reloading()
        try:
            fresh = self._load() if self._load is not None else self._running
        except ConfigProblems as found:
            _log_problems(found)
            systemd.ready(f"{_serving(self._running)}; configuration not reloaded: it has errors")
            log.error("not_reloaded", reason="the configuration has errors")
            return
        self._certificates.reload(fresh.tls)
        if fresh.server.log != self._log:
            self._log = fresh.server.log
            logging.configure(self._log.level, self._log.format)
            self._wire_log.enabled = self._log.wire
        later = self._later(fresh)
        if later:
            log.warning("restart_needed", sections=later)
        systemd.ready(_serving(self._running) + (f"; restart needed: {', '.join(later)}" if later else ""))
        log.info("reloaded")

    def _later(self, fresh: Config) -> list[str]:
        """The sections in which there is something that counts from the next start on only."""
        running = self._running
        later = [
            section
            for section in ("c2s", "s2s", "components", "component_listener", "storage", "limits", "modules")
            if getattr(fresh, section) != getattr(running, section)
        ]
        if fresh.server.model_copy(update={"log": running.server.log}) != running.server:
            later.append("server")
        if fresh.tls.minimum != running.tls.minimum:
            later.append("tls")
        return later


def _serving(config: Config) -> str:
    return f"serving {', '.join(config.server.domains)}"


def _log_problems(found: ConfigProblems) -> None:
    for problem in found.problems:
        log.error("config_problem", problem=str(problem))


def _obstacle(load: Callable[[], Config] | None) -> str:
    """Why a start with the configuration and the certificates as they are now would fail; empty if nothing is known of."""
    if load is None:
        return ""
    try:
        fresh = load()
        start_order(select(discover(), fresh.modules.enable, fresh.modules.disable))
    except ConfigProblems as found:
        _log_problems(found)
        return f"the configuration has errors: {_first(found.problems)}"
    except ModuleError as error:
        return f"the modules do not fit: {error}"
    store = CertificateStore(fresh.tls, fresh.server.domains, fresh.server.data_dir)
    fatal = [problem for problem in store.check() if problem.severity is Severity.FATAL]
    return f"a certificate cannot be used: {_first(fatal)}" if fatal else ""


def _first(problems: Sequence[object]) -> str:
    more = f" (and {len(problems) - 1} more: beamish config check)" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"


class _SignsOfLife:
    """Tells the service manager that the loop turns, from before the start to the end of the stop.

    Until `over()`, that the start needs more time, too: what is being migrated would begin again after being killed.
    """

    def __init__(self) -> None:
        self._starting = True
        self._watchdog = systemd.watchdog_interval()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> _SignsOfLife:
        self._tell()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def over(self) -> None:
        """The start is over."""
        self._starting = False

    def _tell(self) -> None:
        if self._starting:
            systemd.extend_timeout(_MORE_SECONDS)
        if self._watchdog is not None:
            systemd.watchdog()
        pause = min(self._watchdog or _MORE_SECONDS, _MORE_SECONDS / 3)
        self._timer = asyncio.get_running_loop().call_later(pause, self._tell)


async def _watch_certificates(certificates: CertificateStore) -> None:
    """Once a day, say in the log what is wrong or about to be with the certificates."""
    while True:
        await asyncio.sleep(_DAY)
        for problem in (*certificates.check(), *certificates.ageing()):
            log.warning("certificate_problem", problem=str(problem))


__all__ = [
    "CommandFailed",
    "c2s_server",
    "chosen_modules",
    "component_server",
    "federation",
    "listen",
    "listen_services",
    "open_kernel",
    "run_command",
    "serve",
]
