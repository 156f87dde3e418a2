"""Who may ask, whom the request goes to, and which of its lines arrive there."""

import asyncio
import json
from base64 import b64encode

import pytest
from wire_rig import CREDENTIAL, TOKEN, Rig, ok

from proxy.wire.origin import plain_host
from proxy.wire.problem import Problem
from proxy.wire.routes import origin_of


async def test_a_request_reaches_the_provider_in_origin_form(rig: Rig) -> None:
    answer = await rig.ask(b"/a/b?c=d")
    assert answer.status == 200
    assert answer.body == b"GET /a/b?c=d HTTP/1.1"
    assert rig.seen.all(b"host") == [rig.provider.authority]
    assert rig.gate.tickets[0].said == ["success 200"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"", b"/"),
        (b"?q", b"/?q"),
        (b"/a#fragment", b"/a"),
        (b"/%2e%2E/%zz//..;x/*'()[]|{}^`\"<>\\", b"/%2e%2E/%zz//..;x/*'()[]|{}^`\"<>\\"),
        (b"/a?b?c=%00&//", b"/a?b?c=%00&//"),
    ],
)
async def test_a_path_travels_byte_for_byte(rig: Rig, target: bytes, path: bytes) -> None:
    await rig.ask(target)
    assert rig.seen.line == b"GET " + path + b" HTTP/1.1"


async def test_options_without_a_path_asks_the_server_itself(rig: Rig) -> None:
    await rig.ask(b"", method=b"OPTIONS")
    assert rig.seen.line == b"OPTIONS * HTTP/1.1"


async def test_the_target_wins_over_host(rig: Rig) -> None:
    client = await rig.client()
    raw = rig.request().replace(b"Host: " + rig.provider.authority, b"Host: evil.example")
    await client.send(raw)
    await client.answer()
    assert rig.seen.all(b"host") == [rig.provider.authority]


async def test_userinfo_does_not_travel(rig: Rig) -> None:
    client = await rig.client()
    await client.send(rig.request().replace(b"http://", b"http://user:secret@", 1))
    await client.answer()
    assert b"secret" not in repr(rig.seen).encode()


async def test_case_order_and_repeats_of_headers_are_kept(rig: Rig) -> None:
    lines = [b"X-bEe: 1", b"accept: a", b"X-Bee: 2", b"Cookie: c=1", b"x-bee: 1", b"Cookie: d=2"]
    await rig.ask(b"/", *lines, b"conTENT-length: 000", body=b"")
    rig.provider.scenes[b"/r"] = ok(b"", b"sEt-Cookie: a", b"X-B: \xe9\xff", b"Set-cookie: b")
    client = await rig.client()
    await client.send(rig.request(b"/r"))
    answer = await client.answer()
    sent = [name + b": " + value for name, value in rig.provider.requests[0].headers]
    assert sent[1:-1] == lines
    assert sent[-1] == b"conTENT-length: 0"
    assert answer.headers[1:] == [
        (b"sEt-Cookie", b"a"),
        (b"X-B", b"\xe9\xff"),
        (b"Set-cookie", b"b"),
    ]


async def test_hop_by_hop_fields_stop_here(rig: Rig) -> None:
    mine = [
        b"Connection: X-Mine, close",
        b"X-Mine: 1",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Something: 1",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"Trailer: X-T",
        b"Upgrade: h2c",
        b"X-Ours: 2",
    ]
    rig.at(b"/hop", ok(b"ok", b"Connection: X-Secret", b"X-Secret: 1", b"Keep-Alive: x", b"X-K: 1"))
    answer = await rig.ask(b"/hop", *mine)
    names = {name.lower() for name, _ in rig.seen.headers}
    assert names == {b"host", b"x-ours", b"te", b"connection"}
    assert rig.seen.all(b"te") == [b"trailers"]  # our own word: trailers are handed on
    assert rig.seen.all(b"connection") == [b"TE"]
    assert {name.lower() for name, _ in answer.headers} == {
        b"content-length",
        b"x-k",
        b"connection",
    }
    assert answer.one(b"connection") == b"close"


async def test_connection_cannot_strip_what_frames_or_names_a_request(rig: Rig) -> None:
    line = b"Connection: content-length, host, authorization"
    await rig.ask(b"/", line, b"Authorization: Basic x", method=b"POST", body=b"abc")
    assert rig.seen.body == b"abc"
    assert rig.seen.all(b"authorization") == [b"Basic x"]
    assert len(rig.provider.requests) == 1


async def test_our_own_headers_travel_neither_way(rig: Rig) -> None:
    rig.at(b"/x", ok(b"ok", b"Autopay-Payment: forged", b"autopay-amount: 0", b"X-Autopay: kept"))
    answer = await rig.ask(
        b"/x", b"Autopay-Token: t", b"AUTOPAY-Session: s", b"autopay-trace: t", b"Autopay-New: n"
    )
    assert not [name for name, _ in rig.seen.headers if name.lower().startswith(b"autopay")]
    assert not [name for name, _ in answer.headers if name.lower().startswith(b"autopay")]
    assert answer.one(b"x-autopay") == b"kept"


async def test_the_programs_own_payment_goes_on_and_to_the_gate(rig: Rig) -> None:
    rig.at(b"/x", ok(b"", status=b"402 Payment Required"))
    await rig.ask(b"/x", b"X-PAYMENT: abc")
    assert rig.seen.all(b"x-payment") == [b"abc"]
    assert (b"X-PAYMENT", b"abc") in rig.gate.purchases[0].raw_headers


@pytest.mark.parametrize(
    "line",
    [
        b"X-None: 1",
        b"Proxy-Authorization: Basic",
        b"Proxy-Authorization: Basic !!!",
        b"Proxy-Authorization: Bearer " + TOKEN.encode(),
        b"Proxy-Authorization: Basic " + b64encode(b"ann:wrong"),
        b"Proxy-Authorization: Basic " + b64encode(b"bob:" + TOKEN.encode()),
        b"Proxy-Authorization: Basic " + b64encode(b"ann"),
        b"Proxy-Authorization: Basic " + b64encode(b"\xff:\xff"),
        b"Authorization: Basic " + b64encode(b"ann:" + TOKEN.encode()),
        b"Autopay-Token: " + TOKEN.encode(),
    ],
)
async def test_without_the_agents_credential_nothing_is_sent(rig: Rig, line: bytes) -> None:
    client = await rig.client()
    raw = rig.request().replace(CREDENTIAL, line)
    await client.send(raw)
    answer = await client.answer()
    assert answer.status == 407
    assert answer.one(b"proxy-authenticate") == b'Basic realm="autopay", charset="UTF-8"'
    problem = json.loads(answer.body)
    assert problem["code"] == "proxy_authentication_required"
    assert problem["status"] == 407
    assert not rig.provider.connections
    # The connection is still good for a second try, as RFC 9110 wants it.
    await client.send(rig.request())
    assert (await client.answer()).status == 200


async def test_a_refused_request_with_a_body_closes(rig: Rig) -> None:
    client = await rig.client()
    await client.send(rig.request(method=b"POST", body=b"x").replace(CREDENTIAL, b"X: y"))
    answer = await client.answer()
    assert (answer.status, answer.one(b"connection")) == (407, b"close")
    assert await client.rest() == (b"", "eof")


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (b"/a", "not_a_proxy_request"),
        (b"ftp://127.0.0.1/a", "scheme_not_supported"),
        (b"http://127.0.0.1:0/", "bad_request"),
    ],
)
async def test_what_is_not_for_a_proxy_is_refused(rig: Rig, target: bytes, code: str) -> None:
    client = await rig.client()
    await client.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + CREDENTIAL + b"\r\n\r\n")
    answer = await client.answer()
    assert answer.status == 400
    assert answer.one(b"content-type") == b"application/problem+json"
    assert json.loads(answer.body)["code"] == code


@pytest.mark.parametrize(
    "host", [b"no-such-host.invalid", b"a..b", b"x" * 64 + b".example", b"127.0.0.1:1", b"[::1]:1"]
)
async def test_a_provider_that_cannot_be_reached_is_a_502(rig: Rig, host: bytes) -> None:
    client = await rig.client()
    await client.send(
        b"GET http://" + host + b"/ HTTP/1.1\r\nHost: x\r\n" + CREDENTIAL + b"\r\n\r\n"
    )
    answer = await client.answer()
    assert answer.status == 502
    assert json.loads(answer.body)["code"] == "upstream_unreachable"
    assert rig.gate.tickets[0].said[0].startswith("failure")


async def test_a_provider_whose_breaker_is_open_is_not_asked(rig: Rig) -> None:
    rig.gate.closed = Problem(503, "provider_down", "Later.", {}, ((b"Retry-After", b"30"),))
    answer = await rig.ask(method=b"POST", body=b"abc")
    assert (answer.status, answer.one(b"retry-after")) == (503, b"30")
    assert not rig.provider.connections


async def test_leave_to_try_a_provider_again_may_have_to_be_waited_for(rig: Rig) -> None:
    rig.gate.probe = asyncio.Event()
    asking = asyncio.create_task(rig.ask(b"/p", method=b"POST", body=b"abc"))
    await asyncio.sleep(0.05)
    assert not rig.provider.connections
    rig.gate.probe.set()
    assert (await asking).status == 200
    assert rig.gate.tickets[0].said == ["success 200"]

    rig.gate.closed = Problem(503, "provider_down", "Later.")
    assert (await rig.ask(method=b"POST", body=b"abc")).status == 503
    assert len(rig.provider.requests) == 1


async def test_who_hangs_up_while_leave_is_waited_for_gives_it_back(rig: Rig) -> None:
    rig.gate.probe = asyncio.Event()
    client = await rig.client()
    await client.send(rig.request())
    await asyncio.sleep(0.05)
    client.reset()
    await asyncio.sleep(0.05)
    rig.gate.probe.set()
    async with asyncio.timeout(10):
        while not rig.gate.tickets or not rig.gate.tickets[0].said:
            await asyncio.sleep(0.01)
    assert rig.gate.tickets[0].said == ["neutral"]
    assert not rig.provider.connections


@pytest.mark.parametrize(
    ("status", "said"),
    [(b"404 No", "neutral"), (b"503 No", "failure 503"), (b"302 F", "success 302")],
)
async def test_what_an_answer_says_of_the_provider(rig: Rig, status: bytes, said: str) -> None:
    rig.at(b"/s", ok(b"", b"Location: http://127.0.0.1:1/", status=status))
    answer = await rig.ask(b"/s")
    assert answer.line == b"HTTP/1.1 " + status
    assert rig.gate.tickets[0].said == [said]
    assert len(rig.provider.requests) == 1  # a redirect is the program's business


async def test_the_gate_learns_session_and_trace(rig: Rig) -> None:
    rig.at(b"/p", ok(b"", status=b"402 Payment Required"))
    await rig.ask(b"/p?q=1", b"Autopay-Session: s-1", b"Autopay-Trace: " + b"t" * 300)
    purchase = rig.gate.purchases[0]
    assert (purchase.session, purchase.trace) == ("s-1", "t" * 200)
    assert purchase.url == rig.provider.url.decode() + "/p?q=1"
    assert (purchase.path, purchase.method, purchase.mount) == ("/p", "GET", None)
    assert purchase.agent.name == "ann"


async def test_compressed_bodies_are_not_touched(rig: Rig) -> None:
    import gzip

    packed = gzip.compress(b"hello" * 1000)
    rig.at(b"/z", ok(packed, b"Content-Encoding: gzip"))
    assert (await rig.ask(b"/z")).body == packed


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("API.Example.com.", "api.example.com"),
        ("api.node1", "api.node1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("1.2.3.4.5", "1.2.3.4.5"),  # a name that nobody has
    ],
)
def test_a_host_has_one_spelling(written: str, plain: str) -> None:
    assert plain_host(written) == plain == plain_host(plain)


@pytest.mark.parametrize(
    "host", ["", ".", "a..", "127.1", "1", "0x7f.1", "010.8.8.8", "127.1.", "::1%1", "1::2::3"]
)
def test_what_has_none_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"^(not a host|write )"):
        plain_host(host)
    if "." in host:
        with pytest.raises(ValueError, match=r"^(not a host|write )"):
            origin_of(f"http://{host}/")
