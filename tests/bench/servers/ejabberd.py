"""ejabberd as Debian packages it."""

from __future__ import annotations

import shutil
from pathlib import Path

import aiohttp
from tests.bench.servers.base import (
    DOMAIN,
    NO_LIMIT,
    START_SECONDS,
    Server,
    Setting,
    free_port,
    polled,
    run,
    self_signed,
)
from tests.bench.wire import BenchError

# Copies the first account's keys to all others and writes rosters, inside the virtual machine: thousands of requests over
# HTTP would take minutes. The records are copied and changed by position, so that their other fields do not matter.
_SEED = """
Host = <<"{host}">>,
Name = fun(N) -> <<"u", (integer_to_binary(N))/binary>> end,
[Account | _] = mnesia:dirty_match_object(passwd, mnesia:table_info(passwd, wild_pattern)),
[mnesia:dirty_write(setelement(2, Account, setelement(1, element(2, Account), Name(N)))) || N <- lists:seq(1, {accounts} - 1)],
[[mnesia:dirty_write({{roster, {{Name(U), Host, {{Name(C), Host, <<>>}}}}, {{Name(U), Host}}, {{Name(C), Host, <<>>}}, <<>>,
   both, none, [], <<>>, []}}) || C <- Cs] || {{U, Cs}} <- {rosters}],
done.
"""
_WAIT_FOR_SEED = (
    'spawn(fun() -> W = fun(W) -> case file:script("seed.erl") of '
    '{ok, done} -> file:write_file("seeded", <<>>); '
    "{error, enoent} -> timer:sleep(20), W(W); "
    'Other -> file:write_file("failed", io_lib:format("~p", [Other])) end end, W(W) end).'
)


class Ejabberd(Server):
    """The first account is registered over its HTTP interface, the others are copies of it."""

    name = "ejabberd"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._http = free_port()

    @classmethod
    def missing(cls) -> str:
        """Its package."""
        return "" if shutil.which("ejabberdctl") or Path("/usr/sbin/ejabberdctl").exists() else "ejabberd"

    async def prepare(self) -> None:
        """Debian's list of modules, without federation, MQTT, TURN, web pages; no shaper, a queue for connections."""
        certificate, key = self_signed(self.folder)
        (self.folder / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
        (self.folder / "mnesia").mkdir()
        archive = "mod_mam:\n    default: always" if self.setting.archive else "mod_time: {}"
        (self.folder / "ejabberd.yml").write_text(
            f"""
loglevel: warning
hosts: ["{DOMAIN}"]
certfiles: ["{self.folder}/both.pem"]
auth_password_format: scram
disable_sasl_mechanisms: ["digest-md5", "X-OAUTH2"]
listen:
  - {{port: {self.address.port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144,
     backlog: 1024, access: all, starttls: true}}
  - {{port: {self.address.tls_port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144,
     backlog: 1024, access: all, tls: true}}
  - {{port: {self._http}, ip: "127.0.0.1", module: ejabberd_http, request_handlers: {{/api: mod_http_api}}}}
acl:
  loopback:
    ip: ["127.0.0.0/8"]
access_rules:
  local:
    allow: all
api_permissions:
  "bench":
    from: [mod_http_api]
    who: {{access: {{allow: [{{acl: loopback}}]}}}}
    what: ["register"]
shaper_rules:
  max_user_sessions: {NO_LIMIT}
  max_user_offline_messages: {NO_LIMIT}
  c2s_shaper: none
registration_timeout: infinity
modules:
  mod_adhoc: {{}}
  mod_admin_extra: {{}}
  mod_avatar: {{}}
  mod_blocking: {{}}
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_client_state: {{}}
  mod_disco: {{}}
  mod_http_api: {{}}
  mod_last: {{}}
  mod_muc:
    access_create: local
    max_users: 5000
    max_user_conferences: 1000
  mod_offline:
    access_max_user_messages: max_user_offline_messages
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_private: {{}}
  mod_pubsub:
    plugins: [flat, pep]
  mod_push: {{}}
  mod_push_keepalive: {{}}
  mod_roster:
    versioning: true
  mod_shared_roster: {{}}
  mod_stream_mgmt:
    resend_on_timeout: if_offline
  mod_vcard:
    search: false
  mod_vcard_xupdate: {{}}
  mod_version: {{}}
  {archive}
"""
        )

    def command(self) -> list[str]:
        """The virtual machine directly, as ejabberdctl would start it, but without a node name (so no epmd)."""
        options = ["+K", "true", "+P", "250000"]
        node = ["-mnesia", "dir", f'"{self.folder}/mnesia"']
        return ["erl", "-noinput", *options, *node, "-eval", _WAIT_FOR_SEED, "-s", "ejabberd"]

    def environment(self) -> dict[str, str]:
        """What ejabberdctl exports."""
        return {
            "ERL_LIBS": str(next(Path("/usr/lib").glob("*/ejabberd-*")).parent),
            "EJABBERD_CONFIG_PATH": f"{self.folder}/ejabberd.yml",
            "EJABBERD_LOG_PATH": f"{self.folder}/ejabberd.log",
            "ERL_CRASH_DUMP": f"{self.folder}/crash.dump",
            "ERL_MAX_PORTS": "32000",
            "HOME": str(self.folder),  # for the Erlang cookie
        }

    async def ready(self) -> None:
        """Register an account over mod_http_api, have the virtual machine do the rest."""
        if (self.folder / "seeded").exists():
            return
        await self.listening(self._http)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._http}") as http:
            first = self.accounts[0]
            body = {"user": first.user, "host": first.domain, "password": first.password}
            async with http.post("/api/register", json=body) as answer:
                if answer.status != 200:
                    raise BenchError(f"cannot register {first.bare}: {answer.status} {await answer.text()}")
        rosters = "[" + ", ".join(f"{{{user}, {contacts}}}" for user, contacts in self.pairs()) + "]"
        script = _SEED.format(host=DOMAIN, accounts=len(self.accounts), rosters=rosters)
        (self.folder / "seed.tmp").write_text(script)
        (self.folder / "seed.tmp").rename(self.folder / "seed.erl")

        async def seeded() -> bool:
            if (failed := self.folder / "failed").exists():
                raise BenchError(f"ejabberd could not be given its accounts: {failed.read_text()}")
            return (self.folder / "seeded").exists()

        await polled(seeded, START_SECONDS, "ejabberd has not got its accounts")

    async def version(self) -> str:
        """Ask the package manager."""
        return "ejabberd " + await run("dpkg-query", "--show", "--showformat=${Version}", "ejabberd")

    def log_tail(self) -> str:
        """Both logs."""
        try:
            own = (self.folder / "ejabberd.log").read_text(errors="replace")[-800:]
        except OSError:
            own = ""
        return super().log_tail() + own
