"""What a chat endpoint answered, whole or streamed, however it was cut up on the way."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.answered import read_answer
from proxy.chat.endpoint import Endpoint
from tests.chat.test_chat_requests import json_values

CHAT, RESPONSES, COMPLETIONS = Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.COMPLETIONS
STREAM = "text/event-stream; charset=utf-8"


def read(endpoint: Endpoint, body: bytes, kind: str = "application/json") -> tuple[str, str] | None:
    found = read_answer(endpoint, kind, body, truncated=False)
    return None if found is None else (found.id, found.said.text)


def stream(*events: Any, end: str = "\n") -> bytes:
    lines = [f"data: {json.dumps(event)}{end}{end}" for event in events]
    return "".join([*lines, f"data: [DONE]{end}{end}"]).encode()


def delta(content: Any = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": {"content": content, **more}}]}


@pytest.mark.parametrize(
    ("endpoint", "document", "said"),
    [
        (CHAT, {"id": "c", "choices": [{"message": {"content": "hi"}}]}, ("c", "hi")),
        (
            CHAT,
            {"choices": [{"index": 1, "message": {"content": "b"}},
                         {"index": 0, "message": {"content": "a"}}]},
            ("", "a"),
        ),
        (
            CHAT,
            {"id": "c", "choices": [{"message": {"content": "so:", "tool_calls": [
                {"function": {"name": "f", "arguments": "{}"}},
                {"function": {"name": "g", "arguments": "{}"}}]}}]},
            ("c", "so:\n[tool call] f({})\n[tool call] g({})"),
        ),
        (CHAT, {"id": "c", "choices": [{"message": {"refusal": "no"}}]}, ("c", "no")),
        (COMPLETIONS, {"id": "c", "choices": [{"text": "t"}]}, ("c", "t")),
        (
            RESPONSES,
            {"id": "r", "output": [
                {"type": "reasoning"},
                {"type": "message", "content": [{"type": "output_text", "text": "out"}]},
                {"type": "function_call", "name": "f", "arguments": "1"}]},
            ("r", "out\n[tool call] f(1)"),
        ),
        (CHAT, {"error": {"message": "x"}}, None),
        (CHAT, {"choices": []}, None),
        (RESPONSES, {"id": "r"}, None),
        (CHAT, [1], None),
    ],
)  # fmt: skip
def test_a_whole_answer(endpoint: Endpoint, document: Any, said: tuple[str, str] | None) -> None:
    assert read(endpoint, json.dumps(document).encode()) == said


def test_a_stream() -> None:
    body = b": ping\n\n" + stream(
        delta(role="assistant"),
        delta("Hel"),
        delta("other", index=1),
        delta("lo"),
        {"id": "c1", "choices": [], "usage": {}},
    )
    assert read(CHAT, body, STREAM) == ("c1", "Hello")
    assert read(CHAT, body, "") == ("c1", "Hello")


def test_tool_calls_of_a_stream() -> None:
    def piece(index: int, **function: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, "function": function}])

    body = stream(
        delta("let me see"),
        piece(0, name="f", arguments=""),
        piece(0, arguments='{"a"'),
        piece(1, name="g", arguments="{}"),
        piece(0, arguments=":1}"),
    )
    assert read(CHAT, body, STREAM) == (
        "c1",
        'let me see\n[tool call] f({"a":1})\n[tool call] g({})',
    )


def test_other_streams() -> None:
    body = stream({"id": "t", "choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]})
    assert read(COMPLETIONS, body, STREAM) == ("t", "ab")
    events = [
        {"type": "response.created", "response": {"id": "r", "output": []}},
        {"type": "response.output_text.delta", "delta": "par"},
        {"type": "response.output_text.delta", "delta": "tial"},
    ]
    assert read(RESPONSES, stream(*events), STREAM) == ("r", "partial")
    call = {"type": "function_call", "name": "f", "arguments": "1"}
    events.append({"type": "response.output_item.done", "item": call})
    assert read(RESPONSES, stream(*events), STREAM) == ("r", "partial\n[tool call] f(1)")
    whole = [{"type": "message", "content": [{"type": "output_text", "text": "all"}]}]
    events.append({"type": "response.completed", "response": {"id": "r", "output": whole}})
    assert read(RESPONSES, stream(*events), STREAM) == ("r", "all")


words = st.lists(st.text(max_size=12), max_size=12)
endings = st.sampled_from(["\n", "\r\n", "\r"])


@given(words, endings)
def test_the_ends_of_lines_do_not_matter(texts: Sequence[str], end: str) -> None:
    body = stream(delta(role="assistant"), *(delta(text) for text in texts), end=end)
    said = read(CHAT, body, STREAM)
    clean = "".join(texts).replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    assert said == ("c1", clean)


@given(words, endings, st.integers(0, 2000))
def test_what_came_of_a_stream_is_the_beginning_of_what_was_said(
    texts: Sequence[str], end: str, cut: int
) -> None:
    body = stream(delta(role="assistant"), *(delta(text) for text in texts), end=end)
    whole, part = read(CHAT, body, STREAM), read(CHAT, body[:cut], STREAM)
    assert whole is not None
    assert part is None or whole[1].startswith(part[1])


@given(json_values)
def test_no_shape_hurts(value: Any) -> None:
    document = {"id": value, "choices": value, "output": value, "type": "response.completed"}
    for one in (document, {"choices": [{"message": value, "delta": value, "text": value}]}):
        for endpoint in Endpoint:
            read(endpoint, json.dumps(one).encode())
            read(endpoint, stream(one, {"response": document, "delta": value}), STREAM)
