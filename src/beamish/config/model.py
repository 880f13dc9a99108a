"""The options of the server, as frozen models: names, types, bounds, defaults, and why each exists.

The descriptions are the documentation: the reference (docs/config.md) and the example file are made from them.
Options of a module are declared by the module itself, and joined to these by `build_root`.
"""

import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from beamish.config.values import Account, Address, Count, DatabaseUrl, Domain, Listen, Seconds, database_path

Mechanism = Literal[
    "SCRAM-SHA-512-PLUS",
    "SCRAM-SHA-512",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-1",
    "PLAIN",
]

Privilege = Literal["none", "get", "set", "both"]

_DEFAULT_MECHANISMS: tuple[Mechanism, ...] = (
    "SCRAM-SHA-512-PLUS",
    "SCRAM-SHA-512",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-1",
    "PLAIN",
)


class ModuleClass(Protocol):
    """What configuration needs to know of a module's class."""

    @property
    def name(self) -> str:
        """The key under `[modules]`."""

    @property
    def default(self) -> bool:
        """Whether it runs without being named in `modules.enable`."""

    @property
    def essential(self) -> bool:
        """Whether the server cannot do without it."""

    @property
    def Config(self) -> type[BaseModel]:
        """The model of its section."""


class Section(BaseModel):
    """A table of the configuration file: immutable once read, and closed, so that a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ---- options that several sections have -------------------------------------------------------------------------------


def _addresses(default: str, description: str) -> Any:
    """Addresses to listen on."""
    return Field((Listen.parse(default),), max_length=100, description=description)


def _domains(most: int, description: str, example: str) -> Any:
    """A list of domains, empty unless something is said."""
    return Field((), max_length=most, description=description, examples=[[example]])


def _rate(default: int, what: str, whose: str) -> Any:
    """How much somebody may send in the long run; goes with a `_burst`."""
    text = f"{what} per second {whose} may send in the long run; the server reads slower beyond that."
    return Field(default, description=text)


def _burst(default: int, what: str, whose: str, more: str = "") -> Any:
    """How much somebody may send at once."""
    return Field(default, description=f"{what} {whose} may send at once before that rate applies{more}.")


# ---- the sections -----------------------------------------------------------------------------------------------------


class LogConfig(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important kind of event that is still logged."
    )
    format: Literal["text", "json"] = Field(
        "text", description="`text` for people, `json` (one object per line) for log collectors."
    )
    wire: bool = Field(
        False,
        description="Log the XML of every stream, for hunting a client's bug. Private messages end up in the log; "
        "passwords and SASL payloads never do.",
    )


class ServerConfig(Section):
    """Who this server is and where it keeps its things."""

    domains: tuple[Domain, ...] = Field(
        ("localhost",),
        min_length=1,
        max_length=1000,
        description="The domains whose accounts live here (virtual hosts).",
        examples=[["example.org"]],
    )
    data_dir: Path = Field(
        Path("var"),
        description="Directory of the database, the certificates made by the server and the control socket. "
        "Created with mode 0700 when missing.",
        examples=["/var/lib/beamish"],
    )
    admins: tuple[Account, ...] = Field(
        (),
        max_length=1000,
        description="Accounts that may use administration commands over XMPP.",
        examples=[["admin@example.org"]],
    )
    log: LogConfig = Field(default_factory=LogConfig, description="What is written to standard error.")
    shutdown_grace: Seconds = Field(
        10.0,
        le=600,
        description="Seconds for sessions to be closed in order after SIGTERM; after that they are cut. "
        "Stored data is safe either way. systemd is asked to wait for it.",
    )


class C2sConfig(Section):
    """Connections of clients."""

    listen: tuple[Address, ...] = _addresses(
        "[::]:5222",
        "Addresses for clients that start in plain text and switch to TLS (STARTTLS). "
        "`[::]` is every address of the machine, IPv4 as well; port 0 picks a free port.",
    )
    direct_tls: tuple[Address, ...] = _addresses(
        "[::]:5223",
        "Addresses for clients that speak TLS from the first byte (XEP-0368).",
    )
    require_tls: bool = Field(
        True,
        description="Refuse logins without TLS. Only switch it off for tests or in a network that you trust: "
        "everything, with PLAIN also the password, is readable on the way.",
    )
    anonymous: bool = Field(
        False,
        description="Offer SASL ANONYMOUS: anybody gets a temporary account. Off, because it opens the server to all.",
    )
    scram_iterations: int = Field(
        10_000,
        ge=4096,
        le=1_000_000,
        description="PBKDF2 rounds for passwords set from now on. More make a stolen database slower to crack and "
        "every login slower for the client, which does this work. RFC 5802 asks for at least 4096.",
    )
    mechanisms: tuple[Mechanism, ...] = Field(
        _DEFAULT_MECHANISMS,
        min_length=1,
        description="SASL mechanisms that may be offered, always in order of strength. "
        "Leave PLAIN out if every client can do SCRAM: then no password ever reaches the server.",
    )
    probe_after: Seconds = Field(
        300.0,
        description="Ask a client that has been silent for this many seconds whether it is still there. "
        "Shorter finds dead connections sooner and costs phones battery.",
    )
    probe_timeout: Seconds = Field(
        60.0, description="Close the connection when that question stays unanswered for this many seconds."
    )


class S2sConfig(Section):
    """Streams with other servers (federation)."""

    enabled: bool = Field(
        True,
        description="Exchange stanzas with other servers. Off: what is for a foreign domain comes back as an error.",
    )
    listen: tuple[Address, ...] = _addresses(
        "[::]:5269",
        "Addresses for servers that start in plain text and switch to TLS (STARTTLS); they always have to.",
    )
    direct_tls: tuple[Address, ...] = _addresses(
        "[::]:5270",
        "Addresses for servers that speak TLS from the first byte (XEP-0368). "
        "They find it by an SRV record `_xmpps-server._tcp`.",
    )
    require_verified_tls: bool = Field(
        True,
        description="The certificate of the other server must be valid and for its domain. Off: dialback alone vouches "
        "for it, which an attacker on the way or in the DNS can deceive.",
    )
    unverified: tuple[Domain, ...] = _domains(
        1000, "Domains, with their subdomains, whose certificates need not be valid.", "old.example"
    )
    trust: Path | None = Field(
        None,
        description="PEM file with the authorities whose certificates are believed. Empty: those of the system.",
        examples=["/etc/beamish/authorities.pem"],
    )
    policy: Literal["open", "closed"] = Field(
        "open",
        description="`open`: every domain may talk to this server except those in `deny`. `closed`: only `allow`.",
    )
    allow: tuple[Domain, ...] = _domains(
        100_000,
        "Domains, with their subdomains, that may talk to this server. The longer entry wins over `deny`.",
        "friends.example",
    )
    deny: tuple[Domain, ...] = _domains(100_000, "Domains, with their subdomains, that may not.", "spam.example")
    hosts: dict[Domain, Address] = Field(
        default_factory=dict,
        max_length=10_000,
        description="Where the server of a domain is, instead of asking the DNS: domain and host:port.",
        examples=[{"b.example": "192.0.2.7:5269"}],
    )
    dialback: bool = Field(
        True,
        description="Accept and use server dialback (XEP-0220) where the certificate alone does not prove the domain. "
        "Off: SASL EXTERNAL is the only way.",
    )
    dns_seconds: Seconds = Field(10.0, le=120, description="Seconds for looking up where a domain's server is.")
    connect_seconds: Seconds = Field(
        10.0, le=120, description="Seconds for one server to accept a connection, over all its addresses."
    )
    negotiation_seconds: Seconds = Field(
        30.0, le=300, description="Seconds for TLS and authentication, in both directions."
    )
    retry_seconds: Seconds = Field(
        20.0,
        le=3600,
        description="Seconds that stanzas wait for a server that cannot be reached, while connecting is tried again and "
        "again. Then they go back to their senders.",
    )
    backoff_seconds: Seconds = Field(
        60.0,
        le=86_400,
        description="Longest pause after such a failure in which the server is not tried at all; it begins with 5 "
        "seconds and doubles. A stream that the server opens to us ends it.",
    )
    idle_seconds: Seconds = Field(
        600.0,
        description="Close a stream on which no stanza went for this many seconds; it is opened again when needed.",
    )
    resume_seconds: Seconds = Field(
        60.0, le=3600, description="Seconds in which a stream that broke off can be taken up again (XEP-0198)."
    )
    queue_stanzas: Count = Field(
        2000, description="Stanzas that may wait for one remote domain; what comes on top goes back to its sender."
    )
    queue_bytes: Count = Field(4_194_304, description="Bytes that may wait for one remote domain.")
    queue_bytes_in_all: Count = Field(
        134_217_728,
        description="Bytes that may wait for all of them; once half is used, a tenth for those of one owner.",
    )
    domains: Count = Field(10_000, description="Remote domains that may be talked to at a time.")
    domains_waited_for: Count = Field(
        500,
        description="Remote domains to which one user may have stanzas waiting for a stream at a time: "
        "anybody can invent domains, and each is looked for. What is for more comes back as an error.",
    )
    streams_per_domain: Count = Field(20, description="Streams one remote domain may have open at a time.")
    stanzas_per_second: Count = _rate(500, "Stanzas", "a remote domain")
    stanza_burst: Count = _burst(10_000, "Stanzas", "a remote domain")
    bytes_per_second: Count = _rate(4_000_000, "Bytes", "a remote domain")
    bytes_burst: Count = _burst(16_000_000, "Bytes", "a remote domain")
    presences: Count = Field(
        200_000,
        description="Pairs of a remote user online and somebody here who was told so, remembered to take it back "
        "when the remote server dies. One with long addresses counts for several: for each 256 characters of both.",
    )


class ComponentConfig(Section):
    """A component of this domain: a gateway, a bot, a service of its own (XEP-0114)."""

    secret: str = Field(
        min_length=1,
        max_length=1000,
        description="What the component proves to know. Anybody who knows it speaks for the domain.",
        examples=["a long random text"],
    )
    domains: tuple[Domain, ...] = _domains(
        1000, "The domains whose accounts the privileges below concern. Empty: all of this server.", "example.org"
    )
    roster: Privilege = Field("none", description="What the component may do with rosters of accounts (XEP-0356).")
    roster_push: bool = Field(
        True, description="Whether a component that may get rosters is told of every change of one (XEP-0356)."
    )
    remote_roster: Literal["none", "ask", "granted"] = Field(
        "none",
        description="Whether the component may manage its own contacts, and only those, in the rosters of users who let it "
        "see their presence (XEP-0321): `ask` each user when the component asks for it, or `granted` unless the user says "
        "otherwise.",
    )
    message: Literal["none", "outgoing"] = Field(
        "none", description="Whether the component may send messages in the name of the server's users (XEP-0356)."
    )
    iq: dict[str, Privilege] = Field(
        default_factory=dict,
        max_length=100,
        description="Requests that the component may send in the name of users, by the namespace of what they ask "
        "(XEP-0356): `none`, `get`, `set` or `both`.",
        examples=[{"http://jabber.org/protocol/pubsub": "both"}],
    )
    presence: Literal["none", "managed_entity", "roster"] = Field(
        "none",
        description="`managed_entity`: the component is told when users of this server come and go; `roster`: and of "
        "everything their contacts show, for which it needs to be able to get rosters (XEP-0356).",
    )

    @model_validator(mode="after")
    def _roster_for_presence(self) -> Self:
        if self.presence == "roster" and self.roster not in ("get", "both"):
            raise ValueError('presence = "roster" needs roster = "get" or "both" (XEP-0356 §7.4)')
        return self


class ComponentsConfig(Section):
    """Where components connect (XEP-0114). Nothing is listened on unless there is a component."""

    listen: tuple[Address, ...] = _addresses(
        "127.0.0.1:5347",
        "Addresses for components. The protocol has no encryption: keep it on this machine.",
    )
    conflict: Literal["replace", "refuse"] = Field(
        "replace",
        description="What a second connection of the same component does: it takes the place of the first, which suits a "
        "component that restarts faster than its old connection is noticed to be dead, or it is refused.",
    )
    connections_per_address: Count = Field(
        100, description="Connections that one address may have open here, all its components together."
    )
    handshake_failures: Count = Field(
        10,
        description="Wrong handshakes that one address may make for one component before it has to wait for the end of "
        "`handshake_failure_window`.",
    )
    handshake_failure_window: Seconds = Field(
        60.0, le=86_400, description="Seconds, counted from the first, in which wrong handshakes are remembered."
    )
    stanzas_per_second: Count = _rate(2000, "Stanzas", "a component")
    stanza_burst: Count = _burst(20_000, "Stanzas", "a component")
    bytes_per_second: Count = _rate(8_000_000, "Bytes", "a component")
    bytes_burst: Count = _burst(32_000_000, "Bytes", "a component")
    queue_stanzas: Count = Field(
        1000, description="Stanzas kept for a component that is away for a moment; beyond that they go back."
    )
    queue_bytes: Count = Field(4_194_304, description="Bytes kept for a component that is away for a moment.")
    away_seconds: Seconds = Field(
        5.0, le=600, description="Seconds that stanzas wait for a component that has just lost its connection."
    )
    probe_after: Seconds = Field(
        300.0, description="Ask a component that has been silent for this many seconds whether it is still there."
    )
    probe_timeout: Seconds = Field(
        60.0,
        description="Close the connection when that question stays unanswered for this many seconds, if the component has "
        "answered one before: not all do.",
    )


class DomainTls(Section):
    """The certificate of one domain."""

    certificate: Path = Field(
        description="PEM file with the certificate and its chain.", examples=["/etc/beamish/example.net/fullchain.pem"]
    )
    key: Path = Field(
        description="PEM file with the private key, unencrypted.", examples=["/etc/beamish/example.net/key.pem"]
    )


class TlsConfig(Section):
    """Certificates. With nothing here, the server makes a self-signed one under data_dir."""

    certificate: Path | None = Field(
        None,
        description="PEM file with the certificate and its chain, for every domain without an entry of its own.",
        examples=["/etc/beamish/fullchain.pem"],
    )
    key: Path | None = Field(
        None,
        description="PEM file with the private key of that certificate, unencrypted.",
        examples=["/etc/beamish/key.pem"],
    )
    minimum: Literal["1.2", "1.3"] = Field(
        "1.2", description="The oldest TLS version accepted. 1.3 shuts out clients older than about 2019."
    )
    domains: dict[Domain, DomainTls] = Field(
        default_factory=dict,
        description="Certificates for single domains, chosen by the name the client asks for (SNI).",
    )


class StorageConfig(Section):
    """The database."""

    url: DatabaseUrl = Field(
        "",
        description="Where the database is: `sqlite:///` and an absolute path. Empty: `beamish.db` under data_dir.",
        examples=["sqlite:///var/lib/beamish/beamish.db"],
    )
    synchronous: Literal["full", "normal"] = Field(
        "full",
        description="`full`: what the server acknowledged survives a power cut. `normal`: it survives a crash of the "
        "server, but a power cut may take the last moments; commits are cheaper.",
    )


class LimitsConfig(Section):
    """Every bound of the server. Reaching one costs the one who reached it, never the others."""

    stanza_bytes: int = Field(
        262_144,
        ge=10_000,
        le=67_108_864,
        description="Largest stanza of a client, in bytes: each connection may hold one in memory. "
        "RFC 6120 §13.12 forbids less than 10000.",
    )
    depth: int = Field(
        64,
        ge=8,
        le=250,
        description="Deepest nesting of elements in a stanza; real ones stay below 20. Guards whoever walks the tree.",
    )
    elements: Count = Field(
        2000,
        description="Elements in one stanza: a tree takes many times the memory of its text, "
        "so bytes alone do not bound it.",
    )
    attributes: Count = Field(
        256, description="Attributes of one element, as duplicates must be looked for among all of them."
    )
    unauthenticated_bytes: int = Field(
        32_768,
        ge=10_000,
        le=67_108_864,
        description="Bytes a client may send in all before it has logged in; a login takes about 2000.",
    )
    unauthenticated_seconds: Seconds = Field(
        30.0, description="Seconds to log in, so that idle strangers do not hold connections."
    )
    stanzas_per_second: Count = _rate(200, "Stanzas", "a session")
    stanza_burst: Count = _burst(2000, "Stanzas", "a session", ": clients log in with a burst")
    bytes_per_second: Count = _rate(1_000_000, "Bytes", "a session")
    bytes_burst: Count = _burst(4_000_000, "Bytes", "a session", "; at least one largest stanza")
    connections_per_address: Count = Field(
        200,
        description="Connections from one IP address (for IPv6, one /64 network). Raise it when many people share "
        "an address.",
    )
    login_failures_per_address: Count = Field(
        30,
        description="Failed logins from one address within the window before more are refused: "
        "slows down guessing over many accounts.",
    )
    login_failures_per_account: Count = Field(
        20,
        description="Failed logins to one account within the window before more are refused: "
        "slows down guessing from many addresses.",
    )
    login_failure_window: Seconds = Field(
        300.0, description="Seconds after which a failed login is forgotten; also how long a lock-out can last."
    )
    sasl_attempts: Count = Field(
        5, description="Failed logins on one connection before it is closed. RFC 6120 §6.4.5 asks for 2 to 5."
    )
    unsent_bytes: Count = Field(
        8_388_608,
        description="Bytes waiting to be sent to one session; a client that reads slower than that is disconnected, "
        "as memory is shared by all.",
    )
    resources_per_account: Count = Field(
        20, description="Sessions of one account at a time: each costs memory and a copy of every presence."
    )
    xml_names: Count = Field(
        300_000,
        description="Distinct element and attribute names the process will learn. The XML library keeps each one for "
        "ever, so without a bound clients could fill the memory with invented names.",
    )
    xml_names_per_account: Count = Field(
        5000,
        description="Distinct new names one account may bring in an hour, so that no one uses up that store alone.",
    )
    roster_items: Count = Field(
        2000, description="Contacts in one roster: the whole roster is sent at login, presence goes to every contact."
    )
    roster_bytes: Count = Field(
        524_288,
        description="Bytes of all addresses, names and groups of one roster, which is in memory and sent as a whole; "
        "2000 contacts of an ordinary kind take a quarter of it.",
    )
    roster_groups_per_item: Count = Field(32, description="Groups one contact may be in.")
    roster_name_bytes: Count = Field(
        1023, description="Length of a contact's name in bytes, as long as any part of a JID."
    )
    roster_group_bytes: Count = Field(1023, description="Length of a group's name in bytes.")
    directed_presence: Count = Field(
        1000,
        description="Addresses a session has sent directed presence to (rooms, for example), "
        "which must be told when it goes offline.",
    )


class ModulesConfig(Section):
    """Which modules run; each has a table of its own below this one."""

    known: ClassVar[Mapping[str, bool]] = {}
    """Every module that exists, in the order given to `build_root`: name → runs by default."""

    essential: ClassVar[frozenset[str]] = frozenset()
    """Modules that cannot be disabled."""

    enable: tuple[str, ...] = Field((), description="Modules to run on top of the default ones.")
    disable: tuple[str, ...] = Field((), description="Default modules that are not to run.")

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the modules that are to run, in the order given to `build_root`."""
        return tuple(
            name
            for name, default in self.known.items()
            if name not in self.disable and (default or name in self.enable)
        )

    def __getitem__(self, name: str) -> Any:
        """The options of a module, an instance of its `Config`; raises `KeyError` for a module that does not exist."""
        if name not in self.known:
            raise KeyError(name)
        return getattr(self, name)


class Config(Section):
    """The whole file. `modules` has a field per module in the classes that `build_root` makes."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    c2s: C2sConfig = Field(default_factory=C2sConfig)
    s2s: S2sConfig = Field(default_factory=S2sConfig)
    component_listener: ComponentsConfig = Field(default_factory=ComponentsConfig)
    components: dict[Domain, ComponentConfig] = Field(
        default_factory=dict, max_length=1000, description="The components, each a subdomain or a domain of its own."
    )
    tls: TlsConfig = Field(default_factory=TlsConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    modules: ModulesConfig = Field(default_factory=ModulesConfig)

    @property
    def database(self) -> Path:
        """The database file: what `storage.url` names, else beamish.db under data_dir."""
        return database_path(self.storage.url) if self.storage.url else self.server.data_dir / "beamish.db"


def build_root(module_classes: Iterable[ModuleClass]) -> type[Config]:
    """A `Config` whose `modules` table has a field for each module class, of the class's own `Config`.

    The same classes give the same root, so that configurations read at different times compare equal.
    Raises `ValueError` when two modules share a name or one is called like an option of `[modules]`.
    """
    return _build_root(tuple(module_classes))


@lru_cache(maxsize=8)
def _build_root(module_classes: tuple[ModuleClass, ...]) -> type[Config]:
    known: dict[str, bool] = {}
    essential: set[str] = set()
    fields: dict[str, Any] = {}
    for module in module_classes:
        if module.name in known or module.name in ModulesConfig.model_fields:
            raise ValueError(f"two modules or options are called {module.name!r}")
        known[module.name] = module.default
        if module.essential:
            essential.add(module.name)
        fields[module.name] = (module.Config, Field(default_factory=module.Config))
    with warnings.catch_warnings():
        # A module may be called like a method of a model ("register", "copy"); nobody calls those on this class.
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute", category=UserWarning)
        modules = create_model("ModulesConfig", __base__=ModulesConfig, __doc__=ModulesConfig.__doc__, **fields)
    modules.known = known
    modules.essential = frozenset(essential)
    return create_model(
        "Config", __base__=Config, __doc__=Config.__doc__, modules=(modules, Field(default_factory=modules))
    )
