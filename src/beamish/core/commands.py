"""Administrative commands: declared once in modules (`@command`), offered everywhere.

The command line, the control socket and ad-hoc commands (XEP-0050) all go by this catalogue: what a command is called,
what it wants to know, who may run it. A command's parameters come from the signature of its method:

    @command("user.disable", "Lock an account", node=ADMIN + "disable-user")
    async def disable(self, jid: Annotated[JID, Param("The account", var="accountjids", each=True)]) -> dict[str, str]:

`str`, `int`, `bool`, `JID`, `list[JID]`, `list[str]` (lines of a text), `Literal[…]`, and each of them `| None`. A
parameter called `caller` is not asked for: it gets the `Caller`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import structlog

from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.xml import Element

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

ADMIN: Final = "http://jabber.org/protocol/admin"
"""Form type and prefix of the nodes of XEP-0133."""
MAX_EACH: Final = 1000
"""How many values a parameter that stands for several runs may have."""


class CommandError(Exception):
    """A command could not be carried out; the text is for the administrator. `condition` is set if there is a fitting one."""

    def __init__(self, text: str, condition: Condition | None = None) -> None:
        super().__init__(text)
        self.condition = condition


class Access(Enum):
    """Who may run a command."""

    ADMIN = "administrators"
    USER = "every account"


class Kind(Enum):
    """What a parameter is; the value is its type of field in a form (XEP-0004 §3.3)."""

    TEXT = "text-single"
    SECRET = "text-private"
    LINES = "text-multi"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "list-single"
    JID = "jid-single"
    JIDS = "jid-multi"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who runs a command, and where. `jid` is None for whoever has the machine: the command line."""

    jid: JID | None = None
    domain: str = ""
    """The domain that was asked, "" for all of them."""


CONSOLE: Final = Caller()


@dataclass(frozen=True, slots=True)
class Param:
    """What an annotation may say of a parameter, besides its type.

    `var` is the field's name in forms, if another one is prescribed. With `each` several values may be given, and the
    command is run for each. `console`: forms do not ask for it, only the command line does. `suggested` are values that
    forms offer to choose from; others will do as well.
    """

    label: str = ""
    var: str = ""
    kind: Kind | None = None
    each: bool = False
    console: bool = False
    suggested: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a command, as the catalogue knows it."""

    name: str
    label: str
    var: str
    kind: Kind
    required: bool
    default: Any = None
    options: tuple[str, ...] = ()
    each: bool = False
    console: bool = False
    many: bool = False
    """The method itself takes a list."""
    address: bool = False
    """The method wants `JID`s, and not their text."""
    suggested: tuple[str, ...] = ()

    def convert(self, value: Any) -> Any:
        """A value from JSON or a form as the method wants it. Raises `CommandError`."""
        if self.many:
            values = value.split("\n") if isinstance(value, str) else list(value)
            return [self._one(each) for each in values if each != "" or self.kind is Kind.LINES]
        return self._one(value)

    def _one(self, value: Any) -> Any:
        try:
            return self._converted(value)
        except (ValueError, TypeError) as exc:
            raise CommandError(f"{self.var}: {exc}", Condition.NOT_ACCEPTABLE) from exc

    def _converted(self, value: Any) -> Any:
        if self.kind is Kind.BOOLEAN:
            if isinstance(value, bool):
                return value
            if str(value).lower() in ("1", "true", "0", "false"):
                return str(value).lower() in ("1", "true")
            raise ValueError("it must be true or false")
        if self.kind is Kind.NUMBER:
            return int(value)
        if not isinstance(value, str):
            raise TypeError("it must be a text")
        if self.address:
            try:
                return JID.parse(value)
            except JidMalformed as exc:
                raise ValueError(f"{value!r} is not an address: {exc}") from exc
        if self.options and value not in self.options:
            raise ValueError(f"it must be one of {', '.join(self.options)}")
        return value


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result that needs more than its value: `payload` is put into the result's form (a roster, XEP-0133 §4.8)."""

    value: Any
    payload: Element | None = None


@dataclass(frozen=True, slots=True)
class CommandMark:
    """A method is a command; see `command`."""

    name: str
    summary: str
    node: str = ""
    form_type: str = ""
    access: Access | Callable[[Any], Access] = Access.ADMIN
    live: bool = False
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the catalogue. `run` takes keyword arguments and returns something JSON can carry, or an `Outcome`.

    `node` is its name as an ad-hoc command, `form_type` the type of its forms. `live`: it makes no sense without a
    running server. `prefill` gives what the form shows to begin with.
    """

    name: str
    summary: str
    owner: str
    run: Callable[..., Awaitable[Any] | Any]
    node: str = ""
    form_type: str = ""
    access: Access = Access.ADMIN
    live: bool = False
    prefill: Callable[[Caller], Mapping[str, Any]] | None = None
    parameters: tuple[Parameter, ...] = ()
    wants_caller: bool = False

    @classmethod
    def of(cls, mark: CommandMark, owner: str, method: Callable[..., Any], module: Any = None) -> Command:
        """The command that a marked method is. `module` is None where only the description is wanted."""
        access = mark.access
        if not isinstance(access, Access):
            access = Access.ADMIN if module is None else access(module)
        return cls(
            mark.name,
            mark.summary,
            owner,
            method,
            mark.node or f"urn:beamish:command:{mark.name}",
            mark.form_type,
            access,
            mark.live,
            getattr(module, mark.prefill) if mark.prefill and module is not None else None,
            parameters_of(method),
            "caller" in inspect.signature(method).parameters,
        )

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Checked and converted arguments. Raises `CommandError`."""
        unknown = given.keys() - {p.name for p in self.parameters}
        if unknown:
            raise CommandError(f"{self.name}: there is no parameter {min(unknown)}")
        made = {}
        for parameter in self.parameters:
            value = given.get(parameter.name)
            if value is None:
                if parameter.required:
                    raise CommandError(f"{self.name}: {parameter.var} is missing", Condition.NOT_ACCEPTABLE)
            elif parameter.each and not isinstance(value, str):
                made[parameter.name] = [parameter.convert(one) for one in value]
            else:
                made[parameter.name] = parameter.convert(value)
        return made


def parameters_of(method: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters that a command's method declares. Raises `TypeError` for a type that no form could ask for."""
    hints = get_type_hints(method, include_extras=True)
    found = []
    for name, declared in inspect.signature(method).parameters.items():
        if name not in ("self", "caller"):
            found.append(_parameter(name, hints.get(name, str), declared.default))
    return tuple(found)


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    param = Param()
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        param = next((p for p in more if isinstance(p, Param)), param)
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(h for h in get_args(hint) if h is not type(None))
    options: tuple[str, ...] = ()
    many = get_origin(hint) is list
    item = get_args(hint)[0] if many else hint
    if get_origin(item) is Literal:
        options = get_args(item)
        kind = Kind.CHOICE
    elif item in _KINDS:
        kind = _KINDS[item]
        if many:
            kind = Kind.JIDS if item is JID else Kind.LINES
    else:
        raise TypeError(f"a command cannot ask for {name}: {hint}")
    required = default is inspect.Parameter.empty
    return Parameter(
        name,
        param.label or name.replace("_", " ").capitalize(),
        param.var or name,
        param.kind or kind,
        required,
        None if required else default,
        options,
        param.each,
        param.console,
        many,
        item is JID,
        param.suggested,
    )


_KINDS: Final[dict[Any, Kind]] = {str: Kind.TEXT, int: Kind.NUMBER, bool: Kind.BOOLEAN, JID: Kind.JID}


class Commands:
    """The catalogue of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._commands: dict[str, Command] = {}
        self._nodes: dict[str, Command] = {}

    def add(self, command: Command) -> None:
        """Register a command. Raises `ValueError` if its name or node is taken.

        One that is no module's may come with nothing but a name, a summary and a function.
        """
        if not command.node:
            command = Command.of(CommandMark(command.name, command.summary), command.owner, command.run)
        if command.name in self._commands:
            raise ValueError(f"command {command.name} is declared twice")
        if command.node in self._nodes:
            raise ValueError(f"{command.name} and {self._nodes[command.node].name} have the same node")
        self._commands[command.name] = command
        self._nodes[command.node] = command

    def remove(self, owner: str) -> None:
        """Remove the commands of one owner."""
        self._commands = {n: c for n, c in self._commands.items() if c.owner != owner}
        self._nodes = {c.node: c for c in self._commands.values()}

    def __iter__(self) -> Iterator[Command]:
        return iter(sorted(self._commands.values(), key=lambda c: c.name))

    def get(self, name: str) -> Command | None:
        """The command of this name."""
        return self._commands.get(name)

    def at(self, node: str) -> Command | None:
        """The command of this node (XEP-0050)."""
        return self._nodes.get(node)

    def permitted(self, command: Command, caller: Caller) -> bool:
        """Whether the caller may run the command: administrators all, accounts of ours those that are for everybody.

        An anonymous session is no account: what it would leave behind (an invitation to make one) belongs to nobody.
        """
        jid = caller.jid
        if jid is None or jid.bare in self._kernel.admins:
            return True
        if command.access is not Access.USER or not jid.local or not self._kernel.is_local_domain(jid.domain):
            return False
        return not any(session.anonymous for session in self._kernel.sessions.of(jid.bare).all)

    async def run(self, name: str, arguments: Mapping[str, Any], caller: Caller = CONSOLE) -> Any:
        """Run a command and return what JSON can carry. Raises `CommandError`; see `call`."""
        command = self._commands.get(name)
        if command is None:
            raise CommandError(f"there is no command {name}", Condition.ITEM_NOT_FOUND)
        outcomes = await self.call(command, arguments, caller)
        values = [outcome.value for outcome in outcomes]
        several = any(p.each and isinstance(arguments.get(p.name), list | tuple) for p in command.parameters)
        return values if several else values[0]

    async def call(self, command: Command, arguments: Mapping[str, Any], caller: Caller) -> list[Outcome]:
        """Run a command: once, or for every value of a parameter that may have several, until one fails.

        Raises `CommandError` for an unknown parameter or a wrong argument, when the caller may not, and when it fails.
        """
        if not self.permitted(command, caller):
            raise CommandError(f"{command.name} is not for everybody", Condition.FORBIDDEN)
        made = command.arguments(arguments)
        if command.wants_caller:
            made["caller"] = caller
        many = next((p.name for p in command.parameters if p.each and isinstance(made.get(p.name), list)), None)
        if many is None:
            runs = [made]
        else:
            if not 1 <= len(made[many]) <= MAX_EACH:
                raise CommandError(f"{command.name}: from 1 to {MAX_EACH} at once", Condition.NOT_ACCEPTABLE)
            runs = [{**made, many: value} for value in dict.fromkeys(made[many])]
        outcomes: list[Outcome] = []
        for each in runs:
            try:
                result = command.run(**each)
                if inspect.isawaitable(result):
                    result = await result
            except StanzaError as exc:
                done = f" (done before that: {len(outcomes)} of {len(runs)})" if len(runs) > 1 else ""
                raise CommandError((exc.text or exc.condition.value) + done, exc.condition) from exc
            outcomes.append(result if isinstance(result, Outcome) else Outcome(result))
        log.info("command_run", command=command.name, by=None if caller.jid is None else str(caller.jid))
        return outcomes
