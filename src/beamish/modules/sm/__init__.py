"""XEP-0198: acknowledgements, and sessions that outlive their connection and the server."""

from beamish.modules.sm.module import StreamManagementModule

__all__ = ["StreamManagementModule"]
