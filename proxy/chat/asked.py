"""What a request to a chat endpoint says (pure)."""

import json
from dataclasses import dataclass
from typing import Any

from proxy.chat.endpoint import Endpoint
from proxy.chat.parts import called, image_of, items, joined, text_of
from proxy.chat.text import MAX_TEXT, clean


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a conversation. `truncated`: there was more of it."""

    is_user: bool
    text: str
    image: str | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation as one request tells it: all that was said so far, by the user and to the
    user. `opening` is what it was told to be. `follows`: the id of the answer that this goes on
    from, where the server keeps the history (Responses API)."""

    said: tuple[Said, ...]
    opening: str = ""
    follows: str | None = None

    @property
    def prompt(self) -> str | None:
        """The user's last message."""
        return next((said.text for said in reversed(self.said) if said.is_user), None)


def read_request(endpoint: Endpoint, body: bytes) -> Asked | None:
    """What is asked, or None where the body is not such a request."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    if endpoint is Endpoint.CHAT:
        asked = _conversation(document.get("messages"))
    elif endpoint is Endpoint.COMPLETIONS:
        asked = _prompt(document.get("prompt"))
    else:
        asked = _response_input(document)
    return asked if asked.said else None


def message(*, is_user: bool, text: str, image: str | None = None, truncated: bool = False) -> Said:
    """A message as it may be kept."""
    text = clean(text)
    cut = len(text) > MAX_TEXT
    return Said(is_user, text[:MAX_TEXT], clean(image) if image else None, truncated or cut)


def _conversation(messages: Any) -> Asked:
    said: list[Said] = []
    opening: list[str] = []
    for item in items(messages):
        role, content = item.get("role"), item.get("content")
        if role == "user":
            text, image = text_of(content), image_of(content)
            if text or image:
                said.append(message(is_user=True, text=text, image=image))
        elif role == "assistant":
            calls = [called(call.get("function")) for call in items(item.get("tool_calls"))]
            said.append(message(is_user=False, text=joined(text_of(content), *calls)))
        elif role in ("system", "developer"):
            opening.append(text_of(content))
    return Asked(tuple(said), clean("\n".join(opening)))


def _prompt(prompt: Any) -> Asked:
    text = text_of(prompt)
    return Asked((message(is_user=True, text=text),) if text else ())


def _response_input(document: dict[str, Any]) -> Asked:
    given = document.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    asked = _conversation(given)
    instructions = clean(text_of(document.get("instructions")))
    follows = document.get("previous_response_id")
    return Asked(
        asked.said,
        joined(instructions, asked.opening),
        clean(follows)[:256] if isinstance(follows, str) and follows else None,
    )
