"""Fixture files to bytes: one JSON file per oddity, with the answer that is expected of us."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parent / "fixtures"

Headers = list[tuple[bytes, bytes]]


def encode_header(value: Any) -> bytes:
    """A plain string, {"raw": JSON} or {"base64": JSON, "dress": "unpadded" | "urlsafe"}."""
    if isinstance(value, str):
        return value.encode()
    if "raw" in value:
        return json.dumps(value["raw"]).encode()
    raw = json.dumps(value["base64"], ensure_ascii=False).encode()
    dress = value.get("dress")
    if dress == "urlsafe":
        return base64.urlsafe_b64encode(raw).rstrip(b"=")
    text = base64.b64encode(raw)
    return text.rstrip(b"=") if dress == "unpadded" else text


def encode_body(body: Any) -> bytes:
    """JSON, or {"text": …, "times": n} for what is none."""
    if body is None:
        return b""
    if set(body) == {"text", "times"}:
        return (body["text"] * body["times"]).encode()
    return json.dumps(body).encode()


@pytest.fixture
def load_fixture() -> Callable[[str], tuple[dict[str, Any], Headers, bytes]]:
    def load(name: str) -> tuple[dict[str, Any], Headers, bytes]:
        case = json.loads((FIXTURES / f"{name}.json").read_text())
        headers = [(key.encode(), encode_header(value)) for key, value in case["headers"]]
        return case, headers, encode_body(case["body"])

    return load
