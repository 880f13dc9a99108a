"""What a feature is: one class in one file of `beamish.modules`.

The class head declares everything about it as data; decorators mark methods; the registry binds them at start and takes
them away at stop. `docs/xeps.md`, disco, the configuration model and the commands come from these declarations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from beamish.core.commands import Access, CommandMark
from beamish.core.events import Context
from beamish.core.hooks import STANZAS, HookPoint
from beamish.core.sessions import Link
from beamish.core.tasks import TaskGroup
from beamish.storage.api import Database, Migration
from beamish.stream.features import StreamFeature
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

if TYPE_CHECKING:
    from beamish.core.disco import DiscoItem, DiscoNode
    from beamish.core.kernel import Kernel

F = TypeVar("F", bound=Callable[..., Any])


class ModuleConfig(BaseModel):
    """No options."""

    # The docstring is what the reference says of modules that use this as it is. Base of the others: frozen, nothing unknown.

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Xep:
    """Which specification a module implements: number, version, since which release of ours, how complete.

    `status` is `complete` or `partial`; `note` says what is missing.
    """

    number: int
    version: str
    since: str = "0.1"
    status: str = "complete"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """A disco identity (XEP-0030 §3.1)."""

    category: str
    type: str
    name: str = ""


class Scope(Flag):
    """To whom an IQ may be addressed for a handler to see it."""

    SERVER = auto()
    """One of our bare domains."""
    ACCOUNT = auto()
    """A local account's bare JID, or no address at all (then it is the sender's own account)."""
    OWN = auto()
    """Only the sender's own account; whoever asks another's gets `forbidden`, whether or not there is one (RFC 6121 §2.1.5)."""
    NO_ACCOUNT = auto()
    """A bare JID of ours that is no account, in addition to the above: for those who must answer as if it were one."""
    ANY = SERVER | ACCOUNT


IqAnswer = Stanza | None
IqHandler = Callable[[Context], IqAnswer | Awaitable[IqAnswer]]


@dataclass(frozen=True, slots=True)
class IqMark:
    """A method handles IQs of one type with one payload."""

    type: str
    tag: str
    scope: Scope

    def __post_init__(self) -> None:
        _check_tag(self.tag)


@dataclass(frozen=True, slots=True)
class HookMark:
    """A method listens on a hook."""

    point: HookPoint[Any]
    at: int
    only: frozenset[str] = STANZAS
    about: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NonzaMark:
    """A method handles a top-level element that is no stanza."""

    tag: str
    early: bool

    def __post_init__(self) -> None:
        _check_tag(self.tag)


@dataclass(frozen=True, slots=True)
class NonzaHandler:
    """A registered handler of `NonzaMark`: `call(link, element)`."""

    owner: str
    early: bool
    call: Callable[[Link, Element], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class EarlyIqMark:
    """A method answers IQs before authentication."""

    tag: str

    def __post_init__(self) -> None:
        _check_tag(self.tag)


def _check_tag(tag: str) -> None:
    """Anything else would never match, and nobody would be told."""
    namespace, brace, local = tag.partition("}")
    if not (namespace.startswith("{") and len(namespace) > 1 and brace and local):
        raise ValueError(f"{tag!r} is not in Clark notation: {{namespace}}name")


def _mark(method: F, mark: object) -> F:
    marks = list(getattr(method, "__beamish__", ()))
    marks.append(mark)
    method.__beamish__ = tuple(marks)  # type: ignore[attr-defined]
    return method


def on(
    point: HookPoint[Any],
    at: int = 50,
    *,
    only: Iterable[str] = STANZAS,
    about: Iterable[str] = (),
) -> Callable[[F], F]:
    """Listen on a hook. Lower `at` is earlier; anything but 50 wants a comment that says why.

    `only` (names of stanzas) and `about` (tags of their children) keep fast what does not concern the handler; see
    `hooks.Row`.
    """
    return lambda method: _mark(method, HookMark(point, at, frozenset(only), frozenset(about)))


def iq(*, get: str | None = None, set: str | None = None, scope: Scope = Scope.ANY) -> Callable[[F], F]:
    """Answer IQs whose payload has this tag (Clark notation). The method returns the reply, or None if it sent its own.

    It may be a coroutine function. Raise `StanzaError` for an error reply.
    """

    def decorate(method: F) -> F:
        if get is not None:
            _mark(method, IqMark("get", get, scope))
        if set is not None:
            _mark(method, IqMark("set", set, scope))
        return method

    return decorate


def nonza(tag: str, *, early: bool = False) -> Callable[[F], F]:
    """Handle a top-level element that is no stanza: the method gets the `Link` and the element.

    With `early` it may also arrive between authentication and resource binding. It may be a coroutine function; then
    the connection waits for it. Raise `StreamError` to close the stream.
    """
    return lambda method: _mark(method, NonzaMark(tag, early))


def early_iq(tag: str) -> Callable[[F], F]:
    """Handle IQs with this payload before authentication: the method gets the `Link` and the stanza, returns the reply."""
    return lambda method: _mark(method, EarlyIqMark(tag))


def command(
    name: str,
    summary: str,
    *,
    node: str = "",
    form_type: str = "",
    access: Access | Callable[[Any], Access] = Access.ADMIN,
    live: bool = False,
    prefill: str = "",
) -> Callable[[F], F]:
    """Declare an administrative command: keyword arguments in, JSON-able result out, `StanzaError` for failures.

    `node` is prescribed by a specification, `access` may be found out from the module, `prefill` names the method that
    says what the form shows; for the rest and for parameters see `core.commands`.
    """
    return lambda method: _mark(method, CommandMark(name, summary, node, form_type, access, live, prefill))


class Module:
    """Base class of every feature.

    `name` is the key in `[modules]`. `default` says whether it runs unless disabled. `requires` and `provides` are
    Protocols of `core.services`. `essential` modules cannot be disabled.
    """

    name: ClassVar[str]
    default: ClassVar[bool] = True
    essential: ClassVar[bool] = False
    outermost: ClassVar[bool] = False
    """Starts before all others, and so stops when nobody else can send anything any more."""
    xeps: ClassVar[tuple[Xep, ...]] = ()
    features: tuple[str, ...] = ()
    """Disco features of the server's domains. A module may find them out when it starts, as those of accounts and streams."""
    account_features: tuple[str, ...] = ()
    """Disco features of accounts (bare JIDs)."""
    identities: ClassVar[tuple[Identity, ...]] = ()
    account_identities: ClassVar[tuple[Identity, ...]] = ()
    keeps_for_accounts: ClassVar[bool] = False
    """What it announces for accounts is about things that it keeps for them: anonymous ones do not announce it."""
    stream_features: tuple[StreamFeature, ...] = ()
    requires: ClassVar[tuple[type, ...]] = ()
    provides: ClassVar[tuple[type, ...]] = ()
    migrations: ClassVar[tuple[Migration, ...]] = ()

    Config: ClassVar[type[ModuleConfig]] = ModuleConfig

    def __init__(self, kernel: Kernel, config: Any) -> None:
        self.kernel = kernel
        self.config: Any = config
        self.db: Database = kernel.db
        self.tasks = TaskGroup(self.name)

    async def start(self) -> None:
        """Called once, after migrations and after everything in `requires` has started."""

    async def ready(self) -> None:
        """Called once, after every module has started and stanzas can be routed; clients cannot connect yet."""

    async def stop(self) -> None:
        """Called once, in reverse order, after the last session was closed (or left to be resumed later)."""

    # ---- service discovery ------------------------------------------------------------------------------------------

    def disco_items(self, at: JID, asker: JID) -> Iterable[DiscoItem] | Awaitable[Iterable[DiscoItem]]:
        """What this module adds to the items of one of our domains, or of a local account, as `asker` may see them.

        `at` is bare. The account may not exist, and `asker` may be a stranger to it: show nothing then that is not public.
        """
        return ()

    def disco_forms(self, domain: str) -> Iterable[Element]:
        """Forms of type `result` that this module adds to a domain's information (XEP-0128); asked for once."""
        return ()

    def disco_node(self, at: JID, node: str, asker: JID) -> DiscoNode | Awaitable[DiscoNode | None] | None:
        """A node (never "") of one of our domains or of a local account, or None if it is not this module's.

        None also for a node that `asker` must not know of. As for the rest, see `disco_items`.
        """
        return None

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return asyncio.get_running_loop()
