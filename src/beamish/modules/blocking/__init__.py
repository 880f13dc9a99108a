"""Blocking, privacy lists and reports of abuse (XEP-0191, XEP-0016, XEP-0377)."""

from beamish.modules.blocking.module import BlockingModule

__all__ = ["BlockingModule"]
