"""Finding, ordering, starting and stopping modules.

Every file (or package) in `beamish.modules` defines a `Module` that is called as it is; nothing else lists them. Other
packages offer theirs by an entry point of the group `beamish.modules`; the configuration says which of these run. Start order
follows `requires` and `provides`; a ring or a missing provider stops the start with both names in the message.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from beamish.core.commands import Command, CommandMark
from beamish.core.hooks import Row
from beamish.core.module import EarlyIqMark, HookMark, IqMark, Module, ModuleConfig, NonzaHandler, NonzaMark
from beamish.storage.migrate import migrate

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=Module)

GROUP: Final = "beamish.modules"
"""Of the entry points by which other packages offer modules: `greeter = "my_package.greeter:GreeterModule"`."""
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*")
_TAKEN: Final = frozenset(("active", "disable", "enable", "essential", "known"))
"""What the table of the configuration in which modules have theirs has of its own; and pydantic, `model_…`."""


class ModuleError(Exception):
    """The set of modules cannot be started as asked."""


def discover() -> tuple[type[Module], ...]:
    """Every module class there is: those of the server by name, then those of other packages. Raises `ModuleError`."""
    return (*shipped(), *installed())


@cache
def installed() -> tuple[type[Module], ...]:
    """The module classes of other packages, by name, as they were found when first asked for.

    They run only where `modules.enable` names them. Raises `ModuleError` for what cannot be loaded or is no such module.
    """
    ours = {cls.name for cls in shipped()}
    found: dict[str, type[Module]] = {}
    for entry in entry_points(group=GROUP):
        cls = _loaded(entry)
        if entry.name in ours or found.setdefault(entry.name, cls) is not cls:
            raise ModuleError(f"two modules are called {entry.name}; one is {entry.value}")
    return tuple(found[name] for name in sorted(found))


def _loaded(entry: EntryPoint) -> type[Module]:
    try:
        cls = entry.load()
    except (Exception, SystemExit) as error:  # some files are programs
        raise ModuleError(f"module {entry.name} cannot be loaded from {entry.value}: {error!r}") from error
    if not (isinstance(cls, type) and issubclass(cls, Module) and cls is not Module):
        raise ModuleError(f"{entry.value} is no subclass of Module")
    if vars(cls).get("name") != entry.name:
        raise ModuleError(f'{entry.value} must be called as its entry point is: name = "{entry.name}"')
    if not _NAME.fullmatch(cls.name) or cls.name in _TAKEN or cls.name.startswith("model_"):
        raise ModuleError(f"{entry.value} cannot be called {cls.name!r}: another word, in small letters")
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, ModuleConfig)):
        raise ModuleError(f"the Config of {entry.value} is no subclass of ModuleConfig")
    if cls.default or cls.essential:
        raise ModuleError(f"{entry.value} must say default = False: the administrator decides that it runs")
    return cls


def shipped() -> tuple[type[Module], ...]:
    """Every module class that ships with the server, by name. Raises `ModuleError` if one does not say its name right."""
    package = importlib.import_module("beamish.modules")
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        found[info.name] = module_of(importlib.import_module(f"beamish.modules.{info.name}"))
    return tuple(found[name] for name in sorted(found))


def module_of(source: ModuleType) -> type[Module]:
    """The one module class of a file of `beamish.modules`, or of a package's `__init__`. Raises `ModuleError`.

    It has the file's name: so an option in `[modules.x]`, a line in the log and a page of the documents lead to the file.
    """
    here, name = source.__name__, source.__name__.rpartition(".")[2]
    classes = [v for v in vars(source).values() if isinstance(v, type) and issubclass(v, Module) and v is not Module]
    if len(classes) != 1:
        raise ModuleError(f"{here} must have one subclass of Module, and has {len(classes)}")
    (cls,) = classes
    if vars(cls).get("name") != name:
        raise ModuleError(f'{here}: {cls.__name__} must be called as its file is: name = "{name}"')
    return cls


def select(classes: Iterable[type[Module]], enable: Iterable[str], disable: Iterable[str]) -> list[type[Module]]:
    """The modules to run: the default ones, plus `enable`, less `disable`. Raises `ModuleError`."""
    wanted, unwanted = set(enable), set(disable)
    chosen = []
    for cls in classes:
        if cls.name in unwanted:
            if cls.essential:
                raise ModuleError(f"module {cls.name} cannot be disabled")
            continue
        if cls.default or cls.name in wanted:
            chosen.append(cls)
    return chosen


def start_order(classes: Iterable[type[Module]]) -> list[type[Module]]:
    """Modules so ordered that each comes after those whose services it requires. Raises `ModuleError`."""
    classes = list(classes)
    owner: dict[type, type[Module]] = {}
    for cls in classes:
        for service in cls.provides:
            if service in owner:
                raise ModuleError(f"{cls.name} and {owner[service].name} both provide {service.__name__}")
            owner[service] = cls
    graph: dict[type[Module], list[type[Module]]] = {}
    for cls in sorted(classes, key=lambda c: (not c.outermost, c.name)):
        missing = [service.__name__ for service in cls.requires if service not in owner]
        if missing:
            raise ModuleError(f"module {cls.name} requires {missing[0]}, which no enabled module provides")
        graph[cls] = [owner[service] for service in cls.requires]
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        ring = " → ".join(cls.name for cls in exc.args[1])
        raise ModuleError(f"modules require one another in a ring: {ring}") from exc


class Registry:
    """The running modules of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._running: list[Module] = []

    @property
    def modules(self) -> tuple[Module, ...]:
        """Running modules in start order."""
        return tuple(self._running)

    def module(self, kind: type[M]) -> M:
        """The running module of a class, for tests and tools; modules meet at services. LookupError when there is none."""
        for module in self._running:
            if isinstance(module, kind):
                return module
        raise LookupError(f"no module {kind.name} is running")

    async def start(self, classes: Iterable[type[Module]], configs: dict[str, object]) -> None:
        """Migrate, construct, start and register modules, in order."""
        for cls in start_order(classes):
            await migrate(self._kernel.db, cls.name, cls.migrations)
            module = cls(self._kernel, configs.get(cls.name) or cls.Config())
            await module.start()
            for service in cls.provides:
                self._kernel.provide(service, module)
            self._register(module)
            self._running.append(module)

    def _register(self, module: Module) -> None:
        kernel = self._kernel
        for name in dir(type(module)):
            marks = getattr(getattr(type(module), name), "__beamish__", ())
            for mark in marks:
                method = getattr(module, name)
                if isinstance(mark, HookMark):
                    row = Row(mark.at, module.name, method, mark.only, about=mark.about)
                    kernel.hooks[mark.point].add(row)
                elif isinstance(mark, IqMark):
                    kernel.iq.add(mark.type, mark.tag, mark.scope, module.name, method)
                elif isinstance(mark, NonzaMark):
                    kernel.nonzas[mark.tag] = NonzaHandler(module.name, mark.early, method)
                elif isinstance(mark, EarlyIqMark):
                    kernel.early_iqs[mark.tag] = method
                elif isinstance(mark, CommandMark):
                    kernel.commands.add(Command.of(mark, module.name, method, module))

    async def stop(self) -> None:
        """Stop and unregister modules in reverse order. A module that fails to stop does not keep others running."""
        while self._running:
            module = self._running.pop()
            try:
                await module.tasks.close()
                await module.stop()
            except Exception:
                log.exception("module_stop_failed", owner=module.name)
            self._kernel.hooks.remove(module.name)
            self._kernel.iq.remove(module.name)
            self._kernel.commands.remove(module.name)
