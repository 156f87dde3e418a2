"""The contract with aiohttp: what proxy/wire relies on, and no document promises."""

import asyncio
import os
import subprocess
import sys

import pytest
from aiohttp.http import HttpRequestParser, HttpResponseParser
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from proxy.wire.parsers import (
    MAX_HEADERS,
    MAX_PIPELINED,
    MAX_READ,
    Parser,
    request_parser,
    require_c_parser,
    response_parser,
    too_large,
)

GET = b"GET http://h/%b HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST http://h/ HTTP/1.1\r\nHost: h\r\n"


class Owner:
    """What a parser calls back."""

    def __init__(self) -> None:
        self.connected = True
        self.calls: list[str] = []
        self.parser: Parser | None = None

    def pause_reading(self) -> None:
        self.calls.append("pause")
        assert self.parser is not None
        self.parser.pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        self.calls.append("resume" if resume_parser else "resume at eof")


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def requests(owner: Owner) -> Parser:
    owner.parser = request_parser(owner, asyncio.get_running_loop(), 1000)
    return owner.parser


@pytest.fixture
async def responses(owner: Owner) -> Parser:
    loop = asyncio.get_running_loop()
    owner.parser = response_parser(owner, loop, 1000, with_body=True)
    return owner.parser


async def test_the_c_parser_is_there() -> None:
    require_c_parser()
    assert HttpResponseParser.__module__ == "aiohttp._http_parser"


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_without_the_c_parser_we_do_not_start() -> None:
    code = "from proxy.wire.parsers import require_c_parser as r; r()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: aiohttp's C parser is missing" in done.stderr


async def test_a_request_head(requests: Parser) -> None:
    raw = POST[:-2] + b"\r\nx-Y:  a b \t\r\nX-y: \xff\r\nContent-Length: 2\r\n\r\nok"
    ((head, payload),), upgraded, tail = requests.feed_data(raw)
    assert (upgraded, tail) == (False, b"")
    assert (head.method, head.path, tuple(head.version)) == ("POST", "http://h/", (1, 1))
    assert (head.should_close, head.upgrade, head.chunked) == (False, False, False)
    assert (head.url.scheme, head.url.raw_host, head.url.port) == ("http", "h", 80)
    assert list(head.raw_headers) == [
        (b"Host", b"h"),
        (b"x-Y", b"a b"),
        (b"X-y", b"\xff"),
        (b"Content-Length", b"2"),
    ]
    assert payload.read_nowait() == b"ok"
    assert payload.is_eof()


async def test_a_request_without_a_body_has_the_empty_payload(requests: Parser) -> None:
    ((_, payload),), _, _ = requests.feed_data(GET % b"")
    assert payload is EMPTY_PAYLOAD
    assert payload.is_eof()


async def test_a_body_is_read_right_after_it_was_fed(requests: Parser) -> None:
    ((_, payload),), _, _ = requests.feed_data(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    assert (payload.read_nowait(), payload.is_eof()) == (b"", False)
    requests.feed_data(b"3\r\nab")
    assert (payload.read_nowait(), payload.is_eof()) == (b"ab", False)
    requests.feed_data(b"c\r\n0\r\nT: 1\r\n\r\n")
    assert (payload.read_nowait(), payload.is_eof()) == (b"c", True)


async def test_is_eof_says_that_all_arrived_read_or_not(requests: Parser) -> None:
    ((_, payload),), _, _ = requests.feed_data(POST + b"Content-Length: 2\r\n\r\nok")
    assert payload.is_eof()
    assert payload.read_nowait() == b"ok"


async def test_a_body_not_read_pauses_and_a_read_resumes(requests: Parser, owner: Owner) -> None:
    size = 3 * MAX_READ
    ((_, payload),), _, _ = requests.feed_data(POST + b"Content-Length: %d\r\n\r\n" % size)
    for _ in range(3):
        requests.feed_data(bytes(MAX_READ))
    assert owner.calls[0] == "pause"
    assert len(payload.read_nowait()) > 2 * MAX_READ
    assert "resume" in owner.calls
    requests.feed_data(b"")  # what it kept back
    payload.read_nowait()
    assert payload.is_eof()


async def test_the_parser_stops_between_requests_when_many_wait(requests: Parser) -> None:
    total = MAX_PIPELINED + 5
    got, _, _ = requests.feed_data(b"".join(GET % b"%d" % n for n in range(total)))
    assert len(got) == MAX_PIPELINED
    for _ in range(MAX_PIPELINED):
        requests.message_consumed()
    got, _, _ = requests.feed_data(b"")
    assert [head.path for head, _ in got] == [f"http://h/{n}" for n in range(MAX_PIPELINED, total)]


@pytest.mark.parametrize(
    "raw",
    [
        b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_what_follows_a_change_of_protocol_is_handed_over(
    requests: Parser, raw: bytes
) -> None:
    ((head, payload),), upgraded, tail = requests.feed_data(raw + b"\x16\x03raw")
    assert (head.upgrade, upgraded, tail) == (True, True, b"\x16\x03raw")
    if head.method == "CONNECT":
        assert (head.url.raw_host, head.url.explicit_port) == ("h", 443)
        assert payload is not EMPTY_PAYLOAD  # so a refusal closes


async def test_errors_and_which_of_them_are_of_size(owner: Owner) -> None:
    loop = asyncio.get_running_loop()
    cases = [
        (b"garbage\r\n\r\n", False),
        (b"GET /" + b"a" * 1001, True),
        (GET[:-2] + b"X: " + b"a" * 1001, True),
        (GET[:-2] + b"".join(b"X: y\r\n" for _ in range(MAX_HEADERS + 1)) + b"\r\n", True),
        (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", False),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"GET http://h/ HTTP/1.1\r\n\r\n", False),
    ]
    for raw, large in cases:
        with pytest.raises(HttpProcessingError) as caught:
            request_parser(owner, loop, 1000).feed_data(raw)
        assert too_large(caught.value) is large, raw[:40]
        assert isinstance(caught.value.message, str)
    assert issubclass(LineTooLong, HttpProcessingError)


async def test_an_answer_head(responses: Parser) -> None:
    raw = b"HTTP/1.1 200 All\xe9 right\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ((head, payload),), _, _ = responses.feed_data(raw)
    assert (head.code, tuple(head.version)) == (200, (1, 1))
    assert head.reason.encode("utf-8", "surrogateescape") == b"All\xe9 right"
    assert (head.should_close, head.upgrade, head.chunked) == (False, False, True)
    assert (payload.read_nowait(), payload.is_eof()) == (b"ok", True)


async def test_interim_and_final_answers_come_one_after_the_other(responses: Parser) -> None:
    raw = b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\n\r\n"
    got, _, _ = responses.feed_data(raw)
    assert [head.code for head, _ in got] == [100, 204]
    assert got[1][1].is_eof()


async def test_an_answer_until_the_end_of_the_connection(responses: Parser) -> None:
    ((head, payload),), _, _ = responses.feed_data(b"HTTP/1.1 200 OK\r\n\r\nab")
    assert head.should_close
    assert (payload.read_nowait(), payload.is_eof()) == (b"ab", False)
    responses.feed_eof()
    assert payload.is_eof()


@pytest.mark.parametrize("frame", [b"Content-Length: 50", b"Transfer-Encoding: chunked"])
async def test_an_end_too_early_is_an_error(responses: Parser, frame: bytes) -> None:
    responses.feed_data(b"HTTP/1.1 200 OK\r\n" + frame + b"\r\n\r\n5\r\nab")
    with pytest.raises(HttpProcessingError):
        responses.feed_eof()


async def test_an_answer_to_head(owner: Owner) -> None:
    parser = response_parser(owner, asyncio.get_running_loop(), 1000, with_body=False)
    ((_, payload),), _, _ = parser.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert payload is EMPTY_PAYLOAD


async def test_101_hands_over_what_follows(responses: Parser) -> None:
    raw = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw"
    ((head, _),), upgraded, tail = responses.feed_data(raw)
    assert (head.code, head.upgrade, upgraded, tail) == (101, True, True, b"raw")


def test_names_and_arguments() -> None:
    both = {"auto_decompress", "max_line_size", "max_field_size", "max_headers"}
    for parser, more in (
        (HttpRequestParser, {"max_msg_queue_size"}),
        (HttpResponseParser, {"read_until_eof", "response_with_body"}),
    ):
        for name in both | more:
            parser(None, None, 1, **{name: 1})
        for method in ("feed_data", "feed_eof", "message_consumed", "pause_reading"):
            assert callable(getattr(parser, method))
    for method in ("read_nowait", "is_eof"):
        assert callable(getattr(StreamReader, method))
