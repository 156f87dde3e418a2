"""Providers served under a path: who asks, what is asked of whom, and what the program sees."""

import json

import pytest
from wire_rig import PAYMENT, TOKEN, Rig, demand, ok, rig, sold

TOKEN_B = TOKEN.encode()
BY_HEADER = b"Autopay-Token: " + TOKEN_B
BY_BEARER = b"Authorization: Bearer " + TOKEN_B
BY_PATH = b"/~" + TOKEN_B


def raw(path: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    fields = b"".join(line + b"\r\n" for line in lines)
    return b"%b %b HTTP/1.1\r\nHost: localhost:8403\r\n%b\r\n" % (method, path, fields)


async def ask(it: Rig, path: bytes, *lines: bytes):  # type: ignore[no-untyped-def]
    client = await it.mounted()
    await client.send(raw(path, *lines))
    return await client.answer()


@pytest.mark.parametrize(
    ("prefix", "line"),
    [
        (b"", BY_HEADER),
        (b"", BY_BEARER),
        (b"", b"authorization: bearer  " + TOKEN_B),
        (BY_PATH, b"X: y"),
    ],
)
async def test_three_places_for_the_token_and_none_of_them_goes_on(
    rig: Rig, prefix: bytes, line: bytes
) -> None:
    answer = await ask(rig, prefix + b"/shop/a/b?c=d", line, b"X-Kept: 1")
    assert answer.body == b"GET /a/b?c=d HTTP/1.1"
    assert TOKEN not in repr(rig.seen)
    assert not rig.seen.all(b"authorization")
    assert rig.seen.all(b"x-kept") == [b"1"]
    assert rig.seen.all(b"host") == [rig.provider.authority]


@pytest.mark.parametrize(("prefix", "line"), [(b"", BY_HEADER), (BY_PATH, b"X: y")])
async def test_authorization_is_the_providers_when_the_token_came_otherwise(
    rig: Rig, prefix: bytes, line: bytes
) -> None:
    await ask(rig, prefix + b"/shop/", line, b"Authorization: Bearer of-the-provider")
    assert rig.seen.all(b"authorization") == [b"Bearer of-the-provider"]


async def test_a_referer_does_not_carry_the_token_on(rig: Rig) -> None:
    referer = b"Referer: http://localhost:8403" + BY_PATH + b"/shop/page"
    await ask(rig, BY_PATH + b"/shop/", referer, BY_BEARER)
    assert TOKEN not in repr(rig.seen)


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        (b"/shop/", []),
        (b"/shop/", [b"Autopay-Token: wrong"]),
        (b"/shop/", [b"Autopay-Token: "]),
        (b"/shop/", [b"Autopay-Token: wrong", BY_BEARER]),
        (b"/shop/", [b"Authorization: Bearer wrong"]),
        (b"/shop/", [b"Authorization: Basic " + TOKEN_B]),
        (b"/shop/", [b"Proxy-Authorization: Bearer " + TOKEN_B]),
        (b"/~wrong/shop/", [BY_HEADER]),
        (b"/~/shop/", []),
        (b"/~\xc2/shop/"[:2] + b"%C3/shop/", []),
    ],
)
async def test_without_a_token_nothing_is_asked(rig: Rig, path: bytes, lines: list[bytes]) -> None:
    answer = await ask(rig, path, *lines)
    assert answer.status == 401
    assert answer.one(b"www-authenticate") == b'Bearer realm="autopay"'
    problem = json.loads(answer.body)
    assert problem["code"] == "authentication_required"
    assert not rig.provider.connections


@pytest.mark.parametrize(
    "path", [b"/", b"/nope/x", b"/SHOP/x", b"/shop%2Fx", b"//shop/x", b"/shop?/x/y"]
)
async def test_an_unknown_mount_is_a_404(rig: Rig, path: bytes) -> None:
    answer = await ask(rig, path, BY_HEADER)
    assert answer.status == 404
    assert "shop" in json.loads(answer.body)["detail"]
    assert not rig.provider.connections


@pytest.mark.parametrize(("path", "line"), [(b"http://127.0.0.1:1/x", 400), (b"*", 400)])
async def test_a_mount_is_not_a_forward_proxy(rig: Rig, path: bytes, line: int) -> None:
    client = await rig.mounted()
    await client.send(raw(path, BY_HEADER, method=b"OPTIONS"))
    assert (await client.answer()).status == line
    client = await rig.mounted()
    await client.send(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n" + BY_HEADER + b"\r\n\r\n")
    assert (await client.answer()).status == 405
    assert await client.rest() == (b"", "eof")


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (b"/shop", b"/"),
        (b"/shop/", b"/"),
        (b"/shop?q=1", b"/?q=1"),
        (b"/shop/?q=1", b"/?q=1"),
        (b"/shop//a//", b"//a//"),
        (b"/shop/%2e%2e/%2F?%zz", b"/%2e%2e/%2F?%zz"),
        (b"/shop/../../etc", b"/../../etc"),
        (b"/shop/~" + TOKEN_B[:3] + b"/x", b"/~tok/x"),
        (b"/shop/a;b=c/@:!$&'()*+,=|^`\"<>", b"/a;b=c/@:!$&'()*+,=|^`\"<>"),
    ],
)
@pytest.mark.parametrize("base", ["", "/v1", "/v1/deep/"])
async def test_paths_travel_byte_for_byte_below_the_base(
    asked: bytes, path: bytes, base: str
) -> None:
    async with rig(base=base) as it:
        await ask(it, asked, BY_HEADER)
        assert it.seen.path == base.rstrip("/").encode() + path


@pytest.mark.parametrize(
    ("base", "location", "seen"),
    [
        ("", b"/login?x", b"/shop/login?x"),
        ("", b"%b/login", b"/shop/login"),
        ("", b"%b", b"/shop/"),
        ("", b"%b?x", b"%b?x"),
        ("", b"relative/x", b"relative/x"),
        ("", b"//elsewhere/x", b"//elsewhere/x"),
        ("", b"http://elsewhere/x", b"http://elsewhere/x"),
        ("", b"%b.evil/x", b"%b.evil/x"),
        ("", b"%b1/x", b"%b1/x"),
        ("/v1", b"/v1/a", b"/shop/a"),
        ("/v1", b"/v1", b"/shop"),
        ("/v1", b"/v1?x=1", b"/shop?x=1"),
        ("/v1", b"/v12/a", b"/v12/a"),
        ("/v1", b"%b/v1/a", b"/shop/a"),
        ("/v1", b"%b/v2/a", b"%b/v2/a"),
    ],
)
@pytest.mark.parametrize("prefix", [b"", BY_PATH])
async def test_redirects_to_the_provider_itself_come_back_here(
    base: str, location: bytes, seen: bytes, prefix: bytes
) -> None:
    async with rig(base=base) as it:
        place = location.replace(b"%b", it.provider.url)
        it.at(base.encode() + b"/r", ok(b"", b"location: " + place, status=b"302 Found"))
        line = b"X: y" if prefix else BY_HEADER
        answer = await ask(it, prefix + b"/shop/r", line)
        expected = seen.replace(b"%b", it.provider.url)
        expected = prefix + expected if expected.startswith(b"/shop") else expected
        assert answer.one(b"location") == expected


async def test_a_mount_pays(rig: Rig) -> None:
    rig.at(b"/p", sold(ok(b"goods"), demand()))
    rig.gate.answering = rig.gate.buy
    answer = await ask(rig, BY_PATH + b"/shop/p?q", b"Authorization: Bearer theirs")
    assert answer.body == b"goods"
    first, second = rig.provider.requests
    assert second.all(PAYMENT[0])
    assert TOKEN not in repr((first, second))
    (purchase,) = rig.gate.purchases
    assert (purchase.mount, purchase.path) == ("shop", "/p")
    assert purchase.url == rig.provider.url.decode() + "/p?q"


async def test_a_rewritten_location_of_a_paid_answer(rig: Rig) -> None:
    rig.at(b"/p", sold(ok(b"", b"Location: /next", status=b"303 See Other")))
    rig.gate.answering = rig.gate.buy
    assert (await ask(rig, b"/shop/p", BY_HEADER)).one(b"location") == b"/shop/next"
