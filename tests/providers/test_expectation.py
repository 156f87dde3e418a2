"""What an answer must be: each reason for a no, what is not judged, and what is no expectation."""

import gzip
import json
import time
import tracemalloc
import zlib

import brotli
import pytest

from proxy.expectation import (
    CALL_WORK,
    EXPLAINED_BYTES,
    MAX_BYTES,
    Expectation,
    Expectations,
    together,
)
from proxy.wire.gate import Came

JSON = ((b"Content-Type", b"application/json; charset=utf-8"),)
JSON_TYPE = "its content type is application/json"
UNLIKE = "it does not fit its schema"
MANY = "its value has more than 0 properties"
SCHEMA = {
    "type": "object",
    "required": ["price", "symbol"],
    "properties": {"price": {"type": "number", "minimum": 0}, "symbol": {"type": "string"}},
}
GOOD = b'{"price": 12.5, "symbol": "SOL", "at": {"days": [{"n": 1}]}}'


def fault(asked: dict, body: bytes | None = GOOD, headers=JSON, status=200, seconds=0.1):
    return Expectation.of(asked).judge(Came.at_hand(status, headers, body, seconds)).fault


def unread(asked: dict, body: bytes | None, headers=JSON, size: int | None = None) -> str | None:
    came = Came(200, headers, body, len(body or b"") if size is None else size, 0, 0)
    verdict = Expectation.of(asked).judge(came)
    assert verdict.fault is None
    return verdict.unread


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"content_type": "application/json"},
        {"content_type": "Application/JSON"},
        {"content_type": "application/*"},
        {"schema": SCHEMA},
        {"schema": json.dumps(SCHEMA)},
        {"schema": True},
        {"min_bytes": len(GOOD)},
        {"fields": ["price", "at.days.0.n"]},
        {"max_seconds": 0.1},
        {"schema": None, "content_type": None},
    ],
)
def test_a_good_answer_is_as_expected(asked):
    assert fault(asked) is None


@pytest.mark.parametrize(
    ("asked", "body", "said"),
    [
        ({"content_type": "text/csv"}, GOOD, f"{JSON_TYPE}, expected text/csv"),
        ({"content_type": "text/*"}, GOOD, f"{JSON_TYPE}, expected text/*"),
        ({"content_type": "application/json"}, b"", "it is empty"),
        ({"min_bytes": 1}, b"", "it is empty"),
        ({"schema": SCHEMA}, b"", "it is empty"),
        ({"fields": ["price"]}, b"", "it is empty"),
        ({"min_bytes": 100}, GOOD, f"it has {len(GOOD)} bytes, fewer than 100"),
        ({"schema": SCHEMA}, b"sold out", "it is not JSON"),
        ({"schema": SCHEMA}, b'{"price": NaN, "symbol": "SOL"}', "it is not JSON"),
        ({"schema": SCHEMA}, b"\xff\xfe\xfd", "it is not JSON"),
        ({"schema": SCHEMA}, b"[" * 100_000, "it is not JSON"),
        (
            {"schema": SCHEMA},
            b'{"price": "secret words", "symbol": "SOL"}',
            'it does not fit its schema at /price: its value is not of type "number"',
        ),
        (
            {"schema": SCHEMA},
            b'{"price": 1}',
            'it does not fit its schema at /: "symbol" is a required property',
        ),
        ({"schema": {"maxProperties": 0}}, GOOD, f"{UNLIKE} at /: {MANY}"),
        ({"fields": ["at.nights"]}, GOOD, "it lacks at.nights"),
        ({"fields": ["at.days.1"]}, GOOD, "it lacks at.days.1"),
        ({"fields": ["at.days." + "9" * 150]}, GOOD, "it lacks at.days." + "9" * 150),
        ({"fields": ["price.cents"]}, GOOD, "it lacks price.cents"),
        ({"fields": ["price"]}, b'{"price": null}', "it lacks price"),
        ({"fields": ["price"]}, b"12", "it lacks price"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(asked, body, said):
    assert fault(asked, body) == said


def test_an_answer_without_a_content_type_is_not_of_the_one_expected():
    said = "it has no content type, expected application/json"
    assert fault({"content_type": "application/json"}, headers=()) == said


def test_a_status_of_an_error_is_none_that_anything_else_makes_good():
    assert fault({"schema": SCHEMA}, status=500) == "it answered 500"
    assert fault({}, status=404) == "it answered 404"


def test_late_is_a_fault_of_its_own():
    came = Came(200, JSON, GOOD, len(GOOD), first_byte=0.5, seconds=2.5)
    verdict = Expectation.of({"max_seconds": 2, "schema": SCHEMA}).judge(came)
    assert (verdict.misfit, verdict.late) == (None, "it took 2.500 s, longer than 2 s")
    assert verdict.fault == verdict.late


def test_what_was_not_kept_is_judged_by_its_head_and_said_to_be_unread():
    asked = {"schema": SCHEMA, "min_bytes": 5}
    assert unread(asked, None, size=MAX_BYTES + 1) == f"it is larger than {MAX_BYTES} bytes"
    assert unread(asked, None, size=100) == "there was no room for it"
    stream = ((b"content-type", b"text/event-stream"),)
    assert unread(asked, None, stream, size=9) == "it is a stream of events"
    assert unread(asked, GOOD, (*JSON, (b"Content-Encoding", b"zstd"))) == (
        "its content coding is zstd"
    )
    assert unread(asked, GOOD) is None
    # Of what nobody wanted to read there is nothing to say.
    assert unread({"content_type": "application/json"}, None, size=MAX_BYTES + 1) is None
    assert fault({"content_type": "text/csv", **asked}, None) == (f"{JSON_TYPE}, expected text/csv")


def test_an_answer_that_can_have_no_body_lacks_none():
    assert fault({"schema": SCHEMA, "content_type": "application/json"}, None) is None
    assert fault({"content_type": "application/json"}, None, headers=()) is None  # HEAD
    assert fault({"schema": SCHEMA, "content_type": "application/json"}, b"", (), 304) is None
    assert fault({"schema": SCHEMA}, b"", (), 204) == "it is empty"


def test_only_what_wants_a_body_has_one_kept():
    assert Expectation.of({"content_type": "text/csv", "max_seconds": 1}).looks_at(JSON) == 0
    for asked in ({"schema": SCHEMA}, {"fields": ["a"]}, {"min_bytes": 1}):
        assert Expectation.of(asked | {"max_bytes": 1000}).looks_at(JSON) == 1000
        assert Expectation.of(asked).looks_at(((b"content-type", b"text/event-stream"),)) == 0


CODERS = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": brotli.compress,
}


@pytest.mark.parametrize("coding", CODERS)
def test_a_coded_body_is_read_beneath_its_coding(coding):
    headers = (*JSON, (b"Content-Encoding", coding))
    assert fault({"schema": SCHEMA, "min_bytes": len(GOOD)}, CODERS[coding](GOOD), headers) is None
    assert "price" in fault(
        {"schema": SCHEMA}, CODERS[coding](b'{"price": "", "symbol": ""}'), headers
    )
    assert fault({"schema": SCHEMA}, CODERS[coding](GOOD)[:30], headers) == "it is not JSON"


@pytest.mark.parametrize("coding", CODERS)
def test_a_bomb_is_not_blown_up(coding):
    bomb = CODERS[coding](b'{"a": "' + b" " * 40_000_000 + b'"}')
    headers = (*JSON, (b"Content-Encoding", coding))
    tracemalloc.start()
    said = unread({"schema": SCHEMA}, bomb, headers)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == f"it is larger than {MAX_BYTES} bytes, uncompressed"
    assert most < 4 * MAX_BYTES


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"schema": {"type": "objekt"}}, "is no JSON Schema: at /type: "),
        ({"schema": "{"}, "is no JSON Schema: it is not JSON"),
        ({"schema": {1, 2}}, "is no JSON Schema: it is not JSON"),
        ({"schema": "[]"}, "is no JSON Schema: it must be an object"),
        ({"schema": {"pattern": "(?=a)b"}}, "is no JSON Schema: at /pattern: "),
        ({"schema": {"$ref": "http://127.0.0.1:9/s.json"}}, "is no JSON Schema: at /: "),
        ({"schema": {"$ref": "file:///etc/passwd"}}, "is no JSON Schema: at /: "),
        ({"schema": {"description": "a" * 300_000}}, "is too large for a schema"),
        ({"content_type": "json"}, "content_type must be like"),
        ({"content_type": "text/csv; charset=utf-8"}, "content_type must be like"),
        ({"content_type": 5}, "content_type must be like"),
        ({"fields": "price"}, "fields must be a list of dotted paths"),
        ({"fields": ["a..b"]}, "fields must be a list of dotted paths"),
        ({"fields": [5]}, "fields must be a list of dotted paths"),
        ({"min_bytes": -1}, "min_bytes must be a whole number from 0"),
        ({"min_bytes": True}, "min_bytes must be a whole number from 0"),
        ({"min_bytes": 2000, "max_bytes": 1000}, "min_bytes must be a whole number from 0 to 1000"),
        ({"max_bytes": 100_000_000}, "max_bytes must be a whole number from 1"),
        ({"max_seconds": 0}, "max_seconds must be a number above 0"),
        ({"max_seconds": float("nan")}, "max_seconds must be a number above 0"),
        ({"max_seconds": "2"}, "max_seconds must be a number above 0"),
        ({"shema": {}}, "shema cannot be expected; what can: content_type, schema"),
    ],
)
def test_what_is_no_expectation_is_refused_with_one_line(asked, said):
    with pytest.raises(ValueError) as error:
        Expectation.of(asked)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_comes_with_a_call_has_no_references_and_is_small():
    # Two references at each depth: an answer of 40 brackets would keep a process for hours.
    doubling = {
        "$defs": {"a": {"anyOf": [{"items": {"$ref": "#/$defs/a"}}] * 2 + [False]}},
        "$ref": "#/$defs/a",
    }
    Expectation.of({"schema": doubling})
    with pytest.raises(ValueError, match="must not refer"):
        Expectation.of({"schema": doubling}, trusted=False)
    with pytest.raises(ValueError, match="too large"):
        Expectation.of({"schema": {"description": "a" * 20_000}}, trusted=False)
    with pytest.raises(ValueError, match="max_bytes"):
        Expectation.of({"max_bytes": MAX_BYTES + 1}, trusted=False)
    Expectation.of({"schema": SCHEMA}, trusted=False)


def test_a_pattern_cannot_be_made_to_backtrack():
    hostile = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    began = time.perf_counter()
    assert fault({"schema": hostile}, json.dumps({"a": "a" * 50_000 + "!"}).encode())
    assert time.perf_counter() - began < 5


def test_a_schema_of_a_call_cannot_hold_up_the_process() -> None:
    """The larger it is, the less is held against it: what is more passes unread."""
    one = {"items": {"not": {"anyOf": [{"enum": [i]} for i in range(900)]}}}
    body = b"[" + b"-1," * 330_000 + b"-1]"
    expectation = Expectation.of({"schema": one}, trusted=False)
    assert expectation.max_bytes * len(json.dumps(one)) <= CALL_WORK
    verdict = expectation.judge(Came.at_hand(200, JSON, body, 0.1))
    assert verdict.fault is None and "larger than" in str(verdict.unread)
    assert Expectation.of({"schema": one}).max_bytes == MAX_BYTES


def test_what_a_provider_sent_is_cut_and_made_harmless():
    said = fault({"content_type": "text/csv"}, headers=((b"content-type", b"\x1b[31m" * 99),))
    assert len(said) < 300
    assert said.isprintable()


def test_several_expectations_hold_together():
    price, late = Expectation.of({"fields": ["price"]}), Expectation.of({"max_seconds": 1})
    both = together(None, price, late)
    assert both.looks_at(JSON) == MAX_BYTES
    assert both.judge(Came.at_hand(200, JSON, GOOD, 0.5)).fault is None
    assert both.judge(Came.at_hand(200, JSON, b"{}", 0.5)).fault == "it lacks price"
    assert (
        both.judge(Came.at_hand(200, JSON, GOOD, 1.5)).fault == "it took 1.500 s, longer than 1 s"
    )
    seen = both.judge(Came(200, JSON, None, 9, first_byte=0.5, seconds=1.5))
    assert (seen.misfit, seen.late, seen.unread) == (
        None,
        "it took 1.500 s, longer than 1 s",
        "there was no room for it",
    )
    assert together(None, price) is price
    assert together(None, None) is None


def test_each_provider_of_an_origin_has_what_is_below_its_own_path():
    one, two = Expectation.of({"fields": ["one"]}), Expectation.of({"fields": ["two"]})
    at = Expectations([("a", "", one), ("b", "/v1", one), ("c", "/v1", one), ("c", "/v1/two", two)])
    assert at.of("a", "/anything") is one
    assert at.of("b", "/v2") is one  # the only one there
    assert at.of("c", "/v1/two/three") is at.of("c", "/v1/two") is two
    assert at.of("c", "/v1/twofold") is one
    assert at.of("c", "/v2") is None
    assert at.of("d", "/") is None


def test_of_a_large_answer_it_is_not_said_where_it_does_not_fit():
    wrong = json.dumps({"price": "x", "symbol": "y" * EXPLAINED_BYTES}).encode()
    assert fault({"schema": SCHEMA}, wrong) == "it does not fit its schema"


def test_a_schema_reads_no_file(tmp_path):
    (tmp_path / "other.json").write_text('{"type": "string"}')
    with pytest.raises(ValueError, match="is no JSON Schema"):
        Expectation.of({"schema": {"$ref": (tmp_path / "other.json").as_uri()}})
