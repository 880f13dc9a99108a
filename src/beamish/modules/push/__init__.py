"""XEP-0357: somebody who is away hears of what comes."""

from beamish.modules.push.module import PushModule

__all__ = ["PushModule"]
