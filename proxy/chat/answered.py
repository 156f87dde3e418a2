"""What a chat endpoint answered, whole or streamed (pure)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from proxy.chat.asked import Said, message
from proxy.chat.endpoint import Endpoint
from proxy.chat.events import documents
from proxy.chat.parts import called, items, joined, text_of


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and the id that the API gave it ("" if none)."""

    id: str
    said: Said


def read_answer(
    endpoint: Endpoint, content_type: str, body: bytes, *, truncated: bool
) -> Answered | None:
    """What was answered; None where it can't be told. Of several choices the first is taken."""
    if _is_stream(content_type, body):
        events = documents(body)
        found = _response_events(events) if endpoint is Endpoint.RESPONSES else _chunks(events)
    else:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict):
            return None
        found = _response(document) if endpoint is Endpoint.RESPONSES else _completion(document)
    if found is None:
        return None
    identity, text = found
    identity = "".join(char for char in identity[:200] if char.isprintable())
    return Answered(identity, message(is_user=False, text=text, truncated=truncated))


def _is_stream(content_type: str, body: bytes) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "text/event-stream" or body.startswith((b"data:", b"event:", b": "))


def _completion(document: dict[str, Any]) -> tuple[str, str] | None:
    choice = _first(document)
    if choice is None:
        return None
    said = choice.get("message")
    if not isinstance(said, dict):
        return _id(document), text_of(choice.get("text"))
    calls = [called(call.get("function")) for call in items(said.get("tool_calls"))]
    calls.append(called(said.get("function_call")))
    text = text_of(said.get("content")) or text_of(said.get("refusal"))
    return _id(document), joined(text, *calls)


def _chunks(events: Iterable[dict[str, Any]]) -> tuple[str, str] | None:
    """The deltas of a stream, joined."""
    identity, texts, seen = "", [], False
    calls: dict[int, dict[str, str]] = {}
    for event in events:
        choice = _first(event)
        if choice is None:
            continue
        seen = True
        identity = identity or _id(event)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            texts.append(text_of(choice.get("text")))
            continue
        texts.append(text_of(delta.get("content")) or text_of(delta.get("refusal")))
        for call in items(delta.get("tool_calls")):
            _add(calls, call.get("index"), call.get("function"))
        _add(calls, -1, delta.get("function_call"))
    if not seen:
        return None
    return identity, joined("".join(texts), *(called(call) for call in calls.values()))


def _add(calls: dict[int, dict[str, str]], index: Any, function: Any) -> None:
    """A piece of a call: the name comes first, the arguments bit by bit."""
    if not isinstance(function, dict):
        return
    call = calls.setdefault(index if isinstance(index, int) else 0, {"arguments": ""})
    if isinstance(function.get("name"), str):
        call.setdefault("name", function["name"])
    if isinstance(function.get("arguments"), str):
        call["arguments"] += function["arguments"]


def _response(document: dict[str, Any]) -> tuple[str, str] | None:
    """The Responses API: a list of what was put out."""
    if not isinstance(document.get("output"), list):
        return None
    return _id(document), joined(*(_output(item) for item in items(document["output"])))


def _response_events(events: Iterable[dict[str, Any]]) -> tuple[str, str] | None:
    identity, texts, calls, seen = "", [], [], False
    for event in events:
        kind, response = event.get("type"), event.get("response")
        if isinstance(response, dict):
            seen = True
            identity = identity or _id(response)
            if kind == "response.completed" and (whole := _response(response)) and whole[1]:
                return whole
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            seen = True
            texts.append(text_of(event.get("delta")))
        elif kind == "response.output_item.done":
            item = event.get("item")
            if isinstance(item, dict) and item.get("type") == "function_call":
                calls.append(called(item))
    return (identity, joined("".join(texts), *calls)) if seen else None


def _output(item: dict[str, Any]) -> str:
    if item.get("type") == "function_call":
        return called(item)
    return text_of(item.get("content")) if item.get("type") == "message" else ""


def _first(document: dict[str, Any]) -> dict[str, Any] | None:
    """The choice of index 0, in a document or in one chunk of a stream."""
    for choice in items(document.get("choices")):
        if choice.get("index", 0) == 0:
            return choice
    return None


def _id(document: dict[str, Any]) -> str:
    identity = document.get("id")
    return identity if isinstance(identity, str) else ""
