"""In-band registration (XEP-0077)."""

from beamish.modules.register.module import RegisterModule

__all__ = ["RegisterModule"]
