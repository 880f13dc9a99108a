import asyncio
import datetime
import json
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from beamish.cli import commands
from beamish.core.registry import ModuleError
from beamish.storage.sole import sole_user


def test_every_problem_is_a_line_and_the_exit_code_is_1(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[server]\nadmin = []\n[limits]\ndepth = 'x'\n")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{file}:2: server.admin: unknown key; did you mean admins?")
    assert second == f"{file}:4: limits.depth: must be a whole number, at least 8 and at most 250"


def test_problems_as_json(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[c2s]\nx = 1")
    result = runner.invoke(commands, ["config", "check", "-c", str(file), "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert (told["problems"][0]["line"], told["problems"][0]["key"]) == (2, "c2s.x")


def test_certificates_are_looked_at(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[tls]\ncertificate = 'c.pem'\nkey = 'k.pem'")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert result.exit_code == 1
    assert f"{file}:2: tls.certificate: {tmp_path}/c.pem: cannot be read" in result.stdout


def test_a_good_file_is_ok_with_a_summary(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndomains = ['a.example', 'b.example']\ndata_dir = 'data'")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"ok: {file}\n")
    assert "a.example, b.example" in result.stdout
    assert f"{tmp_path}/data/beamish.db" in result.stdout
    assert json.loads(runner.invoke(commands, ["config", "check", "--json"]).stdout)["ok"] is True


def test_the_example_is_a_file_that_says_nothing(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text(runner.invoke(commands, ["config", "example"]).stdout)
    assert "#stanza_bytes = " in file.read_text()
    assert runner.invoke(commands, ["config", "check", "-c", str(file)]).exit_code == 0


@pytest.mark.parametrize(("command", "code"), [(["config", "check"], 1), (["user", "list"], 1), (["serve"], 78)])
def test_a_module_that_cannot_be_loaded_is_told(
    server: Any, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, command: list[str], code: int
) -> None:
    def discover() -> None:
        raise ModuleError("module greeter cannot be loaded")

    monkeypatch.setattr("beamish.core.registry.discover", discover)
    result = runner.invoke(commands, command)
    assert (result.exit_code, result.stderr) == (code, "beamish: module greeter cannot be loaded\n")
    assert not server.served


def write_pair(directory: Path, domain: str, days: int) -> None:
    """A self-signed certificate for a domain and its key, valid for so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    start, end = now - datetime.timedelta(days=1), now + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, end)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=True)
    (directory / "c.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    key_file = directory / "k.pem"
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


TWO_DOMAINS = """\
[server]
domains = ["example.org", "example.net"]
[tls]
certificate = "c.pem"
key = "k.pem"
[tls.domains."EXAMPLE.net"]
certificate = "c.pem"
key = "absent.pem"
"""


def test_a_fault_of_one_domains_files_is_placed_at_its_key(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    write_pair(tmp_path, "example.org", days=300)
    file = tmp_path / "b.toml"
    file.write_text(TWO_DOMAINS)
    result = runner.invoke(commands, ["config", "check", "-c", str(file), "--json"])
    assert result.exit_code == 1
    places = {(problem["line"], problem["key"]) for problem in json.loads(result.stdout)["problems"]}
    assert (8, 'tls.domains."EXAMPLE.net".key') in places
    assert all(line > 5 for line, _ in places)


def test_a_certificate_that_ends_soon_is_a_warning(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    write_pair(tmp_path, "localhost", days=3)
    file = tmp_path / "b.toml"
    file.write_text("[tls]\ncertificate = 'c.pem'\nkey = 'k.pem'")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert result.exit_code == 0
    assert f"{file}:2: tls.certificate: warning: " in result.stdout
    assert "ok: " in result.stdout


def test_a_module_that_lacks_another_is_found_before_the_start(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beamish.core.module import Module

    class Service:
        """What one module offers and the other needs."""

    class Provider(Module):
        name = "provider"
        provides = (Service,)

    class User(Module):
        name = "user"
        requires = (Service,)

    monkeypatch.setattr("beamish.core.registry.discover", lambda: (Provider, User))
    file = tmp_path / "b.toml"
    file.write_text("")
    assert runner.invoke(commands, ["config", "check", "-c", str(file)]).exit_code == 0
    file.write_text("\n[modules]\ndisable = ['provider']\n[modules.user]\n")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert result.exit_code == 1
    assert f"{file}:2: modules: module user requires Service" in result.stdout


def test_a_data_directory_that_cannot_be_used_is_an_error(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndata_dir = 'data'\n")
    assert runner.invoke(commands, ["config", "check", "-c", str(file)]).exit_code == 0  # it will be made
    (tmp_path / "data").write_text("")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert (result.exit_code, result.stdout) == (1, f"{file}:2: server.data_dir: {tmp_path}/data is not a directory\n")


def test_a_data_directory_of_somebody_else_is_an_error(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndata_dir = 'data'\n")
    (tmp_path / "data").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "data")  # as for one who is not root
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert result.exit_code == 1
    assert f"{file}:2: server.data_dir: {tmp_path}/data may not be read and written by this user" in result.stdout


def test_the_summary_names_the_ports_for_other_servers(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[s2s]\nlisten = ['127.0.0.1:5369']\ndirect_tls = ['127.0.0.1:5370']\n")
    assert (
        "servers   127.0.0.1:5369, 127.0.0.1:5370 (TLS)"
        in runner.invoke(commands, ["config", "check", "-c", str(file)]).stdout
    )
    file.write_text("[s2s]\nenabled = false\n")
    assert "servers" not in runner.invoke(commands, ["config", "check", "-c", str(file)]).stdout


def test_an_address_in_use_is_a_warning_while_no_server_runs(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"127.0.0.1:5369": "it is taken"}
    monkeypatch.setattr("beamish.net.address.obstacle", lambda address: taken.get(address, ""))
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndata_dir = 'data'\n[s2s]\nlisten = ['[::1]:1', '127.0.0.1:5369']\n")
    warning = f"{file}:4: s2s.listen[1]: warning: it is taken\n"
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert (result.exit_code, warning in result.stdout) == (0, True)

    async def asked_meanwhile() -> str:
        async with sole_user(tmp_path / "data"):
            return await asyncio.to_thread(lambda: runner.invoke(commands, ["config", "check", "-c", str(file)]).stdout)

    (tmp_path / "data").mkdir()
    assert warning not in asyncio.run(asked_meanwhile())  # a server runs, which may well be ours
    assert warning in runner.invoke(commands, ["config", "check", "-c", str(file)]).stdout
    file.write_text(file.read_text() + "enabled = false\n")
    assert warning not in runner.invoke(commands, ["config", "check", "-c", str(file)]).stdout


def test_a_data_directory_that_cannot_be_looked_into_is_told_and_nothing_else(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path.exists

    def exists(self: Path, **more: Any) -> bool:
        if self.parent == tmp_path / "data":
            raise PermissionError(13, "Permission denied", str(self))
        return there(self, **more)

    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "data")
    monkeypatch.setattr("beamish.net.address.obstacle", lambda address: "it is taken")
    write_pair(tmp_path, "localhost", days=300)
    (tmp_path / "data").mkdir()
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndata_dir = 'data'\n[tls]\ncertificate = 'c.pem'\nkey = 'k.pem'\n")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    told = f"{file}:2: server.data_dir: {tmp_path}/data may not be read and written by this user\n"
    assert (result.exit_code, result.stdout) == (1, told)


def test_a_component_cannot_have_the_domain_of_a_module(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndomains = ['a.example']\n[components.'conference.a.example']\nsecret = 'x'\n")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    place = f'{file}:3: components."conference.a.example"'
    assert (result.exit_code, result.stdout) == (1, f"{place}: the domain is served by the module muc\n")
    file.write_text(file.read_text() + "[modules.muc]\nhost = 'rooms.{domain}'\n")
    assert runner.invoke(commands, ["config", "check", "-c", str(file)]).exit_code == 0
    file.write_text(file.read_text().replace("rooms.", "conference.") + "[modules]\ndisable = ['muc']\n")
    assert runner.invoke(commands, ["config", "check", "-c", str(file)]).exit_code == 0


def test_root_looks_with_the_eyes_of_the_owner(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = [0]
    monkeypatch.setattr("os.geteuid", lambda: user[0])
    monkeypatch.setattr("beamish.cli.check.become_owner", lambda directory: user.append(user.pop() + 65534))
    monkeypatch.setattr("os.access", lambda path, mode: user == [0] or Path(path) != file)
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndata_dir = 'data'\n")
    result = runner.invoke(commands, ["config", "check", "-c", str(file)])
    assert result.exit_code == 1
    assert result.stdout == (
        f"{file}: may not be read by the owner of the data directory\n"
        f"looked at as the user {pwd.getpwuid(65534).pw_name}, whose data directory it is: {tmp_path}/data\n"
    )


def test_what_the_check_needs_is_loaded_by_whoever_calls_it(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of the data may not read what root has installed for itself, nor its Python."""
    monkeypatch.delitem(sys.modules, "encodings.idna", raising=False)  # for looking up names of hosts
    loaded: set[str] = set()
    monkeypatch.setattr("beamish.cli.check.become_owner", lambda directory: loaded.update(sys.modules))
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndata_dir = 'data'\n")
    assert runner.invoke(commands, ["config", "check", "-c", str(file)]).exit_code == 0
    assert "encodings.idna" in loaded
