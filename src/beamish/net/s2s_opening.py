"""Opening a stream to another server: its domain's servers are found and tried in turn, until one can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from beamish.net import dns
from beamish.net.dns import ConnectFailed, LookupFailed, NoSuchDomain, Target
from beamish.net.s2s_out import Report, S2SOutLink
from beamish.stream.s2s_out import Cause, Unreachable

if TYPE_CHECKING:
    from beamish.net.s2s import Federation
    from beamish.net.s2s_route import Route

_WORST: Final = (Cause.CERTIFICATE, Cause.AUTHENTICATION, Cause.TLS, Cause.STREAM)
"""Of several servers of one domain that all failed, these causes tell more than a connection refused."""


async def open_stream(
    federation: Federation,
    local: str,
    remote: str,
    *,
    route: Route | None = None,
    question: tuple[str, str] | None = None,
    report: Report | None = None,
) -> S2SOutLink:
    """Open a stream and bring it to where it can be used. Raises `Unreachable`.

    It carries what goes along a `route`, or asks a `question`: whether this stream, by its id, has this key (XEP-0220 §2.2).
    `report` is told each step.
    """
    if reason := federation.policy.refusal(remote):
        raise Unreachable(Cause.POLICY, reason)
    say = report or (lambda _step: None)
    try:
        targets = await dns.targets_of(remote, federation.resolver, federation.hosts)
    except NoSuchDomain as exc:
        raise Unreachable(Cause.NO_SUCH_DOMAIN, str(exc)) from exc
    except LookupFailed as exc:
        raise Unreachable(Cause.DNS, f"{remote} could not be looked up: {exc}") from exc
    say("servers: " + ", ".join(map(str, targets)))
    link = partial(S2SOutLink, federation, local, remote, route=route, question=question, report=say)
    failures: list[Unreachable] = []
    for target in targets:
        try:
            made = await _connected(federation, target, partial(link, direct_tls=target.direct_tls))
            await _negotiated(federation, target, made)
            return made
        except Unreachable as why:
            say(f"{target}: {why}")
            failures.append(why)
    raise next((why for cause in _WORST for why in failures if why.cause is cause), failures[-1])


async def _connected(federation: Federation, target: Target, make: Callable[[], S2SOutLink]) -> S2SOutLink:
    try:
        return await dns.connect(target, federation.resolver, make, federation.limits.connect_seconds)
    except NoSuchDomain as exc:
        raise Unreachable(Cause.NO_SUCH_DOMAIN, str(exc)) from exc
    except LookupFailed as exc:
        raise Unreachable(Cause.DNS, f"{target.host} could not be looked up: {exc}") from exc
    except ConnectFailed as exc:
        cause = Cause.REFUSED if exc.refused else Cause.TIMEOUT if exc.timed_out else Cause.NETWORK
        raise Unreachable(cause, str(exc)) from exc


async def _negotiated(federation: Federation, target: Target, link: S2SOutLink) -> None:
    try:
        async with asyncio.timeout(federation.limits.negotiation_seconds):
            await asyncio.shield(link.ready)
    except TimeoutError:
        link.abort()
        raise Unreachable(Cause.TIMEOUT, f"{target} did not finish the negotiation in time") from None
    except asyncio.CancelledError:
        if link.shaking:
            link.abort()  # nothing can be said now; an end without a beginning behind the handshake is no XML
        else:
            link.close()
        raise
