"""XEP-0004: data forms, with the form types of XEP-0068 and the data types of XEP-0122.

A `Form` is what we send (or what a peer sent as a form); `Submission` is what came back, read through typed accessors.
Nothing here knows the meaning of a field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.xml import Element, make

X: Final = f"{{{ns.DATA}}}x"
VALIDATE_NS: Final = "http://jabber.org/protocol/xdata-validate"
FORM_TYPE: Final = "FORM_TYPE"
MAX_FIELDS: Final = 200
"""Fields in a form that we read."""
MAX_VALUES: Final = 1000
"""Values of one field that we read."""

_FIELD: Final = f"{{{ns.DATA}}}field"
_VALUE: Final = f"{{{ns.DATA}}}value"
_OPTION: Final = f"{{{ns.DATA}}}option"
_TRUE: Final = frozenset(("1", "true"))
_FALSE: Final = frozenset(("0", "false"))


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of a list field; `label` defaults to the value."""

    value: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One field (XEP-0004 §3.2, §3.3).

    `type` is one of the ten field types, "" to leave it out (submissions and results). `datatype` is an XEP-0122 data
    type (`xs:integer`), `range` the least and the greatest value of it (XEP-0122 §3.2.3), "" for no limit; `open` lets a list
    take other values than its options (§3.2.2). Lines of a `text-multi` are a value each.
    """

    var: str
    type: str = ""
    values: tuple[str, ...] = ()
    label: str = ""
    options: tuple[Option, ...] = ()
    required: bool = False
    desc: str = ""
    datatype: str = ""
    range: tuple[str, str] = ("", "")
    open: bool = False

    @property
    def value(self) -> str:
        """The first value, "" if there is none."""
        return self.values[0] if self.values else ""

    def to_xml(self) -> Element:
        """The `<field/>` element."""
        attrs = {"var": self.var or None, "type": self.type or None, "label": self.label or None}
        el = make(_FIELD, attrs)
        if self.datatype:
            least, greatest = self.range
            limits = {"min": least or None, "max": greatest or None}
            bounds = make(f"{{{VALIDATE_NS}}}range", limits) if least or greatest else None
            method = make(f"{{{VALIDATE_NS}}}open") if self.open else bounds
            el.append(make(f"{{{VALIDATE_NS}}}validate", {"datatype": self.datatype}, method))
        if self.desc:
            el.append(make(f"{{{ns.DATA}}}desc", None, self.desc))
        if self.required:
            el.append(make(f"{{{ns.DATA}}}required"))
        values: Iterable[str] = self.values
        if self.type == "text-multi":
            values = [line for value in values for line in value.splitlines() or ("",)]
        for value in values:
            el.append(make(_VALUE, None, value))
        for option in self.options:
            el.append(make(_OPTION, {"label": option.label or option.value}, make(_VALUE, None, option.value)))
        return el


@dataclass(frozen=True, slots=True)
class Form:
    """A data form: `type` is `form`, `submit`, `result` or `cancel`.

    `reported` and `items` are the table of a search result (XEP-0004 §3.4); then `fields` is empty, even
    without a FORM_TYPE. `instructions` may have several lines.
    """

    type: str
    fields: tuple[Field, ...] = ()
    title: str = ""
    instructions: str = ""
    reported: tuple[Field, ...] = ()
    items: tuple[tuple[Field, ...], ...] = ()

    @classmethod
    def of(cls, type: str, form_type: str, fields: Iterable[Field], *, title: str = "", instructions: str = "") -> Form:
        """A form with its `FORM_TYPE` (XEP-0068) in front."""
        return cls(type, (Field(FORM_TYPE, "hidden", (form_type,)), *fields), title, instructions)

    @property
    def form_type(self) -> str:
        """The `FORM_TYPE`, "" if there is none."""
        return next((f.value for f in self.fields if f.var == FORM_TYPE), "")

    def get(self, var: str) -> Field | None:
        """The first field of this name."""
        return next((f for f in self.fields if f.var == var), None)

    @classmethod
    def from_xml(cls, el: Element) -> Form:
        """Read an `<x xmlns='jabber:x:data'/>`. Raises `StanzaError(bad-request)` for what is no form or too large."""
        if el.tag != X:
            raise StanzaError(Condition.BAD_REQUEST, text="a data form was expected")
        title = el.findtext(f"{{{ns.DATA}}}title") or ""
        instructions = "\n".join(i.text or "" for i in el.iterfind(f"{{{ns.DATA}}}instructions"))
        reported = el.find(f"{{{ns.DATA}}}reported")
        return cls(
            el.get("type", ""),
            _fields(el),
            title,
            instructions,
            () if reported is None else _fields(reported),
            tuple(_fields(item) for item in el.findall(f"{{{ns.DATA}}}item")[:MAX_VALUES]),
        )

    def to_xml(self) -> Element:
        """The `<x/>` element."""
        x = make(X, {"type": self.type})
        if self.title:
            x.append(make(f"{{{ns.DATA}}}title", None, self.title))
        for line in self.instructions.splitlines():
            x.append(make(f"{{{ns.DATA}}}instructions", None, line))
        for f in self.fields:
            x.append(f.to_xml())
        if self.reported:
            x.append(make(f"{{{ns.DATA}}}reported", None, *(f.to_xml() for f in self.reported)))
        for item in self.items:
            x.append(make(f"{{{ns.DATA}}}item", None, *(f.to_xml() for f in item)))
        return x


def _fields(parent: Element) -> tuple[Field, ...]:
    found = parent.findall(_FIELD)
    if len(found) > MAX_FIELDS:
        raise StanzaError(Condition.BAD_REQUEST, text="the form has too many fields")
    return tuple(_field(el) for el in found)


def _field(el: Element) -> Field:
    values = el.findall(_VALUE)
    options = el.findall(_OPTION)
    if len(values) > MAX_VALUES or len(options) > MAX_VALUES:
        raise StanzaError(Condition.BAD_REQUEST, text="a field has too many values")
    var = el.get("var", "")
    type_ = el.get("type", "")
    if not var and type_ != "fixed":
        raise StanzaError(Condition.BAD_REQUEST, text="a field has no name")
    return Field(
        var,
        type_,
        tuple(v.text or "" for v in values),
        el.get("label", ""),
        tuple(Option(o.findtext(_VALUE) or "", o.get("label", "")) for o in options),
        el.find(f"{{{ns.DATA}}}required") is not None,
        el.findtext(f"{{{ns.DATA}}}desc") or "",
    )


@dataclass(frozen=True, slots=True)
class Submission:
    """A submitted form: which fields were given, with which values.

    The accessors answer None where the field was not submitted, and raise `StanzaError(not-acceptable)` naming the field
    where its value cannot be what it should be (XEP-0004 §4).
    """

    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cancelled: bool = False

    @classmethod
    def from_xml(cls, el: Element, form_type: str = "", *, returned: bool = False) -> Submission:
        """Read a form of type `submit` or `cancel`; `returned` also takes one that still has the type `form`.

        With `form_type`, a submission that names another one is refused; naming none is allowed (XEP-0068 §3.3 asks
        for it, clients of before forget it). Raises `StanzaError(bad-request)`.
        """
        form = Form.from_xml(el)
        if form.type == "cancel":
            return cls({}, cancelled=True)
        if form.type != "submit" and not (returned and form.type == "form"):
            raise StanzaError(Condition.BAD_REQUEST, text="the form is not of type submit")
        if form_type and form.form_type not in ("", form_type):
            raise StanzaError(Condition.BAD_REQUEST, text=f"the form is not of FORM_TYPE {form_type}")
        return cls({f.var: f.values for f in form.fields if f.var and f.var != FORM_TYPE})

    def __contains__(self, var: str) -> bool:
        return var in self.fields

    def texts(self, var: str) -> tuple[str, ...] | None:
        """All values as they came."""
        return self.fields.get(var)

    def text(self, var: str) -> str | None:
        """The value of a single-valued field; several values (text-multi) are joined by newlines."""
        values = self.fields.get(var)
        return None if values is None else "\n".join(values)

    def boolean(self, var: str) -> bool | None:
        """A boolean (`1`, `true`, `0`, `false`)."""
        value = self.text(var)
        if value is None:
            return None
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise unacceptable(var, "it must be 0 or 1")

    def integer(self, var: str, least: int = 0, most: int | None = None) -> int | None:
        """A whole number within bounds."""
        value = self.text(var)
        if value is None:
            return None
        if not value.isascii() or not value.removeprefix("-").isdigit() or len(value) > 18:
            raise unacceptable(var, "it must be a whole number")
        number = int(value)
        if number < least or (most is not None and number > most):
            raise unacceptable(var, f"it must be at least {least}" + ("" if most is None else f" and at most {most}"))
        return number

    def choice(self, var: str, allowed: Sequence[str]) -> str | None:
        """One of the values that the form offered."""
        value = self.text(var)
        if value is not None and value not in allowed:
            raise unacceptable(var, f"it must be one of {', '.join(allowed)}")
        return value

    def jids(self, var: str) -> tuple[JID, ...] | None:
        """Addresses, each once, in order."""
        values = self.fields.get(var)
        if values is None:
            return None
        try:
            return tuple(dict.fromkeys(JID.parse(v) for v in values if v))
        except JidMalformed as exc:
            raise unacceptable(var, "it holds something that is not an address") from exc


def unacceptable(var: str, why: str) -> StanzaError:
    """The error for a field whose value cannot be used (XEP-0004 §4)."""
    return StanzaError(Condition.NOT_ACCEPTABLE, text=f"field {var}: {why}")


def boolean(var: str, value: bool, label: str = "") -> Field:
    """A boolean field."""
    return Field(var, "boolean", ("1" if value else "0",), label)


def choice(var: str, value: str, options: Iterable[str | Option], label: str = "") -> Field:
    """A list-single field."""
    offered = tuple(o if isinstance(o, Option) else Option(o) for o in options)
    return Field(var, "list-single", (value,) if value else (), label, offered)
