import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from beamish.config import Config, ConfigProblems, Listen, build_root, load

Load = Callable[[str], Config]


def complaints(load_text: Load, text: str) -> list[str]:
    """What is said about a file, without the directory it lies in."""
    with pytest.raises(ConfigProblems) as caught:
        load_text(text)
    return [text[text.index("beamish.toml:") :] for text in map(str, caught.value.problems)]


TABLE = [
    # what is in the file, where the complaint points, what it must say
    ("[server]\ndomain = ['a.example']", "2: server.domain: unknown key", "did you mean domains?"),
    ("[server]\nx = 1", "2: server.x: unknown key", "(allowed: admins, data_dir, domains, log, shutdown_grace)"),
    ("[server]\nrequire_tls = false", "2: server.require_tls: unknown key", "did you mean c2s.require_tls?"),
    ("[sever]", "1: sever: unknown table", "did you mean server?"),
    (
        "domains = ['a.example']",
        "1: domains: unknown key; did you mean server.domains",
        "allowed: c2s, component_listener",
    ),
    ("[domains]\nx = 1", "1: domains: unknown table", "allowed: c2s, component_listener"),
    ("[server]\nlog.level = 'warn'", "2: server.log.level: must be", 'did you mean "warning"?'),
    (
        "[server]\nlog = {level='info',\\\nformat='xml'}".replace("\\\n", " "),
        "2: server.log.format: must be",
        '"text" or "json"',
    ),
    ("[server]\nlog.level = 3", "2: server.log.level: must be", '"debug", "info", "warning" or "error"'),
    ("[server]\nshutdown_grace = '10'", "2: server.shutdown_grace: must be", "a number, above 0 and at most 600"),
    ("[server]\nshutdown_grace = nan", "2: server.shutdown_grace: must be", "a number"),
    ("[server]\nshutdown_grace = 1979-05-27", "2: server.shutdown_grace: must be", "a number"),
    ("[server]\ndata_dir = 2024-05-27", "2: server.data_dir: must be", "a path"),
    ("[server]\ndomains = 'a.example'", "2: server.domains: must be", "a list of text, at least 1"),
    ("[server]\ndomains = 'a.example'", "2: server.domains: must be", 'did you mean ["…"]?'),
    ("[c2s]\nlisten = 5222", "2: c2s.listen: must be", 'did you mean ["…"]?'),
    ("[c2s]\nlisten = [5222]", "2: c2s.listen[0]: must be", 'must be text; did you mean "…", in quotes?'),
    ("[server]\nshutdown_grace = '10'", "2: server.shutdown_grace: must be", "did you mean a number without quotes?"),
    ("[s2s]\nenabled = 'True'", "2: s2s.enabled: must be true or false", "did you mean true without quotes?"),
    ("[s2s]\nenabled = yes", "2: not valid TOML: Invalid value", "true and false are written small"),
    ("[server]\ndata_dir = /var/lib", "2: not valid TOML: Invalid value", "text stands in quotes"),
    ("[c2s]\nlisten = 127.0.0.1:5222", "2: not valid TOML: Expected newline", "text stands in quotes"),
    ("[server]\ndomains = ['a.example:5222']", "2: server.domains[0]: must be a domain alone, without a port", ""),
    ("[server]\ndomains = []", "2: server.domains: must be", "at least 1"),
    (
        "[server]\ndomains = [\n'ok.example',\n'-bad-.example']",
        "4: server.domains[1]: is not a valid address",
        "RFC 7622",
    ),
    ("[server]\ndomains = ['me@a.example']", "2: server.domains[0]: must be a domain alone", ""),
    (
        "[server]\ndomains = ['a.example',\n'A.example']",
        "3: server.domains[1]: the same domain as server.domains[0]",
        "",
    ),
    ("[server]\nadmins = ['a.example']", "2: server.admins[0]: must be the address of an account", "admin@example.org"),
    ("[server]\nadmins = ['a@b/c']", "2: server.admins[0]: must be the address of an account", ""),
    ("[server]\nadmins = ['@b']", "2: server.admins[0]: is not a valid address", ""),
    ("[c2s]\nlisten = [':::5222']", "2: c2s.listen[0]: ':::5222': an IPv6 address needs brackets", "[::]:5222"),
    ("[c2s]\nlisten = ['[::]']", "2: c2s.listen[0]: '[::]' must have a host and a port", "0.0.0.0:5222"),
    (
        "[c2s]\nlisten = ['localhost:65536']",
        "2: c2s.listen[0]: 'localhost:65536': the port must be a number from 0 to 65535",
        "",
    ),
    ("[c2s]\nlisten = ['localhost:xmpp']", "2: c2s.listen[0]: 'localhost:xmpp': the port must be", ""),
    ("[c2s]\nlisten = ['300.1.1.1:5222']", "2: c2s.listen[0]: '300.1.1.1:5222': '300.1.1.1' is not", ""),
    ("[c2s]\nlisten = ['[1.2.3.4]:5222']", "2: c2s.listen[0]: '[1.2.3.4]:5222': brackets are for IPv6", ""),
    ("[c2s]\nlisten = ['a:1']\ndirect_tls = ['a:1']", "3: c2s.direct_tls[0]: the same address as c2s.listen[0]", ""),
    ("[c2s]\nrequire_tls = 1", "2: c2s.require_tls: must be true or false", ""),
    (
        "[c2s]\nscram_iterations = 1000",
        "2: c2s.scram_iterations: must be a whole number, at least 4096",
        "at most 1000000",
    ),
    ("[c2s]\nmechanisms = ['SCRAM-SHA1']", "2: c2s.mechanisms[0]: must be", 'did you mean "SCRAM-SHA-1"'),
    ("[tls]\ncertificate = 'c.pem'", "2: tls.certificate: needs tls.key beside it", ""),
    ("[tls]\nkey = 'k.pem'", "2: tls.key: needs tls.certificate beside it", ""),
    ("[tls]\nminimum = 1.2", '2: tls.minimum: must be "1.2" or "1.3"', ""),
    ("[tls.domains.'a.example']\nkey = 'k.pem'", '1: tls.domains."a.example".certificate: is missing: a path', ""),
    ("[tls.domains.'a b']\nkey = 'k'\ncertificate = 'c'", '1: tls.domains."a b": is not a valid address', ""),
    (
        "[tls.domains.'a.example']\nkey='k'\ncertificate='c'\n[tls.domains.'A.example']\nkey='k'\ncertificate='c'",
        '4: tls.domains."A.example": the same domain as tls.domains."a.example"',
        "",
    ),
    ("[storage]\nurl = 'postgresql://db'", "2: storage.url: the only kind of database is SQLite", ""),
    ("[storage]\nurl = 'sqlite://db.sqlite'", "2: storage.url: must name a file, with three slashes", ""),
    ("[limits]\nstanza_bytes = 9999", "2: limits.stanza_bytes: must be a whole number, at least 10000", ""),
    ("[limits]\ndepth = true", "2: limits.depth: must be a whole number", ""),
    ("[limits]\nelements = 10.5", "2: limits.elements: must be a whole number, at least 1", ""),
    ("[limits]\nelements = 10000000000000000000000000", "2: limits.elements: must be a whole number", ""),
    ("[limits]\nbytes_burst = 10000", "2: limits.bytes_burst: bytes_burst (10000) must not be below stanza_bytes", ""),
    ("[modules]\nenable = ['registr']", "2: modules.enable[0]: there is no module 'registr'", "did you mean register?"),
    (
        "[modules]\ndisable = ['zz']",
        "2: modules.disable[0]: there is no module 'zz'",
        "(modules: muc, register, routing)",
    ),
    ("[modules]\nenable = ['muc']\ndisable = ['muc']", "2: modules.enable[0]: module 'muc' is both", ""),
    ("[modules]\ndisable = ['routing']", "2: modules.disable[0]: the server cannot do without", "'routing'"),
    ("[modules.mucc]", "1: modules.mucc: unknown module or option", "did you mean muc?"),
    (
        "[modules.muc]\nhistory = 1001",
        "2: modules.muc.history: must be a whole number, at least 0 and at most 1000",
        "",
    ),
    (
        "[modules.register]\npolicy = 'invites'",
        '2: modules.register.policy: must be "invite" or "captcha"',
        '"invite"?',
    ),
    ("modules.muc.host = 5", "1: modules.muc.host: must be text", ""),
    ("[server]\nlog = 'info'", "2: server.log: must be a table", ""),
    ("server = 3", "1: server: must be a table", ""),
    ("[server\n", "1: not valid TOML", ""),
    ("[server]\ndomains = ['a'\n\n", "2: not valid TOML", "at the end of the file"),
    ("a = 1\na = 2", "2: not valid TOML", "Cannot overwrite"),
    ("a = " + "[" * 5000, "1: brackets are nested too deeply", ""),
]


@pytest.mark.parametrize(("text", "place", "detail"), TABLE)
def test_each_mistake_is_named_by_place_key_and_remedy(load_text: Load, text: str, place: str, detail: str) -> None:
    [complaint] = complaints(load_text, text)
    assert complaint.startswith(f"beamish.toml:{place}")
    assert detail in complaint


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(load_text: Load) -> None:
    found = complaints(
        load_text,
        "[server]\ndomains = ['a', 'a']\nadmin = []\n[tls]\nkey = 'k'\n[limits]\ndepth = 1\n[modules]\nenable = ['x']",
    )
    assert [line.split(":")[1] for line in found] == ["2", "3", "5", "7", "9"]


def test_a_secret_is_never_repeated(load_text: Load) -> None:
    secret = "correct horse battery"
    config = load_text(f"[modules.register]\ntoken = '{secret}'")
    assert secret not in repr(config)
    assert config.modules["register"].token.get_secret_value() == secret
    for text in (f"token = ['{secret}']", f"tokn = '{secret}'", f"open = '{secret}'", f"policy = '{secret}'"):
        assert secret not in "".join(complaints(load_text, "[modules.register]\n" + text))


def test_a_file_that_cannot_be_read_is_a_problem_like_any_other(tmp_path: Path) -> None:
    for file, told in ((tmp_path / "absent.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigProblems, match=told):
            load(file, [])
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"[server]\n# caf\xe9\n")
    with pytest.raises(ConfigProblems, match=r"latin.toml:2: is not UTF-8"):
        load(latin, [])


def test_without_a_file_the_defaults_serve_localhost_from_var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(None, [])
    assert config.server.domains == ("localhost",)
    assert config.server.data_dir == tmp_path / "var"
    assert config.database == tmp_path / "var" / "beamish.db"
    assert config.c2s.listen == ("[::]:5222",)


def test_relative_paths_count_from_the_file(load_text: Load, tmp_path: Path) -> None:
    config = load_text(
        "[server]\ndata_dir = 'data'\n[tls]\ncertificate = 'c.pem'\nkey = '/k.pem'\n"
        "[tls.domains.'a.example']\ncertificate = 'a/c.pem'\nkey = 'a/k.pem'\n[storage]\nurl = 'sqlite:my%20db/x.db'"
    )
    assert config.server.data_dir == tmp_path / "data"
    assert (config.tls.certificate, config.tls.key) == (tmp_path / "c.pem", Path("/k.pem"))
    assert config.tls.domains["a.example"].key == tmp_path / "a/k.pem"
    assert config.database == tmp_path / "my db/x.db"
    assert config.modules["register"].template == tmp_path / "welcome.txt"


def test_an_absolute_database_url_is_taken_as_it_stands(load_text: Load) -> None:
    assert load_text("[storage]\nurl = 'sqlite:///srv/x.db'").database == Path("/srv/x.db")


def test_domains_and_addresses_are_kept_prepared(load_text: Load) -> None:
    config = load_text(
        "[server]\ndomains = ['BÜCHER.example']\nadmins = ['Ada@Example.org']\n[c2s]\nlisten=['[::1]:0']"
    )
    assert config.server.domains == ("bücher.example",)
    assert (config.server.admins[0].local, config.server.admins[0].domain) == ("ada", "example.org")
    assert (config.c2s.listen[0].host, config.c2s.listen[0].port) == ("::1", 0)


def test_two_free_ports_are_two_addresses(load_text: Load) -> None:
    config = load_text("[c2s]\nlisten = ['localhost:0', 'localhost:0']")
    assert len(config.c2s.listen) == 2


def test_active_modules_are_the_defaults_with_what_is_enabled_and_disabled(load_text: Load) -> None:
    assert load_text("").modules.active == ("muc", "routing")
    assert load_text("[modules]\nenable = ['register']").modules.active == ("muc", "register", "routing")
    assert load_text("[modules]\ndisable = ['muc']").modules.active == ("routing",)
    with pytest.raises(KeyError):
        load_text("").modules["enable"]


def test_a_configuration_cannot_be_changed() -> None:
    config = load(None, [])
    with pytest.raises(ValidationError, match="frozen"):
        config.server.domains = ("other.example",)  # type: ignore[misc]


def test_module_names_must_be_their_own() -> None:
    class Enable:
        name = "enable"
        default = True
        essential = False
        Config = Config

    with pytest.raises(ValueError, match="'enable'"):
        build_root([Enable])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.text(alphabet="[]server.log=\n'\"{}#1, ", max_size=60))
def test_any_text_is_a_configuration_or_problems(tmp_path: Path, text: str) -> None:
    file = tmp_path / "any.toml"
    file.write_text(text, encoding="utf-8", newline="")
    problems = []
    try:
        load(file, [])
    except ConfigProblems as found:
        problems = found.problems
    else:
        tomllib.loads(text)
    assert all(problem.line for problem in problems)


@given(st.text(max_size=30))
def test_a_listening_address_is_read_or_refused(text: str) -> None:
    try:
        address = Listen.parse(text)
    except ValueError:
        return
    assert address == text
    assert text in (
        f"{address.host}:{address.port:0{len(text.rpartition(':')[2])}}",
        f"[{address.host}]:{text.rpartition(':')[2]}",
    )
