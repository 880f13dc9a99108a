"""Clients of foreign libraries that go on with their streams when their connections break off (XEP-0198), and count that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from aioxmpp.stream import StanzaState
from tests.interop.conftest import PATIENCE, AioxmppPeer, SlixmppPeer
from tests.watched import until


class Slixmpp(SlixmppPeer):
    """slixmpp, which comes back when it is told to."""

    async def login(self, password: str) -> None:
        self.resumed = 0
        self.begun = 0
        await super().login(password)
        await until(lambda: self.client.plugin["xep_0198"].enabled_out, PATIENCE)

    def _made(self, client: Any) -> None:
        client.register_plugin("xep_0198")
        client.add_event_handler("session_resumed", self._resumed)
        client.add_event_handler("session_start", self._began)

    def _resumed(self, _: Any) -> None:
        self.resumed += 1

    def _began(self, _: Any) -> None:
        self.begun += 1

    async def come_back(self) -> None:
        """Connect again; by itself it would wait longer and longer."""
        await until(lambda: not self.client.is_connected(), PATIENCE)
        self.client.cancel_connection_attempt()
        self.client.connect(self.server.host, self.server.port)


class Aioxmpp(AioxmppPeer):
    """aioxmpp as it is by itself: it comes back when its stream breaks off."""

    async def login(self, password: str) -> None:
        self.resumed = 0
        self.begun = 0
        self._unwritten: list[Any] = []
        await super().login(password)
        self.begun = 1
        self.client.backoff_start = timedelta(seconds=0.1)
        self.client.on_stream_resumed.connect(self._resumed)
        self.client.on_stream_established.connect(self._began)
        assert self.client.stream.sm_enabled

    def _suspended(self, _reason: BaseException | None) -> None:
        pass

    async def come_back(self) -> None:
        """It does by itself."""

    def _enqueue(self, message: Any) -> None:
        """It leaves to its user what it could not even write, since the connection had just ended; that is sent later."""

        def changed(token: Any, state: Any) -> None:
            if state == StanzaState.FAILED:
                self._unwritten.append(token)

        self.client.enqueue(message, on_state_change=changed)

    def _resumed(self) -> None:
        self.resumed += 1
        unwritten, self._unwritten = self._unwritten, []
        for token in unwritten:
            # the first of a bunch, of which it says that, too, it sends again all the same
            if token.state == StanzaState.FAILED and token not in self.client.stream._active_queue:
                self._enqueue(token.stanza)

    def _began(self) -> None:
        self.begun += 1


RETURNING: dict[str, Callable[..., Any]] = {"slixmpp": Slixmpp, "aioxmpp": Aioxmpp}
