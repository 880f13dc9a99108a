"""XEP-0060 and XEP-0163: publish-subscribe services and personal eventing."""

from beamish.modules.pubsub.module import PubsubModule

__all__ = ["PubsubModule"]
