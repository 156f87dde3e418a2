"""What a request to a chat endpoint says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.asked import Asked, Said, read_request
from proxy.chat.endpoint import Endpoint, endpoint_of
from proxy.chat.parts import MAX_PREVIEW
from proxy.chat.text import MAX_TEXT, MAX_TITLE, title_of

CHAT, RESPONSES, COMPLETIONS = Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.COMPLETIONS


def user(text: str, image: str | None = None) -> Said:
    return Said(True, text, image)


def answer(text: str) -> Said:
    return Said(False, text)


def chat(*messages: Any) -> Asked | None:
    return read_request(CHAT, json.dumps({"model": "m", "messages": messages}).encode())


@pytest.mark.parametrize(
    ("method", "target", "endpoint"),
    [
        ("POST", b"/v1/chat/completions", CHAT),
        ("POST", b"/openai/deployments/x/chat/completions?api-version=1", CHAT),
        ("POST", b"/chat/completions/", CHAT),
        ("POST", b"/v1/completions", COMPLETIONS),
        ("POST", b"/v1/responses?x=/chat/completions", RESPONSES),
        ("GET", b"/v1/chat/completions", None),
        ("POST", b"/v1/chat/completions/5", None),
        ("POST", b"/chat?next=/v1/responses", None),
        ("POST", b"/", None),
    ],
)
def test_which_requests_are_chat(method: str, target: bytes, endpoint: Endpoint | None) -> None:
    assert endpoint_of(method, target) is endpoint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("plain", user("plain")),
        ([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}], user("a\nb")),
        (["bare", {"type": "text", "text": "x"}], user("bare\nx")),
        (
            [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "https://i.example/a.png?sig=s3cret"}},
                {"type": "image_url", "image_url": {"url": "https://i.example/b.png"}},
            ],
            user("see", "https://i.example/a.png?sig=***"),
        ),
        (
            [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}],
            user("", "data:image/png;base64,AAAA"),
        ),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}}],
            user("", "[image/png, 40022 bytes]"),
        ),
        ([{"type": "input_audio", "input_audio": {"data": "…"}}], user("[audio]")),
        ([{"type": "file", "file": {}}, 7, None, {"text": 5}], user("[file]")),
        ("nul \0 and half \ud800 pairs", user("nul \ufffd and half ? pairs")),
    ],
)
def test_what_a_user_says(content: Any, said: Said) -> None:
    found = chat({"role": "user", "content": content})
    assert found is not None
    assert found.said == (said,)


def test_a_conversation() -> None:
    found = chat(
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "look", "arguments": '{"at":1}'}}],
        },
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "thanks"},
        {"role": "user", "content": None},
        "rubbish",
    )
    assert found == Asked(
        (
            user("weather?"),
            answer('[tool call] look({"at":1})'),
            answer("It rains."),
            user("thanks"),
        ),
        "be brief",
    )
    assert found.prompt == "thanks"


def test_the_other_endpoints() -> None:
    body = json.dumps({"model": "m", "prompt": "once upon"}).encode()
    assert read_request(COMPLETIONS, body) == Asked((user("once upon"),))
    body = json.dumps({"input": "hi", "instructions": "x", "previous_response_id": "r1"}).encode()
    assert read_request(RESPONSES, body) == Asked((user("hi"),), "x", "r1")
    part = {"type": "input_text", "text": "hey"}
    body = json.dumps({"input": [{"role": "user", "content": [part]}]}).encode()
    assert read_request(RESPONSES, body) == Asked((user("hey"),))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"{}", b'{"messages":{}}', b"[" * 100_000, b"9" * 10_000],
)
def test_what_is_no_request(body: bytes) -> None:
    assert all(read_request(endpoint, body) is None for endpoint in Endpoint)


def test_bounds() -> None:
    found = chat({"role": "user", "content": "x" * (MAX_TEXT + 1)})
    assert found is not None
    assert (len(found.said[0].text), found.said[0].truncated) == (MAX_TEXT, True)
    found = chat({"role": "user", "content": [{"type": "image_url", "image_url": "x:" * 99_999}]})
    assert found is not None and len(found.said[0].image or "") <= MAX_PREVIEW
    assert title_of("  a\n b ") == "a b"
    assert title_of("") == "New Chat"
    assert len(title_of("long " * 99)) == MAX_TITLE


KEYS = (
    *("messages", "role", "content", "type", "text", "image_url", "url", "tool_calls"),
    *("function", "name", "arguments", "input", "prompt", "user", "instructions"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_no_shape_hurts(value: Any) -> None:
    body = json.dumps({"messages": value, "input": value, "prompt": value}).encode()
    for endpoint in Endpoint:
        found = read_request(endpoint, body)
        assert found is None or all(said.text.encode() is not None for said in found.said)
