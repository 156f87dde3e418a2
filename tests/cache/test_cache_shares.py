"""Whose answer it is, and who may have it."""

import asyncio

import pytest

from policies import Verdict
from tests.cache.stall import FRESH, PRICE, Stall, another, paid, state
from tests.e2e.house import House, until
from tests.e2e.seller import reply

SHARED = {"shared": True}


async def test_agents_share_nothing_unless_it_is_said(home: House, stall: Stall) -> None:
    other = await another(home, "other")
    await home.ask(f"{stall.url}/a")
    assert state(await home.ask(f"{stall.url}/a", proxy=other)) == (200, "paid")
    assert state(await home.ask(f"{stall.url}/a", proxy=other)) == (200, "cached")
    assert stall.sold == 2


@pytest.mark.parametrize("cache", [SHARED])
async def test_a_shared_answer_serves_every_agent(home: House, stall: Stall) -> None:
    other = await another(home, "other", daily_limit=0)
    first = await home.ask(f"{stall.url}/a")
    again = await home.ask(f"{stall.url}/a", proxy=other)
    assert state(again) == (200, "cached")
    assert again.headers["Autopay-Payment"] == first.headers["Autopay-Payment"]
    # It has no money of its own, and needs none.
    assert (await home.ask(f"{stall.url}/b", proxy=other)).json["code"] == "over_daily_limit"
    assert stall.sold == 1


@pytest.mark.parametrize("cache", [SHARED])
@pytest.mark.parametrize(
    "headers",
    [
        [(b"Cache-Control", b"private, max-age=60")],
        [(b"Cache-Control", b'max-age=60, private="x-plan"')],
        [FRESH, (b"Set-Cookie", b"user=1")],
    ],
)
async def test_a_private_answer_is_its_agents_alone(
    home: House, stall: Stall, headers: list[tuple[bytes, bytes]]
) -> None:
    other = await another(home, "other")
    stall.goods = lambda seen: paid(headers)
    for proxy, how in (
        (home.proxy, "paid"),
        (other, "paid"),
        (home.proxy, "cached"),
        (other, "cached"),
    ):
        assert state(await home.ask(f"{stall.url}/a", proxy=proxy)) == (200, how)
    assert stall.sold == 2


@pytest.mark.parametrize("cache", [SHARED])
@pytest.mark.parametrize(
    "field", ["Authorization", "Cookie", "X-API-Key", "X-Goog-Api-Key", "apikey"]
)
async def test_who_shows_a_credential_shares_what_may_be_shared_outright(
    home: House, stall: Stall, field: str
) -> None:
    other = await another(home, "other")
    ann, bob = {field: "ann"}, {field: "bob"}
    stall.goods = lambda seen: paid(body=seen.headers.get(field.lower(), "nobody").encode())
    for proxy, headers, body in (
        (home.proxy, ann, b"ann"),
        (home.proxy, bob, b"bob"),
        (other, ann, b"ann"),
        (other, {}, b"nobody"),
    ):
        for how in ("paid", "cached"):
            answer = await home.ask(f"{stall.url}/a", proxy=proxy, headers=headers)
            assert (state(answer), answer.body) == ((200, how), body)
    assert stall.sold == 4
    assert (await home.ask(f"{stall.url}/a", headers={field: "eve"})).body == b"eve"
    stall.goods = lambda seen: paid([(b"Cache-Control", b"public, max-age=60")])
    await home.ask(f"{stall.url}/b", headers=ann)
    assert state(await home.ask(f"{stall.url}/b", proxy=other, headers=bob)) == (200, "cached")


async def test_s_maxage_is_for_shared_caches(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(
        [(b"Cache-Control", b"max-age=0, s-maxage=60"), (b"ETag", b'"1"')]
    )
    for _ in range(2):
        assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")


@pytest.mark.parametrize("field", ["X-RapidAPI-Key", "X-Amz-Security-Token"])
async def test_one_agents_keys_are_kept_apart(home: House, stall: Stall, field: str) -> None:
    stall.goods = lambda seen: paid(body=seen.headers[field.lower()].encode())
    for who in ("ann", "bob"):
        for how in ("paid", "cached"):
            answer = await home.ask(f"{stall.url}/a", headers={field: who})
            assert (state(answer), answer.body) == ((200, how), who.encode())


@pytest.mark.parametrize("cache", [SHARED])
async def test_s_maxage_goes_before_max_age(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid([(b"Cache-Control", b"max-age=0, s-maxage=60")])
    for how in ("paid", "cached"):
        assert state(await home.ask(f"{stall.url}/a")) == (200, how)


@pytest.mark.parametrize("cache", [{}, SHARED])
async def test_the_policy_is_asked_each_time(home: House, stall: Stall) -> None:
    await home.ask(f"{stall.url}/a")
    port = stall.url.rpartition(":")[2]
    for changes, code in (
        ({"frozen": True}, "frozen"),
        ({"allowed_endpoints": ("GET https://elsewhere.example/*",)}, "endpoint_not_allowed"),
        ({"allowed_pay_to": (str(home.wallet.pubkey()),)}, "pay_to_not_allowed"),
        ({"allowed_networks": ("solana:mainnet",)}, "network_not_allowed"),
        ({"allowed_targets": (f"127.0.0.1:{int(port) ^ 1}",)}, "egress_loopback"),
    ):
        await home.set_policy(**changes)
        answer = await home.ask(f"{stall.url}/a")
        assert (answer.status, answer.json["code"]) == (403, code)
    await home.set_policy(per_call_limit=0, daily_limit=0)
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")
    await home.set_rules("shopper", None, denied_endpoints=[f"GET {stall.url}/*"])
    assert (await home.ask(f"{stall.url}/a")).json["code"] == "endpoint_denied"
    assert stall.sold == 1


async def test_a_policy_that_knows_hours_is_asked_again_soon(
    home: House, stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    await home.ask(f"{stall.url}/a")
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")
    closed = Verdict(False, "hours_closed", "")
    monkeypatch.setattr("proxy.cache.cache.decide", lambda policy, ask: closed)
    async with asyncio.timeout(10):
        while state(await home.ask(f"{stall.url}/a")) != (200, "paid"):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("cache", [SHARED])
async def test_an_erased_agent_is_served_nothing_and_leaves_nothing(
    home: House, stall: Stall
) -> None:
    other = await another(home, "other")
    stall.goods = lambda seen: paid([(b"Cache-Control", b"private, max-age=60")])
    await home.ask(f"{stall.url}/mine", proxy=other)
    stall.goods = lambda seen: paid()
    await home.ask(f"{stall.url}/ours")
    for path in ("mine", "ours"):
        assert state(await home.ask(f"{stall.url}/{path}", proxy=other)) == (200, "cached")
    cache = home.service.cache
    assert cache is not None and cache.entries == 2
    await home.rows("SELECT erase_agent('other', 'ann')")
    await until(lambda: cache.entries == 1)
    for path in ("mine", "ours"):
        assert (await home.ask(f"{stall.url}/{path}", proxy=other)).status == 407
    assert state(await home.ask(f"{stall.url}/ours")) == (200, "cached")


@pytest.mark.parametrize("cache", [SHARED])
async def test_who_changes_it_makes_it_untrue(home: House, stall: Stall) -> None:
    stall.free = lambda seen: (
        None
        if seen.line.startswith("GET")
        else reply(
            int(seen.headers["x-status"]),
            [(b"Location", b"/b?x=1"), (b"Content-Location", stall.url.encode() + b"/c")],
        )
    )
    asked = [f"{stall.url}{target}" for target in ("/a", "/b?x=1", "/c", "/d")]

    async def states() -> list[str | None]:
        return [(await home.ask(url)).headers["Autopay-State"] for url in asked]

    assert await states() == ["paid"] * 4
    for method, status in (("POST", "500"), ("DELETE", "404"), ("OPTIONS", "200")):
        await home.ask(asked[0], method, headers={"X-Status": status})
        assert await states() == ["cached"] * 4
    for method, status in (("POST", "201"), ("DELETE", "204"), ("PATCH", "303")):
        await home.ask(asked[0], method, headers={"X-Status": status})
        assert await states() == ["paid", "paid", "paid", "cached"], method
    assert await home.counters() == (13 * PRICE, 0)


async def test_what_is_changed_through_a_mount_without_a_cache_is_changed(
    home: House, stall: Stall
) -> None:
    assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")
    bearer = {"Authorization": f"Bearer {home.token}"}
    bare = await home.ask(f"{home.mounts}/bare/a", "POST", proxy=None, headers=bearer)
    assert bare.status == 200
    assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")
