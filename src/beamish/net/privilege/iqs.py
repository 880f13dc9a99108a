"""XEP-0356 §6: requests in the name of accounts, by namespace; the answers go back wrapped (XEP-0297)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from beamish.core.iq import IqTimeout
from beamish.net.privilege.options import NS, PrivilegeOptions, includes
from beamish.net.privilege.roster import Rosters
from beamish.net.privilege.standin import ask_as, check_account
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.stanza import IQ, AddressMalformed, SenderMalformed, Stanza, content_bytes, take
from beamish.xmpp.xml import Element, namespace_of

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

PRIVILEGED_IQ: Final = f"{{{NS}}}privileged_iq"
_FORWARD: Final = "urn:xmpp:forward:0"
_OF_A_SESSION: Final = frozenset((ns.BIND, ns.SESSION, "urn:xmpp:carbons:2"))
"""What is about the session that asks; there is none."""


class PrivilegedIqs:
    """One component's requests in the name of accounts. At most `limit` may be waiting for their answers."""

    def __init__(
        self, kernel: Kernel, options: PrivilegeOptions, rosters: Rosters, *, seconds: float = 60.0, limit: int = 1000
    ) -> None:
        self._kernel = kernel
        self._options = options
        self._rosters = rosters
        self._seconds = seconds
        self._limit = limit
        self._waiting = 0

    async def carry(self, stanza: Stanza, wrapper: Element, *, privileged: bool) -> Stanza:
        """Send what is wrapped in the name of the account that the stanza is addressed to; the answer for the component.

        `privileged`: the sender is the component itself. Raises `StanzaError`: `forbidden` for everything that §6.3 lists.
        """
        user = stanza.to
        assert user is not None
        if not privileged or not self._rosters.serves(user):
            raise _forbidden("to a bare address of an account that this component has privileges for")
        await check_account(self._kernel, user)
        inner = self._inner(stanza, wrapper)
        if self._waiting >= self._limit:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too many requests are waiting for their answers")
        self._waiting += 1
        try:
            answer = await ask_as(
                self._kernel, user, inner.type, inner.to or user, content_bytes(inner.el[0]), self._seconds
            )
        except IqTimeout as exc:
            raise StanzaError(Condition.REMOTE_SERVER_TIMEOUT, text="no answer came in time") from exc
        finally:
            self._waiting -= 1
        return _wrapped(stanza, inner, answer)

    def _inner(self, stanza: Stanza, wrapper: Element) -> Stanza:
        """The request that is wrapped, checked (§6.3)."""
        children = [child for child in wrapper if isinstance(child.tag, str)]
        if len(children) != 1 or not str(children[0].tag).endswith("}iq"):
            raise StanzaError(Condition.BAD_REQUEST, text="exactly one request is to be wrapped")
        if namespace_of(children[0]) != ns.CLIENT:
            raise _forbidden(f"the wrapped request must be in {ns.CLIENT}")
        try:
            inner = take(children[0]).detached()
        except (AddressMalformed, SenderMalformed) as exc:
            raise StanzaError(Condition.JID_MALFORMED, text=str(exc)) from exc
        if inner.type != stanza.type:
            raise _forbidden("both requests must be of the same type")
        if inner.sender is not None and inner.sender != stanza.to:
            raise _forbidden("the wrapped request is from somebody else")
        if not inner.id or len(inner.el) != 1:
            raise StanzaError(Condition.BAD_REQUEST, text="the wrapped request needs an id and exactly one child")
        space = namespace_of(inner.el[0])
        if space in _OF_A_SESSION or not includes(self._options.iq.get(space, "none"), inner.type):
            raise _forbidden(f"this component may not send requests of type {inner.type} with {space}")
        return inner


def _wrapped(stanza: Stanza, inner: Stanza, answer: Stanza) -> Stanza:
    """§6.3: the answer as it came, but with the id of the request that the component knows.

    An error makes an error of the outer one too, so that a component which looks only at that does not miss it.
    """
    plain = Stanza.build(IQ, answer.type, id=inner.id, lang=answer.lang)
    head = plain.head.replace(b"<iq", f"<iq xmlns='{ns.CLIENT}'".encode(), 1)
    whole = Stanza(IQ, answer.type, inner.id, answer.sender, answer.to, "", head, answer.body).to_wire()
    content = b"<privilege xmlns='%b'><forwarded xmlns='%b'>%b</forwarded></privilege>" % (
        NS.encode(),
        _FORWARD.encode(),
        whole,
    )
    if answer.type == "error":
        error = answer.el.find(f"{{{ns.CLIENT}}}error")
        if error is not None:
            content += content_bytes(error)
    return Stanza.build(IQ, answer.type, id=stanza.id, sender=stanza.to, to=stanza.sender, content=content)


def _forbidden(text: str) -> StanzaError:
    return StanzaError(Condition.FORBIDDEN, text=text)
