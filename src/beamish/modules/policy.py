"""XEP-0504: what this server does with its users' data, in its service discovery information.

The administrator says it, nobody checks it. What is not said is left out. Not here: forms for gateways, which speak for
themselves, and the location of the data (XEP-0080).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, model_validator
from pydantic import Field as Option

from beamish.core.module import Module, ModuleConfig, Xep
from beamish.xmpp.payload.forms import Field, Form
from beamish.xmpp.xml import Element

POLICY: Final = "urn:xmpp:data-policy:0"
_MULTI: Final = frozenset(("access_policy", "extra_info"))


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("is not a line of text")
    return text


Line = Annotated[str, Option(max_length=2000), AfterValidator(_plain)]
Hours = Annotated[int, Option(ge=0, le=1_000_000)] | Literal["infinite", "unknown"]
Who = Literal["admins", "moderators", "organization_member", "government", "advertisers", "partners", "none"]


class Config(ModuleConfig):
    """What to say about data; nothing is said of what is not set."""

    auth_data: Literal["no_auth", "plain", "hidden", "restricted"] | None = Option(
        None,
        description="What the server gets to see of passwords: `hidden` if clients use SCRAM only.",
        examples=["hidden"],
    )
    data_transmission: Literal["plain", "encrypted", "e2e", "gre"] | None = Option(
        None, description="How data travels to other services.", examples=["encrypted"]
    )
    encryption_algorithm: Line | None = Option(None, description="With what it is encrypted.", examples=["TLSv1.3"])
    data_retention: Hours | None = Option(
        None, description="Hours for which messages and files are kept, `infinite` or `unknown`.", examples=[720]
    )
    data_deletion: bool | None = Option(None, description="Whether users can delete their data.", examples=[True])
    encryption_at_rest: bool | None = Option(None, description="Whether data is kept encrypted.", examples=[True])
    tos: Annotated[str, Option(max_length=1000, pattern=r"^[a-zA-Z][a-zA-Z0-9+.-]*:[^\s<>]+$")] | None = Option(
        None, description="Where the terms of service are.", examples=["https://example.org/terms"]
    )
    data_export: bool | None = Option(None, description="Whether users can get all their data.", examples=[True])
    access_policy: Annotated[tuple[Who, ...], Option(max_length=10)] = Option(
        (), description="Who can get at users' data.", examples=[["admins"]]
    )
    full_erasure: bool | None = Option(
        None, description="Whether users can erase their account with everything.", examples=[True]
    )
    backup_frequency: Annotated[int, Option(ge=0, le=1_000_000)] | None = Option(
        None, description="Hours between backups at most, 0 without any.", examples=[24]
    )
    backup_retention: Hours | None = Option(
        None, description="Hours for which backups are kept, 0 without any, `infinite` or `unknown`.", examples=[720]
    )
    extra_info: Annotated[tuple[Line, ...], Option(max_length=100)] = Option(
        (), description="What else there is to say, line by line.", examples=[["We are a cooperative."]]
    )

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if "none" in self.access_policy and len(self.access_policy) > 1:
            raise ValueError("access_policy: `none` stands alone")
        if self.encryption_algorithm is not None and self.data_transmission not in ("encrypted", "e2e"):
            raise ValueError("encryption_algorithm goes with data_transmission = 'encrypted' or 'e2e'")
        return self


class PolicyModule(Module):
    """Tells the policy."""

    name = "policy"
    Config = Config
    xeps = (Xep(504, "0.1.0", note="as configured, for the server itself"),)

    def disco_forms(self, domain: str) -> Iterable[Element]:
        """A field for everything that is set (§3); nothing without any."""
        said = ((name, getattr(self.config, name)) for name in Config.model_fields)
        fields = tuple(_field(name, value) for name, value in said if value not in (None, ()))
        return (Form.of("result", POLICY, fields).to_xml(),) if fields else ()


def _field(name: str, value: Any) -> Field:
    if isinstance(value, bool):
        return Field(name, "boolean", ("true" if value else "false",))
    if name in _MULTI:
        return Field(name, "list-multi" if name == "access_policy" else "text-multi", tuple(value))
    choice = name in ("auth_data", "data_transmission")
    return Field(name, "list-single" if choice else "text-single", (str(value),))
