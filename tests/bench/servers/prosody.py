"""Prosody as Debian packages it."""

from __future__ import annotations

import hashlib
import hmac
import shutil

from tests.bench.servers.base import DOMAIN, PASSWORD, Server, run, self_signed


class Prosody(Server):
    """Accounts and rosters are written where its internal storage reads them."""

    name = "prosody"
    _iterations = 10_000  # its default

    @classmethod
    def missing(cls) -> str:
        """Its package."""
        return "" if shutil.which("prosody") else "prosody"

    async def prepare(self) -> None:
        """Debian's list of modules, without HTTP, invitations, administration and federation."""
        certificate, key = self_signed(self.folder)
        (self.folder / "certs").mkdir()  # where it looks for certificates by host name
        archive = '"mam";' if self.setting.archive else ""
        (self.folder / "prosody.cfg.lua").write_text(
            f"""
run_as_root = true
pidfile = "{self.folder}/prosody.pid"
data_path = "{self.folder}/data"
plugin_paths = {{ }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {self.address.port} }}
c2s_direct_tls_ports = {{ {self.address.tls_port} }}
s2s_ports = {{ }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_hashed"
ssl = {{ certificate = "{certificate}"; key = "{key}"; }}
log = {{ {{ levels = {{ min = "warn" }}; to = "console"; }} }}
default_archive_policy = true
modules_enabled = {{
  "disco"; "roster"; "saslauth"; "tls"; "blocklist"; "bookmarks"; "carbons"; "pep"; "private"; "smacks";
  "vcard4"; "vcard_legacy"; "csi_simple"; "ping"; "register"; "time"; "uptime"; "version"; "posix"; {archive}
}}
modules_disabled = {{ "s2s" }}
VirtualHost "{DOMAIN}"
Component "{self.muc}" "muc"
  muc_room_default_public = true
"""
        )
        salt = "f3c1a5e0-bench"
        salted = hashlib.pbkdf2_hmac("sha1", PASSWORD.encode(), salt.encode(), self._iterations)
        stored = hashlib.sha1(hmac.digest(salted, b"Client Key", "sha1")).hexdigest()
        server = hmac.digest(salted, b"Server Key", "sha1").hex()
        store = self.folder / "data" / DOMAIN / "accounts"
        store.mkdir(parents=True)
        for account in self.accounts:
            (store / f"{account.user}.dat").write_text(
                f'return {{ ["salt"] = "{salt}"; ["iteration_count"] = {self._iterations}; '
                f'["stored_key"] = "{stored}"; ["server_key"] = "{server}"; }};\n'
            )
        rosters = self.folder / "data" / DOMAIN / "roster"
        rosters.mkdir()
        for user, contacts in self.pairs():
            items = "".join(
                f'["u{n}@{DOMAIN}"] = {{ ["subscription"] = "both"; ["groups"] = {{}}; }}; ' for n in contacts
            )
            (rosters / f"u{user}.dat").write_text(
                f"return {{ [false] = {{ ['version'] = {len(contacts)}; ['pending'] = {{}}; }}; {items} }};\n"
            )

    def command(self) -> list[str]:
        """In the foreground."""
        return ["prosody", "-F", "--config", str(self.folder / "prosody.cfg.lua")]

    async def version(self) -> str:
        """Ask the package manager: `prosodyctl about` reads the installed server's configuration."""
        return "prosody " + await run("dpkg-query", "--show", "--showformat=${Version}", "prosody")
