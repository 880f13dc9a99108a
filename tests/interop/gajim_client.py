"""Gajim's own library (nbxmpp) on a leash: a program for the distribution's Python, which has GLib; not a test.

It reads orders from its standard input, one JSON object a line, and says what happens on its standard output in the same
way. What it does with a form is what Gajim does: it shows fields, fills in values, and gives back `get_purged()`.
"""

from __future__ import annotations

import base64
import json
import sys
from types import SimpleNamespace
from typing import Any

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402
from nbxmpp.client import Client  # noqa: E402
from nbxmpp.const import ConnectionProtocol, ConnectionType, Mode  # noqa: E402
from nbxmpp.namespaces import Namespace  # noqa: E402
from nbxmpp.protocol import Message, Presence  # noqa: E402
from nbxmpp.structs import (  # noqa: E402
    ActivityData,
    DiscoIdentity,
    LocationData,
    StanzaHandler,
    TuneData,
)

NODES = (
    Namespace.TUNE,
    Namespace.LOCATION,
    Namespace.ACTIVITY,
    Namespace.MOOD,
    Namespace.NICK,
    Namespace.AVATAR_METADATA,
)


def say(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)  # noqa: T201


class Leash:
    """One client."""

    def __init__(self, loop: GLib.MainLoop) -> None:
        self.loop = loop
        self.client: Any = None
        self.form: Any = None
        self.waiting: list[Any] = []
        """What is to be called, of which the library keeps only weak references."""

    def order(self, order: dict[str, Any]) -> None:
        """Carry out one order."""
        getattr(self, "do_" + order.pop("do"))(**order)

    def then(self, name: str) -> Any:
        """A callback that says how a task ended."""

        def done(task: Any) -> None:
            try:
                result = task.finish()
            except Exception as error:
                say("error", of=name, error=str(error), kind=type(error).__name__)
            else:
                self.ended(name, result)

        self.waiting.append(done)
        return done

    def ended(self, name: str, result: Any) -> None:
        """Say what a task has brought."""
        if name == "form":
            self.form = result.form
            fields = {field.var: field.type_ for field in result.form.iter_fields()}
            required = [field.var for field in result.form.iter_fields() if field.required]
            media = [uri.uri_data for uri in result.form["ocr"].media.uris] if "ocr" in fields else []
            picture = "" if result.bob_data is None else base64.b64encode(result.bob_data.data).decode()
            cid = "" if result.bob_data is None else result.bob_data.cid
            say("form", fields=fields, required=required, media=media, picture=picture, cid=cid)
        elif name == "vcard":
            data, sha = result.get_avatar()
            say("vcard", sha=sha, bytes=0 if data is None else len(data))
        elif name == "blocked":
            say("blocked", jids=sorted(str(jid) for jid in result))
        else:
            say("done", of=name)

    # ---- orders -----------------------------------------------------------------------------------------------------

    def do_connect(self, address: str, password: str, port: int, ca: str, register: bool = False) -> None:
        account, _, resource = address.partition("/")
        name, _, domain = account.partition("@")
        self.client = client = Client(log_context=address)
        client.set_username(name)
        client.set_domain(domain)
        client.set_resource(resource)
        client.set_password(password)
        client.set_mode(Mode.REGISTER if register else Mode.CLIENT)
        client.set_custom_host(f"127.0.0.1:{port}", ConnectionProtocol.TCP, ConnectionType.START_TLS)
        client.set_accepted_certificates([Gio.TlsCertificate.new_from_file(ca)])
        client.subscribe("connected", lambda *_: say("connected", jid=str(client.get_bound_jid())))
        client.subscribe("disconnected", lambda *_: say("disconnected", error=str(client.get_error())))
        client.subscribe("connection-failed", lambda *_: say("failed", error=str(client.get_error())))
        client.register_handler(StanzaHandler("message", self.message, ns=Namespace.PUBSUB_EVENT, priority=50))
        client.register_handler(StanzaHandler("presence", self.presence, priority=50))
        client.connect()

    def do_ask(self) -> None:
        self.client.get_module("Register").request_register_form(callback=self.then("form"))

    def do_submit(self, values: dict[str, str]) -> None:
        for var, value in values.items():
            self.form[var].value = value
        self.form.type_ = "submit"
        self.client.get_module("Register").submit_register_form(self.form.get_purged(), callback=self.then("submit"))

    def do_appear(self) -> None:
        identity = DiscoIdentity(category="client", type="pc", name="Gajim")
        features = [Namespace.DISCO_INFO, *(f"{node}+notify" for node in NODES)]
        caps = self.client.get_module("EntityCaps")
        caps.set_caps([identity], features, "https://gajim.org")
        presence = Presence()
        presence.setTag("c", namespace=Namespace.CAPS, attrs=caps.caps._asdict())
        self.client.send_stanza(presence)

    def do_presence(self, to: str, type: str) -> None:
        self.client.send_stanza(Presence(to=to, typ=type))

    def do_say(self, to: str, body: str) -> None:
        self.client.send_stanza(Message(to=to, body=body, typ="chat"))

    def do_publish(self, what: str) -> None:
        get = self.client.get_module
        done = self.then(what)
        if what == "tune":
            get("Tune").set_tune(TuneData(artist="Yes", title="Heart of the Sunrise"), callback=done)
        elif what == "location":
            get("Location").set_location(LocationData(country="Italy", locality="Verona"), callback=done)
        elif what == "activity":
            get("Activity").set_activity(ActivityData("relaxing", "partying", "at the Capulets'"), callback=done)
        elif what == "mood":
            # the library's own MoodData has no `text` in some versions, though this wants it
            get("Mood").set_mood(SimpleNamespace(mood="in_love", text="so much"), callback=done)
        elif what == "nick":
            get("Nickname").set_nickname("Rome", callback=done)
        else:
            from nbxmpp.modules.user_avatar import Avatar

            avatar = Avatar()
            avatar.add_image_source(base64.b64decode(what), "image/png", 1, 1)
            get("UserAvatar").set_avatar(avatar, callback=done)

    def do_vcard(self, jid: str) -> None:
        self.client.get_module("VCardTemp").request_vcard(jid, callback=self.then("vcard"))

    def do_block(self, jid: str) -> None:
        self.client.get_module("Blocking").block([jid], callback=self.then("block"))

    def do_blocked(self) -> None:
        self.client.get_module("Blocking").request_blocking_list(callback=self.then("blocked"))

    def do_quit(self) -> None:
        self.loop.quit()

    # ---- what arrives -----------------------------------------------------------------------------------------------

    def message(self, _client: Any, _stanza: Any, properties: Any) -> None:
        """Gajim's parsers have been here already; what they could read is `data`."""
        event = properties.pubsub_event
        if event is not None and event.data is not None:
            data = event.data
            shown = data if isinstance(data, str) else data._asdict() if hasattr(data, "_asdict") else str(data)
            say("pubsub", node=event.node, sender=str(properties.jid), data=json.loads(json.dumps(shown, default=str)))

    def presence(self, _client: Any, _stanza: Any, properties: Any) -> None:
        say(
            "presence",
            sender=str(properties.jid),
            type=properties.type.value or "available",
            avatar=properties.avatar_sha or "",
        )


def main() -> None:
    loop = GLib.MainLoop()
    leash = Leash(loop)

    def line(channel: Any, _condition: Any) -> bool:
        text = sys.stdin.readline()
        if not text:
            loop.quit()
            return False
        try:
            leash.order(json.loads(text))
        except Exception as error:
            say("error", of=text, error=repr(error))
        return True

    GLib.io_add_watch(sys.stdin.fileno(), GLib.IO_IN | GLib.IO_HUP, line)
    loop.run()


if __name__ == "__main__":
    main()
