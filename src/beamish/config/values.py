"""The kinds of value an option may have beyond numbers and text: listening addresses, domains, JIDs, database URLs.

Each reads the text of the file and raises `ValueError` with a sentence that says what is allowed; `load` adds where.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, GetPydanticSchema
from pydantic_core import CoreSchema, core_schema

from beamish.net.address import parse_address
from beamish.xmpp.jid import JID, JidMalformed


class Listen(str):
    """An address to listen on, `host:port`; it is its own text, with the parts beside it.

    `[::]` and `*` mean every address of the machine, IPv4 included. Port 0 lets the system choose one.
    """

    __slots__ = ("host", "port")

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[::]:5222`, `*:5222`, `0.0.0.0:5222` or `localhost:0`; raises `ValueError` saying which part is wrong."""
        host, port = parse_address(text)
        address = cls(text)
        address.host = host
        address.port = port
        return address


def domain_name(text: str) -> str:
    """The prepared form of a domain (RFC 7622 §3.2: IDNA, lower case); raises `ValueError` if it is none."""
    name, colon, port = text.rpartition(":")
    if colon and port.isdigit() and "[" not in name:
        raise ValueError("must be a domain alone, without a port")
    jid = _jid(text)
    if jid.local or jid.resource:
        raise ValueError("must be a domain alone, without anything before an @ or after a /")
    return str(jid)


def account_address(text: str) -> JID:
    """The JID of an account, `local@domain`; raises `ValueError` for a bare domain or one with a resource."""
    jid = _jid(text)
    if not jid.local or jid.resource:
        raise ValueError("must be the address of an account, such as admin@example.org")
    return jid


def _jid(text: str) -> JID:
    try:
        return JID.parse(text)
    except JidMalformed as error:
        raise ValueError(f"is not a valid address (RFC 7622): {error}") from None


def database_url(text: str) -> str:
    """Check `sqlite:///absolute/path` or `sqlite:relative/path`; the empty text means beamish.db under data_dir."""
    if text:
        url = urlsplit(text)
        if url.scheme != "sqlite":
            raise ValueError("the only kind of database is SQLite: sqlite:///var/lib/beamish/beamish.db")
        if url.netloc or url.query or url.fragment or url.path.endswith("/") or not url.path:
            raise ValueError(
                "must name a file, with three slashes for a path from the root: sqlite:///path/to/beamish.db"
            )
    return text


def database_path(url: str) -> Path:
    """The file that a checked database URL names; relative if the URL is."""
    return Path(unquote(urlsplit(url).path))


def _text(read: Callable[[str], Any]) -> GetPydanticSchema:
    """A pydantic type that is text in the file and whatever `read` makes of it in the program."""

    def schema(_source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(read, core_schema.str_schema(max_length=4096))

    return GetPydanticSchema(schema)


Address = Annotated[Listen, _text(Listen.parse)]
Domain = Annotated[str, _text(domain_name)]
Account = Annotated[JID, _text(account_address)]
DatabaseUrl = Annotated[str, _text(database_url)]
Count = Annotated[int, Field(ge=1, le=2**53)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
