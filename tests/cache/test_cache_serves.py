"""What is served again without being paid for again, through the listening socket."""

import gc
import socket
from email.utils import formatdate

import aiohttp
import pytest

from proxy.wire.downstream import Downstream
from tests.cache.stall import FRESH, PRICE, Stall, by_hand, paid, state
from tests.e2e.house import House, until
from tests.e2e.seller import HangUp, Last, reply


async def test_the_second_time_costs_nothing(home: House, stall: Stall) -> None:
    first = await home.ask(f"{stall.url}/a")
    assert state(first) == (200, "paid")
    assert first.headers["Cache-Status"] == "autopay; fwd=uri-miss; stored"
    again = await home.ask(f"{stall.url}/a")
    assert state(again) == (200, "cached")
    assert (again.body, again.headers["Age"]) == (b"goods", "0")
    assert again.headers["Autopay-Payment"] == first.headers["Autopay-Payment"]
    assert again.headers["Autopay-Saved"] == "0.001 USDC"
    assert again.headers["Cache-Status"].startswith("autopay; hit; ttl=")
    assert again.headers.getall("Cache-Control") == ["max-age=60"]
    assert "PAYMENT-RESPONSE" not in again.headers
    assert (stall.sold, home.paid_on_chain(), await home.counters()) == (1, 0, (PRICE, 0))
    assert len(stall.asked) == 2  # the 402, and the payment


async def test_another_path_or_query_is_another_thing(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(body=seen.line.encode())
    for target in ("/a", "/a?x=1", "/a?x=2", "/b"):
        assert (await home.ask(stall.url + target)).body.split()[1] == target.encode()
    assert stall.sold == 4


async def test_mount_and_proxy_share_what_is_the_same(home: House, stall: Stall) -> None:
    await home.ask(f"{stall.url}/a")
    url = f"{home.mounts}/stall/a"
    mounted = await home.ask(url, proxy=None, headers={"Autopay-Token": home.token})
    assert state(mounted) == (200, "cached")
    # Autopay's own token says nothing to the provider, wherever it came.
    bearer = {"Authorization": f"Bearer {home.token}"}
    assert state(await home.ask(url, proxy=None, headers=bearer)) == (200, "cached")
    assert stall.sold == 1


STALE = [FRESH, (b"Age", b"60")]


async def test_what_is_stale_is_bought_anew(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid([*STALE, (b"ETag", b'"1"')])
    await home.ask(f"{stall.url}/a")
    again = await home.ask(f"{stall.url}/a")
    assert state(again) == (200, "paid")
    assert again.headers["Cache-Status"] == "autopay; fwd=stale; fwd-status=200; stored"
    assert stall.sold == 2


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"Cache-Control", b"no-store, max-age=60")],
        [(b"Cache-Control", b"no-cache, max-age=60")],
        [(b"Cache-Control", b"max-age=60, max-age=0")],
        [(b"Expires", b"0")],
        [FRESH, (b"Vary", b"*")],
        [FRESH, (b"Content-Type", b"text/event-stream")],
        [FRESH, (b"Date", formatdate(0, usegmt=True).encode())],
    ],
)
async def test_what_may_not_be_served_again_is_not(
    home: House, stall: Stall, headers: list[tuple[bytes, bytes]]
) -> None:
    stall.goods = lambda seen: paid(headers)
    for _ in range(2):
        assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")
    assert stall.sold == 2


async def test_a_part_is_never_kept(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid([FRESH, (b"Content-Range", b"bytes 0-4/9")], status=206)
    for headers in ({"Range": "bytes=0-4"}, {}):
        assert state(await home.ask(f"{stall.url}/a", headers=headers)) == (206, "paid")
    stall.goods = lambda seen: paid()
    assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")
    part = await home.ask(f"{stall.url}/a", headers={"Range": "bytes=0-4"})
    assert state(part) == (200, "paid")  # not ours to cut up
    assert stall.sold == 4


async def test_what_broke_off_is_never_kept(home: House, stall: Stall) -> None:
    chunked = paid(body=b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    whole = paid(body=b"x" * 100)
    for name, part in (("a", whole[:-1]), ("b", chunked + b"2\r\ngo\r\n")):
        stall.goods = lambda seen, part=part: Last(part)
        with pytest.raises(aiohttp.ClientError):
            await home.ask(f"{stall.url}/{name}")
        stall.goods = lambda seen: whole
        assert state(await home.ask(f"{stall.url}/{name}")) == (200, "paid")
    assert stall.sold == 4


async def test_an_answer_that_only_ends_with_its_connection_is_not_kept(
    home: House, stall: Stall
) -> None:
    whole = paid().replace(b"Content-Length: 5\r\n", b"Connection: close\r\n")
    stall.goods = lambda seen: Last(whole)
    for _ in range(2):
        assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")
    assert stall.sold == 2


async def test_chunks_are_kept(home: House, stall: Stall) -> None:
    head = paid(body=b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    stall.goods = lambda seen: head + b"2\r\ngo\r\n3\r\nods\r\n0\r\n\r\n"
    await home.ask(f"{stall.url}/a")
    again = await home.ask(f"{stall.url}/a")
    assert (state(again), again.body) == ((200, "cached"), b"goods")
    assert again.headers["Content-Length"] == "5"


async def test_vary_tells_answers_apart(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(
        [FRESH, (b"Vary", b"Accept-Language, X-Plan")],
        seen.headers.get("accept-language", "none").encode(),
    )
    for language in ("de", "en", "de", "en"):
        answer = await home.ask(f"{stall.url}/a", headers={"Accept-Language": language})
        assert answer.body.decode() == language
    assert stall.sold == 2
    spaced = await home.ask(f"{stall.url}/a", headers={"Accept-Language": "  de "})
    assert state(spaced) == (200, "cached")
    missed = await home.ask(f"{stall.url}/a")
    assert missed.headers["Cache-Status"] == "autopay; fwd=vary-miss; stored"
    assert (missed.body, stall.sold) == (b"none", 3)


async def test_head_is_served_from_get_and_not_the_other_way(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid() if seen.line.startswith("GET") else paid(body=b"")
    assert state(await home.ask(f"{stall.url}/b", "HEAD")) == (200, "paid")
    assert state(await home.ask(f"{stall.url}/b", "HEAD")) == (200, "cached")
    assert (await home.ask(f"{stall.url}/b")).body == b"goods"
    assert stall.sold == 2
    head = await home.ask(f"{stall.url}/b", "HEAD")
    assert (state(head), head.body) == ((200, "cached"), b"")
    assert head.headers["Content-Length"] == "5"


async def test_the_programs_own_conditions(home: House, stall: Stall) -> None:
    changed = b"Wed, 01 Jan 2020 00:00:00 GMT"
    stall.goods = lambda seen: paid([FRESH, (b"ETag", b'W/"7"'), (b"Last-Modified", changed)])
    await home.ask(f"{stall.url}/a")
    for headers, status in (
        ({"If-None-Match": '"6", "7"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"6"'}, 200),
        ({"If-None-Match": '"6"', "If-Modified-Since": changed.decode()}, 200),
        ({"If-Modified-Since": changed.decode()}, 304),
        ({"If-Modified-Since": "Tue, 31 Dec 2019 00:00:00 GMT"}, 200),
    ):
        answer = await home.ask(f"{stall.url}/a", headers=headers)
        assert state(answer) == (status, "cached"), headers
        assert answer.body == (b"" if status == 304 else b"goods")
        assert (answer.headers["ETag"], answer.headers["Age"]) == ('W/"7"', "0")
    assert stall.sold == 1
    held = await home.ask(f"{stall.url}/a", headers={"If-Match": '"7"'})
    assert state(held) == (200, "paid")  # only its provider can say


async def test_what_the_request_wants(home: House, stall: Stall) -> None:
    headers = {"Cache-Control": "only-if-cached"}
    none = await home.ask(f"{stall.url}/a", headers=headers)
    assert (none.status, none.json["code"]) == (504, "not_cached")
    assert stall.asked == []
    stall.goods = lambda seen: paid([FRESH, (b"Age", b"20")])
    await home.ask(f"{stall.url}/a")
    for wanted, how in (
        ("only-if-cached", "cached"),
        ("max-age=30", "cached"),
        ("max-age=10", "paid"),
        ("min-fresh=30", "cached"),
        ("min-fresh=50", "paid"),
        ("no-cache", "paid"),
        ("no-store", "paid"),
        ("max-age=bad", "paid"),
    ):
        answer = await home.ask(f"{stall.url}/a", headers={"Cache-Control": wanted})
        assert state(answer) == (200, how), wanted
    assert state(await home.ask(f"{stall.url}/a", headers={"Pragma": "no-cache"}))[1] == "paid"


async def test_a_stale_answer_for_whom_that_will_do(home: House, stall: Stall) -> None:
    for name, more, how in (("a", b"", "cached"), ("b", b", must-revalidate", "paid")):
        stall.goods = lambda seen, more=more: paid(
            [(b"Cache-Control", b"max-age=60" + more), (b"Age", b"90"), (b"ETag", b'"1"')]
        )
        await home.ask(f"{stall.url}/{name}")
        for wanted, then in (("max-stale=10", "paid"), ("max-stale=60", how), ("max-stale", how)):
            answer = await home.ask(f"{stall.url}/{name}", headers={"Cache-Control": wanted})
            assert state(answer) == (200, then), (name, wanted)


@pytest.mark.parametrize("cache", [{"fresh_seconds": 60}])
async def test_how_long_may_be_the_operators_word(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid([])
    for how in ("paid", "cached"):
        assert state(await home.ask(f"{stall.url}/a")) == (200, how)
    stall.goods = lambda seen: paid([(b"Expires", b"0")])
    for how in ("paid", "paid"):  # the provider's word goes before it
        assert state(await home.ask(f"{stall.url}/b")) == (200, how)


@pytest.mark.parametrize("cache", [{"max_seconds": 10}])
async def test_no_answer_is_fresh_for_longer_than_the_operator_wants(
    home: House, stall: Stall
) -> None:
    stall.goods = lambda seen: paid([FRESH, (b"Age", b"5")])
    await home.ask(f"{stall.url}/a")
    again = await home.ask(f"{stall.url}/a")
    assert again.headers["Cache-Status"] == f"autopay; hit; ttl={10 - int(again.headers['Age'])}"
    stall.goods = lambda seen: paid([FRESH, (b"Age", b"20")])
    for _ in range(2):
        assert state(await home.ask(f"{stall.url}/b")) == (200, "paid")


@pytest.mark.parametrize("cache", [{"max_bytes": 1000, "methods": ["GET"]}])
async def test_bounds_of_one_answer(home: House, stall: Stall) -> None:
    chunked = paid(body=b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    for name, answer, how in (
        ("fits", paid(body=b"x" * 1000), "cached"),
        ("large", paid(body=b"x" * 1001), "paid"),
        ("grows", chunked + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n", "paid"),
    ):
        stall.goods = lambda seen, answer=answer: answer
        await home.ask(f"{stall.url}/{name}")
        again = await home.ask(f"{stall.url}/{name}")
        assert state(again) == (200, how), name
    assert state(await home.ask(f"{stall.url}/fits", "HEAD")) == (200, "paid")


@pytest.mark.parametrize("settings", [{"cache": {"memory_bytes": 25_000, "answers": 5}}])
async def test_memory_is_bounded_and_the_least_used_goes(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(body=b"x" * 5000)
    shelves = home.service.cache
    assert shelves is not None
    for name in "abc":
        await home.ask(f"{stall.url}/{name}")
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")
    await home.ask(f"{stall.url}/d")  # b was used least recently
    assert (shelves.entries, shelves.used <= 25_000) == (3, True)
    for name, how in (("a", "cached"), ("c", "cached"), ("d", "cached"), ("b", "paid")):
        assert state(await home.ask(f"{stall.url}/{name}")) == (200, how), name
    stall.goods = lambda seen: paid(body=b"")
    for number in range(9):
        await home.ask(f"{stall.url}/{number}")
    assert shelves.entries == 5


async def test_only_what_was_paid_for_is_kept(home: House, stall: Stall) -> None:
    lies = [FRESH, (b"Autopay-State", b"paid"), (b"Autopay-Payment", b"1")]
    stall.free = lambda seen: reply(200, lies, b"free")
    for _ in range(2):
        answer = await home.ask(f"{stall.url}/a")
        assert (state(answer), answer.body) == ((200, None), b"free")
    assert len(stall.asked) == 2


async def test_what_has_a_body_or_a_key_or_pays_itself_passes_by(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(body=seen.line.encode())
    await home.ask(f"{stall.url}/a")
    for options in (
        {"data": b"question"},
        {"headers": {"Idempotency-Key": "one"}},
    ):
        assert state(await home.ask(f"{stall.url}/a", **options)) == (200, "paid")
    own = await home.ask(f"{stall.url}/a", headers={"X-PAYMENT": "mine"})
    assert state(own) == (200, None)
    assert state(await home.ask(f"{stall.url}/a", "POST")) == (200, "paid")


async def test_a_failure_that_took_the_money_is_never_kept(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(status=404)
    for _ in range(2):
        assert state(await home.ask(f"{stall.url}/a")) == (404, "paid")
    stall.goods = lambda seen: reply(500, [FRESH], b"?")
    for _ in range(2):
        assert state(await home.ask(f"{stall.url}/b")) == (500, "in_doubt")
    assert len(set(stall.seller.payments)) == 3


@pytest.mark.parametrize("provider", [{"expect": {"min_bytes": 6}, "store_data": True}])
async def test_what_was_not_what_was_paid_for_is_never_kept(home: House, stall: Stall) -> None:
    for _ in range(2):
        assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")
    stall.goods = lambda seen: paid(body=b"goods!")
    for how in ("paid", "cached"):
        assert state(await home.ask(f"{stall.url}/a")) == (200, how)
    # Whoever else looks on has it all the same.
    await until(lambda: home.service.capture.waiting == 0)
    rows = await home.rows("SELECT data_accessed FROM api_requests ORDER BY created_at")
    assert [row["data_accessed"] is not None for row in rows] == [True] * 3


@pytest.mark.parametrize("provider", [{"expect": {"min_bytes": 5}}])
async def test_a_304_that_was_paid_for_needs_no_body(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid([*STALE, (b"ETag", b'"1"')])
    await home.ask(f"{stall.url}/a")
    stall.goods = lambda seen: paid([FRESH], b"", status=304)
    answer = await home.ask(f"{stall.url}/a")
    assert (state(answer), answer.body) == ((200, "paid"), b"goods")
    rows = await home.rows("SELECT success FROM x402_procurement_receipts")
    assert [row["success"] for row in rows] == [True, True]


@pytest.mark.parametrize("settings", [{"breaker": {"failures": 1}}])
async def test_a_provider_that_is_left_alone_is_not_missed(home: House, stall: Stall) -> None:
    await home.ask(f"{stall.url}/a")

    def down(_: object) -> bytes:
        raise HangUp

    stall.free = down
    assert (await home.ask(f"{stall.url}/b")).status == 502
    assert (await home.ask(f"{stall.url}/b")).json["code"] == "breaker_open"
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")


@pytest.mark.parametrize("cache", [{"max_bytes": "16MiB"}])
async def test_a_large_answer_is_in_memory_once_however_slow_its_programs_are(
    home: House, stall: Stall
) -> None:
    body = bytes(range(256)) * (48 * 1024)  # 12 MiB
    stall.goods = lambda seen: paid([*STALE, (b"ETag", b'"1"')], body)
    await home.ask(f"{stall.url}/a")
    stall.free = lambda seen: reply(304, [FRESH])
    checked = await home.ask(f"{stall.url}/a")
    assert (state(checked), checked.body == body) == ((200, "cached"), True)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(home.service.proxy_address)
        slow.sendall(by_hand(home, f"{stall.url}/a"))

        def waiting() -> int:
            """Bytes that autopay has written and the kernel has not taken."""
            ends = [one for one in gc.get_objects() if isinstance(one, Downstream)]
            return max(one.transport.get_write_buffer_size() for one in ends if one.transport)

        await until(lambda: waiting() > 0)
        again = await home.ask(f"{stall.url}/a")
        assert (state(again), again.body == body) == ((200, "cached"), True)
        assert 0 < waiting() < 2**22


@pytest.mark.parametrize("broken", ["proxy.cache.cache.wish", "proxy.cache.visit.rules.scope"])
async def test_a_fault_of_the_cache_costs_nobody_an_answer(
    home: House, stall: Stall, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(broken, fails)
    for _ in range(2):
        answer = await home.ask(f"{stall.url}/a")
        assert (state(answer), answer.body) == ((200, "paid"), b"goods")
