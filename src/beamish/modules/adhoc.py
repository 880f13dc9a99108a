"""XEP-0050: the command catalogue as ad-hoc commands of our domains, and for each user at the own account as well.

Whoever may run a command sees it in the list and may run it; its form is made from its parameters. Every command has
one stage: a form to fill in, if it wants to know anything, then the result. Not here: what the commands do, and
languages other than English: who asks for another one by an `xml:lang` of the `<command/>` gets `bad-locale`, while that
of a stanza, which clients inherit from their stream, is no such request.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field as Option

from beamish.core.commands import Caller, Command, CommandError, Kind, Outcome, Parameter
from beamish.core.disco import DiscoInfo, DiscoItem, DiscoNode
from beamish.core.events import Context
from beamish.core.module import Identity, Module, ModuleConfig, Scope, Xep, iq
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.errors import Kind as ErrorKind
from beamish.xmpp.jid import JID
from beamish.xmpp.payload import forms
from beamish.xmpp.payload.forms import Field, Form, Submission
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, escape_attr, escape_text, make, to_bytes, xml_safe

COMMANDS: Final = "http://jabber.org/protocol/commands"
_ACTIONS: Final = frozenset(("execute", "next", "complete", "cancel", "prev"))
_COMPLETING: Final = frozenset(("execute", "complete"))
_SHOWN: Final = 10_000
"""Values of a field, or lines of a table, in a result; of what is left out a note tells."""
_PER_USER: Final = 20
"""Forms that one user may have open at a time."""


class Config(ModuleConfig):
    """Options of ad-hoc commands."""

    open_forms: int = Option(
        1000, ge=1, le=1_000_000, description="Forms that may be waiting for an answer, of all users together."
    )
    form_seconds: float = Option(900.0, gt=0, le=86_400, description="Seconds in which a form may be filled in.")


@dataclass(frozen=True, slots=True)
class _Open:
    """A form that was handed out."""

    user: JID
    domain: str
    node: str
    until: float


class AdhocModule(Module):
    """Lists and runs the commands of the catalogue."""

    name = "adhoc"
    Config = Config
    xeps = (Xep(50, "1.3.0", note="commands of one stage; texts in English"), Xep(4, "2.13.2"), Xep(68, "1.3.0"))
    features = (COMMANDS, ns.DATA)

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._open: dict[str, _Open] = {}
        self._key = secrets.token_bytes(16)

    # ---- discovery --------------------------------------------------------------------------------------------------

    def disco_node(self, at: JID, node: str, asker: JID) -> DiscoNode | None:
        """The list of commands (§3.2), or one of them. Raises `StanzaError(forbidden)` for one that is not for the asker."""
        if at.local and at != asker.bare:
            return None
        caller = Caller(asker, at.domain)
        if node == COMMANDS:
            listed = tuple(
                DiscoItem(at, command.node, command.summary)
                for command in self.kernel.commands
                if self.kernel.commands.permitted(command, caller)
            )
            return DiscoNode(DiscoInfo((Identity("automation", "command-list", "Commands"),)), listed)
        command = self.kernel.commands.at(node)
        if command is None:
            return None
        if not self.kernel.commands.permitted(command, caller):
            raise StanzaError(Condition.FORBIDDEN)
        identity = Identity("automation", "command-node", command.summary)
        return DiscoNode(DiscoInfo((identity,), (COMMANDS, ns.DATA)))

    # ---- running ----------------------------------------------------------------------------------------------------

    @iq(set=f"{{{COMMANDS}}}command", scope=Scope.SERVER | Scope.OWN)
    async def command(self, ctx: Context) -> Stanza:
        """One step of a command (§3.4), for the domain that was asked, or that of the own account."""
        stanza = ctx.stanza
        assert stanza.sender is not None
        el = stanza.el[0]
        node, action, session = el.get("node", ""), el.get("action", "execute"), el.get("sessionid", "")
        if action not in _ACTIONS:
            raise _refused(Condition.BAD_REQUEST, "malformed-action")
        if not _speaks(el.get(ns.XML_LANG, "")):
            raise _refused(Condition.BAD_REQUEST, "bad-locale")
        command = self.kernel.commands.at(node)
        if command is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such command")
        caller = Caller(stanza.sender, (stanza.to or stanza.sender).domain)
        if not self.kernel.commands.permitted(command, caller):
            raise StanzaError(Condition.FORBIDDEN)
        if session:
            self._check_session(session, stanza.sender, caller.domain, node)
        if action == "cancel":
            if not session:
                raise _refused(Condition.BAD_REQUEST, "bad-sessionid")
            del self._open[session]
            return _answer(stanza, command, session, "canceled")
        if action not in _COMPLETING:
            raise _refused(Condition.BAD_REQUEST, "bad-action")  # there is one stage
        submitted = el.find(forms.X)
        if submitted is not None:
            arguments = _filled_in(command, submitted)
        elif not _asked(command):
            arguments = {}
        elif session:
            raise _refused(Condition.BAD_REQUEST, "bad-payload", "the form is missing")
        else:
            return self._ask(stanza, command, caller)
        return await self._run(stanza, command, caller, session, arguments)

    async def _run(
        self, stanza: Stanza, command: Command, caller: Caller, session: str, arguments: Mapping[str, Any]
    ) -> Stanza:
        form = self._open.pop(session, None)  # once at a time
        try:
            outcomes = await self.kernel.commands.call(command, arguments, caller)
        except CommandError as error:
            # XEP-0133 §5 wants errors of stanzas; the form stays open, so that a mistake in it can be corrected
            if form is not None:
                self._open[session] = form
            raise StanzaError(error.condition or Condition.UNDEFINED_CONDITION, text=xml_safe(str(error))) from error
        session = session or self._new_session(caller.jid, caller.domain, command.node)
        return _answer(stanza, command, session, "completed", _result(command, arguments, outcomes))

    def _ask(self, stanza: Stanza, command: Command, caller: Caller) -> Stanza:
        session = self._begin(stanza, caller.domain, command.node)
        now = command.prefill(caller) if command.prefill is not None else {}
        fields = tuple(_field(parameter, now.get(parameter.name, parameter.default)) for parameter in _asked(command))
        form = (
            Form.of("form", command.form_type, fields, title=command.summary)
            if command.form_type
            else Form("form", fields, command.summary)
        )
        actions = make(f"{{{COMMANDS}}}actions", {"execute": "complete"}, make(f"{{{COMMANDS}}}complete"))
        return _answer(stanza, command, session, "executing", to_bytes(actions) + to_bytes(form.to_xml()))

    # ---- forms that are out -----------------------------------------------------------------------------------------

    def _begin(self, stanza: Stanza, domain: str, node: str) -> str:
        assert stanza.sender is not None
        now = self.kernel.clock.monotonic()
        self._open = {id_: form for id_, form in self._open.items() if form.until > now}
        own = [id_ for id_, form in self._open.items() if form.user.bare == stanza.sender.bare]
        if len(own) >= _PER_USER:
            del self._open[own[0]]  # clients close a window without saying `cancel`: the longest unused makes room
        elif len(self._open) >= self.config.open_forms:
            # That of whoever has most, the new one counted: many users who leave forms open must not shut out the others.
            users = Counter([stanza.sender.bare, *(form.user.bare for form in self._open.values())])
            [(most, _)] = users.most_common(1)
            theirs = (id_ for id_, form in self._open.items() if form.user.bare == most)
            del self._open[next(theirs, next(iter(self._open)))]
        session = self._new_session(stanza.sender, domain, node)
        self._open[session] = _Open(stanza.sender, domain, node, now + self.config.form_seconds)
        return session

    def _new_session(self, user: JID | None, domain: str, node: str) -> str:
        """An id that can be told from made-up ones when nothing is known of the session any more."""
        start = secrets.token_urlsafe(9)
        return f"{start}.{self._seal(start, user, domain, node)}"

    def _seal(self, start: str, user: JID | None, domain: str, node: str) -> str:
        told = json.dumps((start, user, domain, node)).encode()
        return hmac.digest(self._key, told, "sha256").hex()[:24]

    def _check_session(self, session: str, user: JID, domain: str, node: str) -> None:
        start, _, seal = session.partition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(start, user, domain, node).encode()):
            raise _refused(Condition.BAD_REQUEST, "bad-sessionid")
        form = self._open.get(session)
        if form is None or form.until <= self.kernel.clock.monotonic():
            self._open.pop(session, None)
            raise _refused(Condition.NOT_ALLOWED, "session-expired")  # completed, cancelled or out of time


def _asked(command: Command) -> tuple[Parameter, ...]:
    """What a form asks for."""
    return tuple(parameter for parameter in command.parameters if not parameter.console)


def _refused(condition: Condition, reason: str, text: str = "") -> StanzaError:
    """The errors of §4.4."""
    kind = ErrorKind.MODIFY if condition is Condition.BAD_REQUEST else ErrorKind.CANCEL
    return StanzaError(condition, kind, text=text, app=make(f"{{{COMMANDS}}}{reason}"))


def _speaks(lang: str) -> bool:
    """Whether English will do for who asks for this language."""
    return not lang or lang.partition("-")[0].lower() == "en"


def _answer(stanza: Stanza, command: Command, session: str, status: str, content: bytes = b"") -> Stanza:
    head = (
        f"<command xmlns='{COMMANDS}' node='{escape_attr(command.node)}' sessionid='{escape_attr(session)}' "
        f"status='{status}' xml:lang='en'>"
    )
    return stanza.reply(head.encode() + content + b"</command>")


# ---- forms of parameters --------------------------------------------------------------------------------------------


def _field(parameter: Parameter, value: Any) -> Field:
    """The field that asks for a parameter."""
    kind = parameter.kind
    type_ = "text-single" if kind is Kind.NUMBER else kind.value
    if parameter.suggested:
        type_ = "list-single"
    if parameter.each:
        type_ = "jid-multi" if kind is Kind.JID else "text-multi"
    if kind is Kind.LINES and isinstance(value, str):
        value = value.split("\n")
    given = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
    return Field(
        parameter.var,
        type_,
        tuple(_text(one) for one in given),
        parameter.label,
        tuple(forms.Option(option) for option in parameter.suggested or parameter.options),
        parameter.required,
        datatype="xs:integer" if kind is Kind.NUMBER else "",
        open=bool(parameter.suggested),
    )


def _filled_in(command: Command, el: Element) -> dict[str, Any]:
    """The arguments that a submitted form gives; fields that nobody asked for are passed over."""
    if el.get("type") not in ("submit", "cancel"):  # of which the second is to count as the first (§3.5.1)
        raise _refused(Condition.BAD_REQUEST, "bad-payload", "the form is not of type submit")
    try:
        form = Form.from_xml(el)
    except StanzaError as error:
        raise _refused(Condition.BAD_REQUEST, "bad-payload", error.text) from error
    if form.form_type not in ("", command.form_type):
        raise _refused(Condition.BAD_REQUEST, "bad-payload", "this is another form")
    submission = Submission({f.var: f.values for f in form.fields})
    arguments: dict[str, Any] = {}
    for parameter in _asked(command):
        values = submission.texts(parameter.var)
        if values is None:
            continue
        if parameter.many:
            arguments[parameter.name] = list(values)
        elif parameter.each:
            lines = (line.strip() for value in values for line in value.splitlines())
            arguments[parameter.name] = [line for line in lines if line]
        elif (value := "\n".join(values)) or (parameter.kind is Kind.TEXT and isinstance(parameter.default, str)):
            # a line that was left empty says nothing, unless the empty text is one of the answers
            arguments[parameter.name] = value
    try:
        command.arguments(arguments)
    except CommandError as error:
        raise _refused(Condition.BAD_REQUEST, "bad-payload", xml_safe(str(error))) from error
    return arguments


# ---- forms of results -----------------------------------------------------------------------------------------------


def _result(command: Command, arguments: Mapping[str, Any], outcomes: Sequence[Outcome]) -> bytes:
    """What is said at the end: a note, a form of results, or a table."""
    values = [outcome.value for outcome in outcomes]
    extra = [outcome.payload for outcome in outcomes if outcome.payload is not None]
    if len(values) == 1 and isinstance(values[0], dict) and len(extra) < 2:
        form = _of(command, tuple(_shown(command, key, value) for key, value in values[0].items()))
        return _with_payload(form, extra) + _left_out(values[0].values())
    if len(values) == 1:
        values = values[0] if isinstance(values[0], list) else values
    if extra:
        return b"".join(
            _with_payload(_of(command, tuple(_shown(command, k, v) for k, v in o.value.items())), [o.payload])
            for o in outcomes
            if o.payload is not None
        )
    rows = [value for value in values if isinstance(value, dict)]
    if rows:
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        reported = tuple(Field(_var(command, key), "text-single", (), _label(key)) for key in columns)
        items = tuple(tuple(_shown(command, key, row.get(key)) for key in columns) for row in rows[:_SHOWN])
        return to_bytes(Form("result", (), command.summary, "", reported, items).to_xml()) + _left_out([rows])
    text = "\n".join(_text(value) for value in values if value is not None) or "Done."
    return f"<note type='info'>{escape_text(text)}</note>".encode()


def _left_out(values: Iterable[Any]) -> bytes:
    most = max((len(value) for value in values if isinstance(value, list | tuple)), default=0)
    return f"<note type='warn'>{most - _SHOWN} more are not shown.</note>".encode() if most > _SHOWN else b""


def _of(command: Command, fields: tuple[Field, ...]) -> Form:
    return (
        Form.of("result", command.form_type, fields) if command.form_type else Form("result", fields, command.summary)
    )


def _with_payload(form: Form, extra: Sequence[Element | None]) -> bytes:
    el = form.to_xml()
    el.extend(payload for payload in extra if payload is not None)
    return to_bytes(el)


def _shown(command: Command, key: str, value: Any) -> Field:
    several = isinstance(value, list | tuple)
    values = tuple(_text(one) for one in value[:_SHOWN]) if several else () if value is None else (_text(value),)
    return Field(_var(command, key), "text-multi" if several else "text-single", values, _label(key))


def _var(command: Command, key: str) -> str:
    """A result that repeats a parameter bears the name of that parameter's field."""
    return next((parameter.var for parameter in command.parameters if parameter.name == key), key)


def _label(key: str) -> str:
    return key.replace("_", " ").replace("-", " ").capitalize()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, dict | list):
        return xml_safe(json.dumps(value, ensure_ascii=False))
    return xml_safe(str(value))
