"""Finding, ordering, starting and stopping modules, and the kernel they live in."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

from beamish.core import events, registry
from beamish.core.events import SessionEvent
from beamish.core.module import Module, early_iq, iq, nonza, on
from beamish.core.registry import ModuleError, discover, module_of, select, start_order
from beamish.testing import World
from beamish.testing.plugin import ExpectedErrors


class One(Protocol):
    """A service."""


class Two(Protocol):
    """Another one."""


def module(name_: str, **attributes: object) -> type[Module]:
    return type(name_, (Module,), {"name": name_, **attributes})


def test_what_ships_is_found_by_itself() -> None:
    found = [cls.name for cls in discover()]
    assert found == sorted(found)
    assert {"accounts", "roster", "presence"} <= set(found)


def test_the_name_of_a_module_leads_to_its_file() -> None:
    file = ModuleType("beamish.modules.echo")
    file.__dict__.update(Module=Module, Echo=(echo := module("echo")))
    assert module_of(file) is echo


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "modules.echo must have one subclass of Module, and has 0"),
        ((module("echo"), module("other")), "and has 2"),
        ((type("Nameless", (Module,), {}),), 'modules.echo: Nameless must be called as its file is: name = "echo"'),
        ((module("ping"),), 'must be called as its file is: name = "echo"'),
    ],
)
def test_a_module_that_would_be_overlooked_is_an_error(classes: tuple[type[Module], ...], message: str) -> None:
    file = ModuleType("beamish.modules.echo")
    file.__dict__.update({cls.__name__: cls for cls in classes})
    with pytest.raises(ModuleError, match=re.escape(message)):
        module_of(file)


class Greeter(Module):
    """Of another package."""

    name = "greeter"
    default = False


class Eager(Module):
    """Would run unasked."""

    name = "eager"


class Greedy(Module):
    """Would take the place of options."""

    default = False
    Config = dict  # type: ignore[assignment]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes modules of this file look as if installed packages offered them, by name and class."""

    def offer(**entries: str) -> None:
        found = [EntryPoint(name, f"{__name__}:{value}", "beamish.modules") for name, value in entries.items()]
        monkeypatch.setattr(registry, "entry_points", lambda *, group: found if group == "beamish.modules" else [])
        registry.installed.cache_clear()

    sys.modules.setdefault(__name__, sys.modules[Greeter.__module__])
    yield offer
    registry.installed.cache_clear()


async def test_modules_of_other_packages_run_where_they_are_enabled(offered: Callable[..., None]) -> None:
    offered(greeter="Greeter")
    assert [cls.name for cls in discover()] == [*(cls.name for cls in registry.shipped()), "greeter"]
    async with World() as world:
        assert "greeter" not in [module.name for module in world.kernel.registry.modules]
    for choice in ({"settings": {"modules": {"enable": ["greeter"]}}}, {"extra": [Greeter]}):
        async with World(**choice) as world:
            assert type(world.kernel.registry.module(Greeter)) is Greeter


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"ping": "Greeter"}, 'Greeter must be called as its entry point is: name = "ping"'),
        ({"eager": "Eager"}, "Eager must say default = False"),
        ({"one": "One"}, "One is no subclass of Module"),
        ({"gone": "Gone"}, "module gone cannot be loaded from .*Gone: AttributeError"),
    ],
)
def test_what_other_packages_offer_wrongly_is_an_error(
    offered: Callable[..., None], entries: dict[str, str], message: str
) -> None:
    offered(**entries)
    with pytest.raises(ModuleError, match=message):
        discover()


@pytest.mark.parametrize("name", ["enable", "disable", "active", "known", "model_config", "Greeter", "a b", "", "_x"])
def test_no_other_package_takes_the_name_of_an_option(
    offered: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Greeter, "name", name)
    offered(**{name: "Greeter"})
    with pytest.raises(ModuleError, match=f"Greeter cannot be called '{name}'"):
        discover()


@pytest.mark.parametrize("name", ["greeter", "my-greeter", "my_2nd_greeter"])
def test_names_of_modules_of_other_packages(
    offered: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Greeter, "name", name)
    offered(**{name: "Greeter"})
    assert discover()[-1].name == name


def test_options_of_other_packages_are_options(offered: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Greedy, "name", "greedy", raising=False)
    offered(greedy="Greedy")
    with pytest.raises(ModuleError, match=r"the Config of .*Greedy is no subclass of ModuleConfig"):
        discover()


def test_a_program_is_no_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that ends the process when it is loaded ended every command without a word."""
    (tmp_path / "a_program.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [EntryPoint("program", "a_program:Program", "beamish.modules")]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: found)
    registry.installed.cache_clear()
    with pytest.raises(ModuleError, match="module program cannot be loaded from a_program:Program: SystemExit"):
        discover()


def test_no_other_package_takes_the_name_of_a_module_of_ours(
    offered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Greeter, "name", "ping")
    offered(ping="Greeter")
    with pytest.raises(ModuleError, match="two modules are called ping"):
        discover()


@pytest.mark.parametrize("tag", ["query", "urn:probe:query", "{}query", "{urn:probe}", "{urn:probe"])
@pytest.mark.parametrize("mark", [lambda tag: iq(get=tag), nonza, early_iq])
def test_a_tag_that_would_never_match_is_an_error(mark: Callable[[str], Callable[[Any], Any]], tag: str) -> None:
    with pytest.raises(ValueError, match="Clark notation"):
        mark(tag)(lambda self, ctx: None)


def test_selection() -> None:
    classes = [module("a"), module("b", default=False), module("c", essential=True)]
    names = lambda **choice: [cls.name for cls in select(classes, choice.get("on", ()), choice.get("off", ()))]  # noqa: E731
    assert names() == ["a", "c"]
    assert names(on=["b"], off=["a"]) == ["b", "c"]
    with pytest.raises(ModuleError, match="c cannot be disabled"):
        names(off=["c"])


def test_providers_start_first() -> None:
    user = module("a", requires=(One, Two))
    one, two = module("y", provides=(One,), requires=(Two,)), module("z", provides=(Two,))
    assert [cls.name for cls in start_order([user, one, two])] == ["z", "y", "a"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((module("a", requires=(One,)),), "a requires One"),
        ((module("a", provides=(One,)), module("b", provides=(One,))), "both provide One"),
        ((module("a", provides=(One,), requires=(Two,)), module("b", provides=(Two,), requires=(One,))), "ring"),
    ],
)
def test_sets_that_cannot_start_say_why(classes: tuple[type[Module], ...], message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        start_order(classes)


class Probe(Module):
    """Notes its life."""

    name = "probe"
    life: list[str] = []  # noqa: RUF012

    async def start(self) -> None:
        self.life.append("start")

    async def stop(self) -> None:
        self.life.append("stop")
        raise RuntimeError("bug")

    @on(events.session_bound)
    def bound(self, event: SessionEvent) -> None:
        self.life.append(str(event.session.jid))

    @iq(get="{urn:probe}q")
    def query(self, ctx: events.Context) -> object:
        return ctx.stanza.reply()


async def test_a_modules_marks_live_as_long_as_it_does(expected_errors: ExpectedErrors) -> None:
    expected_errors.add("module_stop_failed")
    Probe.life.clear()
    async with World(extra=[Probe]) as world:
        romeo = await world.login("romeo@example.org/a")
        await romeo.iq("<iq type='get' id='1'><q xmlns='urn:probe'/></iq>")
        kernel = world.kernel
        assert kernel.registry.modules[-1].name == "probe" or any(m.name == "probe" for m in kernel.registry.modules)
        assert type(kernel.registry.module(Probe)) is Probe
    assert Probe.life == ["start", "romeo@example.org/a", "stop"]
    assert not any(row.owner == "probe" for row in kernel.hooks[events.session_bound].rows)
    assert kernel.registry.modules == ()
    with pytest.raises(LookupError, match="probe"):
        kernel.registry.module(Probe)


async def test_services_are_asked_for_by_their_protocol(world: World) -> None:
    provider = object()
    with pytest.raises(LookupError, match="One"):
        world.kernel.service(One)
    assert world.kernel.service_or_none(One) is None
    world.kernel.provide(One, provider)
    assert world.kernel.service(One) is provider


async def test_names_are_granted_by_the_hour(world: World) -> None:
    world.kernel.names.lose(100_000, "romeo@example.org")
    assert world.kernel.names.exhausted("romeo@example.org")
    await world.pass_time(3_601)
    assert not world.kernel.names.exhausted("romeo@example.org")


async def test_a_session_ends_once(world: World) -> None:
    seen: list[str] = []
    from beamish.core.hooks import Row

    world.kernel.hooks[events.session_closed].add(Row(1, "test", lambda event: seen.append(event.reason)))
    romeo = await world.login("romeo@example.org/a")
    [session] = world.kernel.sessions.of(romeo.jid.bare).all
    world.kernel.end_session(session, "first")
    world.kernel.end_session(session, "second")
    assert seen == ["first"]
