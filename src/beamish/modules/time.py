"""XEP-0202: the time of day at the server. Clients answer for themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.core.module import Module, Scope, Xep, iq
from beamish.xmpp.stanza import Stanza

NS: Final = "urn:xmpp:time"


class TimeModule(Module):
    """Tells the time."""

    name = "time"
    xeps = (Xep(202, "2.0"),)
    features = (NS,)

    @iq(get=f"{{{NS}}}time", scope=Scope.SERVER)
    def _time(self, ctx: Context) -> Stanza:
        now = self.kernel.clock.now()
        content = f"<time xmlns='{NS}'><tzo>{offset(now)}</tzo><utc>{stamp(now)}</utc></time>"
        return ctx.stanza.reply(content.encode())


def offset(at: float, zone: timedelta | None = None) -> str:
    """The difference of the local time to UTC as XEP-0082 §3.3 writes it; `zone` replaces the machine's."""
    if zone is None:
        zone = datetime.fromtimestamp(at, UTC).astimezone().utcoffset() or timedelta(0)
    minutes = round(zone.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
