"""Whether data forms are what XEP-0004 says they are: for forms that a server sends, so SHOULD counts like MUST.

Where two parts of it disagree, the text counts, not the schema (which calls itself descriptive): the title may come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from beamish.xmpp import ns
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.xml import Element

_SPACE: Final = f"{{{ns.DATA}}}"
X: Final = f"{_SPACE}x"
_VALIDATE: Final = "{http://jabber.org/protocol/xdata-validate}"
_TYPES: Final = frozenset(("form", "submit", "cancel", "result"))
_SEVERAL: Final = frozenset(("list-multi", "jid-multi", "text-multi", "hidden"))
_LISTS: Final = frozenset(("list-single", "list-multi"))
_FIELD_TYPES: Final = (
    frozenset(("boolean", "fixed", "jid-single", "list-single", "text-private", "text-single")) | _SEVERAL
)
_BOOLEANS: Final = frozenset(("0", "1", "true", "false"))
_OF_FORM: Final = ("title", "instructions", "field", "reported", "item")
_OF_FIELD: Final = frozenset(("desc", "required", "value", "option"))
_OPEN: Final = ("open", "range", "regex")
"""Validation methods of XEP-0122 with which a list takes other values than its options."""


def forms_in(stanza: Element) -> Iterator[Element]:
    """Every data form in a stanza, those in nested elements too."""
    return stanza.iter(X)


def form_problems(x: Element) -> list[str]:
    """What is wrong with a form: empty if it is as XEP-0004 §3 and XEP-0068 §3 want it, one sentence for each fault if not."""
    return list(_form(x))


def _form(x: Element) -> Iterator[str]:
    kind = x.get("type", "")
    if x.tag != X:
        yield f"{x.tag} is no form"
        return
    if kind not in _TYPES:
        yield f"there is no form type {kind!r}"
    names = [str(el.tag).removeprefix(_SPACE) for el in x]
    known = [name for name in names if not name.startswith("{")]  # others are extensions
    for name in known:
        if name not in _OF_FORM:
            yield f"a form holds no <{name}/>"
    places = [_OF_FORM.index(name) for name in known if name in _OF_FORM]
    if places != sorted(places):
        yield f"its parts are out of order: {known}"
    for once in ("title", "reported"):
        if names.count(once) > 1:
            yield f"there is more than one <{once}/>"
    for name in ("title", "instructions"):
        for el in x.findall(_SPACE + name):
            if _lines(el.text):
                yield f"there is a line break in its {name}"
    fields = x.findall(f"{_SPACE}field")
    reported = x.find(f"{_SPACE}reported")
    items = x.findall(f"{_SPACE}item")
    if kind == "cancel" and (fields or items):
        yield "a form that is cancelled has fields"
    elif not fields and reported is None and kind != "cancel":
        yield "it has no fields"
    yield from _form_type(fields, kind)
    yield from _unique(fields, "the form")
    for field in fields:
        yield from _field(field, kind)
    yield from _table(kind, fields, reported, items)


def _form_type(fields: list[Element], kind: str) -> Iterator[str]:
    """XEP-0068 §3."""
    for place, field in enumerate(fields):
        if field.get("var") == "FORM_TYPE":
            if field.get("type") != "hidden" and not (kind == "submit" and field.get("type") is None):
                yield "FORM_TYPE is not hidden"
            if len(field.findall(f"{_SPACE}value")) != 1 or not _values(field)[0]:
                yield "FORM_TYPE has not one value"
            if place:
                yield "FORM_TYPE is not the first field"


def _unique(fields: list[Element], where: str) -> Iterator[str]:
    named = [field.get("var") for field in fields if field.get("var")]
    for var in sorted({str(var) for var in named if named.count(var) > 1}):
        yield f"{where} has {var} more than once"


def _field(field: Element, kind: str) -> Iterator[str]:
    """§3.2 and §3.3."""
    var, type_ = field.get("var"), field.get("type")
    name = f"field {var!r}"
    if not var and type_ != "fixed":
        yield "a field has no name"
    if type_ is None:
        if kind == "form":
            yield f"{name} has no type"
    elif type_ not in _FIELD_TYPES:
        yield f"{name} has the type {type_!r}, which is none"
    for child in field:
        tag = str(child.tag)
        if tag.startswith(_SPACE) and tag.removeprefix(_SPACE) not in _OF_FIELD:
            yield f"{name} holds <{tag.removeprefix(_SPACE)}/>"
    for once in ("desc", "required"):
        if len(field.findall(_SPACE + once)) > 1:
            yield f"{name} has more than one <{once}/>"
    required = field.find(f"{_SPACE}required")
    if required is not None and (len(required) or required.text):
        yield f"<required/> of {name} is not empty"
    if required is not None and kind != "form":
        yield f"{name} is required, where nothing is asked for"
    if _lines(field.findtext(f"{_SPACE}desc")):
        yield f"there is a line break in the description of {name}"
    yield from _values_of(field, kind, name)
    yield from _options(field, kind, name)


def _values_of(field: Element, kind: str, name: str) -> Iterator[str]:
    type_ = field.get("type")
    values = _values(field)
    # without a type it is inferred; in what is asked for, it counts as text-single
    several = type_ in _SEVERAL or (type_ is None and kind != "form")
    if len(values) > 1 and not several:
        yield f"{name} of type {type_} has {len(values)} values"
    if type_ == "boolean" and not set(values) <= _BOOLEANS:
        yield f"{name} is a boolean of {values}"
    if type_ in ("jid-single", "jid-multi"):
        for value in values:
            if not _is_jid(value):
                yield f"{name} holds {value!r}, which is no address"
        if len(set(values)) < len(values):
            yield f"{name} names an address more than once"
    if type_ != "hidden" and any(_lines(value) for value in values):
        yield f"there is a line break in a value of {name}"


def _options(field: Element, kind: str, name: str) -> Iterator[str]:
    type_ = field.get("type")
    options = field.findall(f"{_SPACE}option")
    if type_ not in _LISTS:
        if options:
            yield f"{name} of type {type_} has options"
        return
    for option in options:
        if [str(el.tag) for el in option] != [f"{_SPACE}value"]:
            yield f"an option of {name} has not one value"
    offered = [option.findtext(f"{_SPACE}value") or "" for option in options]
    labels = [option.get("label") for option in options if option.get("label") is not None]
    if len(set(offered)) < len(offered) or len(set(labels)) < len(labels):
        yield f"two options of {name} are the same"
    validate = field.find(f"{_VALIDATE}validate")
    is_open = validate is not None and any(validate.find(_VALIDATE + method) is not None for method in _OPEN)
    if kind == "form" and not is_open:
        if not options:
            yield f"{name} is a list without options, and not open"
        elif not set(_values(field)) <= set(offered):
            yield f"the value of {name} is none of its options: {_values(field)}"


def _table(kind: str, fields: list[Element], reported: Element | None, items: list[Element]) -> Iterator[str]:
    """§3.4."""
    if reported is None:
        if items:
            yield "there are items without <reported/>"
        return
    if kind != "result":
        yield f"a form of type {kind} has <reported/>"
    if fields:
        yield "it has <reported/>, and fields beside it"
    columns = reported.findall(f"{_SPACE}field")
    if not columns:
        yield "<reported/> is empty"
    yield from _unique(columns, "<reported/>")
    for column in columns:
        if not column.get("var") or not column.get("label") or column.get("type") not in _FIELD_TYPES:
            yield f"column {column.get('var')!r} has not name, label and type"
        if column.find(f"{_SPACE}value") is not None:
            yield f"column {column.get('var')!r} has a value"
    wanted = {column.get("var") for column in columns}
    types = {column.get("var"): column.get("type") for column in columns}
    for item in items:
        cells = item.findall(f"{_SPACE}field")
        yield from _unique(cells, "an item")
        if {cell.get("var") for cell in cells} != wanted:
            yield f"an item has the fields {sorted(str(cell.get('var')) for cell in cells)}, not those of <reported/>"
        for cell in cells:
            type_ = types.get(cell.get("var"))
            values = _values(cell)
            if len(values) > 1 and type_ not in _SEVERAL:
                yield f"a cell of {cell.get('var')!r} has {len(values)} values"
            if type_ == "jid-single" and not all(_is_jid(value) for value in values if value):
                yield f"a cell of {cell.get('var')!r} holds what is no address: {values}"
            if type_ == "boolean" and not set(values) <= _BOOLEANS:
                yield f"a cell of {cell.get('var')!r} is a boolean of {values}"


def _values(field: Element) -> list[str]:
    return [el.text or "" for el in field.findall(f"{_SPACE}value")]


def _lines(text: str | None) -> bool:
    return bool(text) and ("\n" in str(text) or "\r" in str(text))


def _is_jid(text: str) -> bool:
    try:
        JID.parse(text)
    except JidMalformed:
        return False
    return True
