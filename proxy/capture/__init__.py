"""What is kept of the traffic, where the operator asked for it: chats of an agent, paid data of a
provider. `capture.py` says who is listened to, and takes what was overheard; `backlog.py` keeps it
off the traffic's back; `stored.py` is the paid data's shape, `headers.py` the header fields that
may be kept.
"""

from proxy.capture.capture import Capture, StoreRule

__all__ = ["Capture", "StoreRule"]
