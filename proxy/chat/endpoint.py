"""Which requests are chat: the endpoints of OpenAI's API, wherever they are served."""

from enum import Enum


class Endpoint(Enum):
    """The three ways to ask, by the end of the path."""

    CHAT = b"/chat/completions"
    RESPONSES = b"/responses"
    COMPLETIONS = b"/completions"


def endpoint_of(method: str, target: bytes) -> Endpoint | None:
    """What is asked, or None if it is no chat. `target` may have a query."""
    return endpoint_at(target) if method == "POST" else None


def endpoint_at(target: bytes) -> Endpoint | None:
    """The same, whatever the method."""
    path = target.partition(b"?")[0].rstrip(b"/")
    for endpoint in Endpoint:  # the longer ending is first
        if path.endswith(endpoint.value):
            return endpoint
    return None
