"""All other domains, where a test has no other server: what leaves for them is noted."""

from __future__ import annotations

from typing import Any, Self

from beamish.core import events
from beamish.core.events import Context
from beamish.core.hooks import STOP, Outcome
from beamish.core.module import Module, on
from beamish.testing.world import World
from beamish.xmpp.stanza import Stanza


class Elsewhere(Module):
    """Stands in for federation; a subclass may know what some domains answer. For `World(extra=[Elsewhere])`."""

    name = "elsewhere"

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self.left: list[Stanza] = []
        """What was sent to other domains, in its order, but for questions that were answered."""

    @classmethod
    def of(cls, world: World) -> Self:
        """The one of a world."""
        return world.kernel.registry.module(cls)

    @on(events.remote)
    def take(self, ctx: Context) -> Outcome:
        if not self.answered(ctx):
            self.left.append(ctx.stanza)
        return STOP

    def answered(self, ctx: Context) -> bool:
        """Whether this was a question that has its answer now."""
        return False
