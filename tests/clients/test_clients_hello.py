"""The first bytes of a tunnel: whatever they are, and however they come."""

import ssl
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.wire.hello import MAX_HELLO, FirstBytes, Opening, Talk


def read_opening(data: bytes) -> Opening | None:
    return FirstBytes().add(data)


def client_hello(name: str | None, *, alpn: bool = True) -> bytes:
    """As OpenSSL sends it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(["h2", "http/1.1"])
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(into, out, server_hostname=name).do_handshake()
    return out.read()


NAMED = client_hello("shop.autopay.test")
NAMELESS = client_hello(None)


def in_records(hello: bytes, size: int) -> bytes:
    """The same message in records of `size` bytes."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(p).to_bytes(2, "big") + p for p in pieces)


def padded(hello: bytes, size: int) -> bytes:
    """With a padding extension (RFC 7685), as a huge key share would fill it."""
    body = hello[9:]
    at = 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    extensions = b"\x00\x15" + size.to_bytes(2, "big") + bytes(size) + body[at + 2 :]
    body = body[:at] + len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return in_records(b"     " + message, 16384)


def test_what_openssl_sends() -> None:
    assert read_opening(NAMED) == Opening(Talk.TLS, "shop.autopay.test")
    assert read_opening(NAMELESS) == Opening(Talk.TLS, None)
    assert read_opening(client_hello("127.0.0.1")) == Opening(Talk.TLS, None)


@pytest.mark.parametrize(
    ("first", "talk"),
    [
        (b"GET / HTTP/1.1", Talk.HTTP),
        (b"M-SEARCH * HTTP/1.1", Talk.HTTP),
        (b"POST http://a/ HTTP/1.1", Talk.HTTP),
        (b"SSH-2.0-OpenSSH", Talk.OTHER),
        (b"PRI * HTTP/2.0\r\n", Talk.OTHER),
        (b"EHLO me", Talk.OTHER),
        (b"get /", Talk.OTHER),
        (b"A" * 40, Talk.OTHER),
        (b"\r\nGET /", Talk.OTHER),  # newlines are for the caller to take off
        (b"\x00\x00", Talk.OTHER),
        (b"\x80\x2e\x01", Talk.OTHER),  # SSLv2
        (b"\xff", Talk.OTHER),
        (b"\x16garbage that is no record", Talk.OTHER),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Talk.TLS),  # a ServerHello
    ],
)
def test_what_other_programs_send(first: bytes, talk: Talk) -> None:
    assert read_opening(first) == Opening(talk)


@pytest.mark.parametrize("first", [b"", b"G", b"GET", b"GET ", b"SSH-", b"\x16", b"\x16\x03"])
def test_too_little_to_say(first: bytes) -> None:
    assert read_opening(first) is None


@pytest.mark.parametrize("hello", [NAMED, NAMELESS])
def test_each_beginning_but_the_whole_wants_more(hello: bytes) -> None:
    for size in range(len(hello)):
        assert read_opening(hello[:size]) is None
    assert read_opening(hello + b"more") == read_opening(hello)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 37, 200])
def test_records_of_any_size_are_one_message(size: int) -> None:
    assert read_opening(in_records(NAMED, size)) == read_opening(NAMED)


@pytest.mark.parametrize("size", [1_500, 16_000, 24_000])
def test_a_huge_hello(size: int) -> None:
    hello = padded(NAMED, size)
    assert read_opening(hello) == read_opening(NAMED)
    assert read_opening(hello[:-1]) is None


def test_a_hello_without_end_is_openssls() -> None:
    endless = b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(MAX_HELLO)
    assert read_opening(endless[: MAX_HELLO - 1]) is None
    assert read_opening(endless[:MAX_HELLO]) == Opening(Talk.TLS)


@given(st.binary(max_size=300))
@example(b"\x16\x03\x01\x00\x00" * 50)
def test_whatever_comes_it_never_raises(data: bytes) -> None:
    read_opening(data)
    read_opening(b"\x16\x03\x01" + data)
    read_opening(b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data)


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_hello_never_raises_and_is_judged_the_same_however_it_comes(
    data: st.DataObject,
) -> None:
    """Once judged, more bytes change nothing: the judgement can't depend on how they were split."""
    hello = bytearray(NAMED)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(1, len(hello) - 1))
        hello[at] = data.draw(st.integers(0, 255))
    whole = bytes(hello)
    first, bit_by_bit = None, FirstBytes()
    for size in range(len(whole) + 1):
        opening = read_opening(whole[:size])
        assert bit_by_bit.add(whole[size - 1 : size] if size else b"") == opening
        if first is None:
            first = opening
        else:
            assert opening == first
    assert read_opening(whole) == first


def test_each_byte_is_looked_at_once() -> None:
    """A record for each byte of a hello without end, in segments of one byte."""
    endless = b"\x01\xff\xff\xff" + bytes(MAX_HELLO)
    raw = b"".join(b"\x16\x03\x01\x00\x01" + endless[at : at + 1] for at in range(5_000))
    first, began = FirstBytes(), time.process_time()
    for at in range(len(raw)):
        assert first.add(raw[at : at + 1]) is None
    assert time.process_time() - began < 0.5
