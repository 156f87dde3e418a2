"""What happens, told: a feed for whoever subscribes, and webhooks."""

from proxy.notices.courier import Courier
from proxy.notices.feed import Event, Feed, Subscription

__all__ = ["Courier", "Event", "Feed", "Subscription"]
