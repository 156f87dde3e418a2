"""Intents, through the listening sockets: who is asked, who is paid, and what is said of it."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.authority import Authority
from proxy.localnet import Localnet
from tests.e2e.house import until
from tests.e2e.seller import Seen, challenge, offer
from tests.procurement.market import HOST, asks, market
from tests.providers.faulty import (
    GOODS,
    answers,
    empty,
    faulty,
    good,
    hangs,
    hangs_up,
    resets,
    settles,
    status,
    wrong,
)

JSON_WANTED = {"content_type": "application/json", "fields": ["goods"]}


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name that was asked of DNS."""
    names: list[str] = []
    real = asyncio.BaseEventLoop.getaddrinfo

    async def spied(loop: object, host: object, port: object, **options: object) -> object:
        names.append(str(host))
        return await real(loop, host, port, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", spied)
    return names


async def test_the_first_that_serves(
    net: Localnet, dsn: str, tmp_path: Path, looked_up: list[str]
) -> None:
    acts = {"free": good(), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        secrets = {"Cookie": "a=b", "X-API-Key": "mine", "X-PAYMENT": "e30="}
        answer = await quotes.want("/now?city=Oslo", headers={"X-Mine": "1", **secrets})
        assert (answer.status, answer.body) == (200, GOODS)
        assert answer.headers["Autopay-Provider"] == quotes.sellers["free"].url
        assert answer.headers["Autopay-Candidate"] == "free"
        assert answer.headers["Autopay-Attempts"] == "1"
        assert answer.headers["Autopay-Lost"] == "0.00 USD"
        (seen,) = quotes.sellers["free"].seen
        assert seen.line == "GET /v1/quote/now?city=Oslo HTTP/1.1"
        assert seen.headers["x-mine"] == "1"
        # They were not for this one, or for the next.
        assert not [name for name in secrets if name.lower() in seen.headers]
        assert not any(name.startswith("autopay") for name in seen.headers)
        (row,) = await quotes.rows()
        assert (row["status"], row["success"], row["payment_id"]) == (200, True, None)
    assert not [name for name in looked_up if "autopay" in name]


async def test_fail_over_and_what_was_lost(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"broken": status(500), "liar": asks(net, settles(500)), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        answer = await quotes.want()
        assert (answer.status, answer.body) == (200, GOODS)
        assert answer.headers["Autopay-Provider"] == quotes.sellers["paid"].url
        assert answer.headers["Autopay-Attempts"] == "3"
        assert answer.headers["Autopay-Lost"] == "0.001 USD"
        assert answer.headers["Autopay-State"] == "paid"
        rows = await quotes.rows()
        assert [(row["attempt"], row["status"], row["success"]) for row in rows] == [
            (1, 500, False),
            (2, 500, False),
            (3, 200, True),
        ]
        assert [row["paid_amount_atomic"] for row in rows] == ["0", "1000", "1000"]
        assert [row["payment_id"] is None for row in rows] == [True, False, False]
        assert await quotes.home.counters() == (2_000, 0)
        lost = await quotes.home.rows("SELECT micros FROM losses")
        assert [row["micros"] for row in lost] == [1_000]


async def test_what_is_expected_decides(net: Localnet, dsn: str, tmp_path: Path) -> None:
    """Of a paid answer and of a free one; and the provider's own expectation counts as well."""
    acts = {
        "liar": asks(net, settles(body=b"<h1>", kind=b"text/html")),
        "free liar": wrong(),
        "mute": asks(net, settles(body=b"")),
        "paid": asks(net, settles()),
    }
    candidates = {name: {"id": name.replace(" ", "-"), "expect": JSON_WANTED} for name in acts}
    del candidates["mute"]["expect"]
    async with faulty(empty()) as nobody:
        mute = {"upstream": nobody.url, "expect": {"min_bytes": 1}}
        async with market(
            net,
            dsn,
            tmp_path,
            acts,
            candidates,
            {"max_attempts": 4},
            providers=lambda sellers: {"mute": mute | {"upstream": sellers["mute"].url}},
        ) as quotes:
            answer = await quotes.want()
            assert (answer.status, answer.body) == (200, GOODS), answer.body
            assert answer.headers["Autopay-Candidate"] == "paid"
            assert answer.headers["Autopay-Attempts"] == "4"
            assert answer.headers["Autopay-Lost"] == "0.002 USD"
            rows = await quotes.rows()
            assert [row["schema_ok"] for row in rows] == [False, False, False, True]
            assert "content type" in rows[0]["error"]
            head = await quotes.want(method="HEAD")
            assert (head.status, head.body) == (200, b"")


async def test_all_fail(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"down": hangs_up(), "liar": asks(net, settles(503)), "vague": asks(net, hangs_up())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        answer = await quotes.want()
        assert answer.status == 502
        told = answer.json
        assert told["code"] == "intent_failed"
        assert [one["candidate"] for one in told["attempts"]] == ["down", "liar", "vague"]
        assert [one["money"] for one in told["attempts"]] == ["none", "paid", "in_doubt"]
        assert [one["cost_usd"] for one in told["attempts"]] == ["0.00", "0.001", "0.001"]
        assert all(one["fault"] and not one["served"] for one in told["attempts"])
        assert (told["lost_usd"], told["in_doubt_usd"]) == ("0.001", "0.001")
        payments = await quotes.home.rows("SELECT id::text AS id FROM payments ORDER BY created_at")
        assert [one["payment"] for one in told["attempts"]] == [
            None,
            *(row["id"] for row in payments),
        ]
        assert all(row["id"] in told["detail"] for row in payments)
        assert answer.headers["Autopay-Lost"] == "0.001 USD"
        assert answer.headers["Autopay-In-Doubt"] == "0.001 USD"
        assert [row["status"] for row in await quotes.rows()] == [599, 503, 599]


async def test_a_resetting_provider_is_not_the_end(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"half": resets(), "paid half": asks(net, settles(whole=False)), "good": good()}
    candidates = {"paid half": {"id": "paid-half"}}
    async with market(net, dsn, tmp_path, acts, candidates) as quotes:
        answer = await quotes.want()
        assert (answer.status, answer.body) == (200, GOODS)
        assert answer.headers["Autopay-Lost"] == "0.001 USD"


async def test_the_cap_is_for_all_attempts_together(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    """What was lost, and what is in doubt, is not there for the next."""
    acts = {
        "liar": asks(net, settles(500), 4_000),
        "vague": asks(net, hangs_up(), 4_000),
        "dear": asks(net, settles(), 4_000),
        "cheap": asks(net, settles(), 2_000),
    }
    intent = {"total": "0.010", "max_attempts": 4}
    async with market(net, dsn, tmp_path, acts, intent=intent) as quotes:
        answer = await quotes.want()
        assert answer.status == 200, answer.body
        assert answer.headers["Autopay-Candidate"] == "cheap"
        assert answer.headers["Autopay-In-Doubt"] == "0.004 USD"
        assert quotes.payments("dear") == 0
        denied = await quotes.home.row(
            "SELECT reason, limit_micros FROM policy_decision_logs WHERE decision = 'deny'"
        )
        assert denied == {"reason": "over_intent_cap", "limit_micros": 2_000}
        assert await quotes.home.counters() == (6_000, 4_000)


async def test_of_several_offers_one_may_fit(net: Localnet, dsn: str, tmp_path: Path) -> None:
    receivers = str(net.seller.pubkey()), str(net.fee_payer.pubkey())
    both = challenge(offer(*receivers, 9_000), offer(*receivers, 3_000))

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await (answers(both) if seen.payment is None else settles())(seen, writer)

    candidates = {"two": {"max_price": "0.005"}}
    async with market(net, dsn, tmp_path, {"two": act}, candidates) as quotes:
        answer = await quotes.want()
        assert (answer.status, answer.headers["Autopay-Amount"]) == (200, "0.003 USDC")
        row = await quotes.home.row(
            "SELECT x402_instructions->'offers'->0->>'left' AS left FROM api_requests"
        )
        assert row["left"] == "over_intent_cap"


async def test_who_may_not_be_asked_is_not(net: Localnet, dsn: str, tmp_path: Path) -> None:
    """By the agent's policy, by the intent's own, for want of https, and with an open breaker."""
    acts = {"denied": good(), "barred": good(), "broken": hangs_up(), "good": good()}
    async with market(
        net,
        dsn,
        tmp_path,
        acts,
        intent=lambda them: {"policy": {"denied_endpoints": [f"{them['barred'].url}/*"]}},
        breaker={"failures": 1},
    ) as quotes:
        denied = [f"{quotes.sellers['denied'].url}/*"]
        await quotes.home.set_rules(quotes.home.agent, None, denied_endpoints=denied)
        first, second = await quotes.want(), await quotes.want()
        assert [one.headers["Autopay-Attempts"] for one in (first, second)] == ["2", "1"]
        assert not quotes.sellers["denied"].seen and not quotes.sellers["barred"].seen
        assert len(quotes.sellers["broken"].seen) == 1
        quotes.sellers["good"].act = hangs_up()
        failed = await quotes.want()
        assert {one["candidate"]: one["code"] for one in failed.json["skipped"]} == {
            "denied": "endpoint_denied",
            "barred": "endpoint_denied",
            "broken": "breaker_open",
        }
        nobody = await quotes.want()
        assert (nobody.status, nobody.json["code"]) == (503, "intent_failed")
        assert not nobody.json["attempts"]


async def test_https_may_be_required(net: Localnet, dsn: str, tmp_path: Path) -> None:
    async with market(
        net, dsn, tmp_path, {"plain": good()}, intent={"require_https": True}
    ) as quotes:
        answer = await quotes.want()
        assert (answer.status, answer.json["skipped"][0]["code"]) == (503, "https_required")
        assert not quotes.sellers["plain"].seen


async def test_an_unknown_intent(
    net: Localnet, dsn: str, tmp_path: Path, looked_up: list[str]
) -> None:
    async with market(net, dsn, tmp_path, {"good": good()}) as quotes:
        for url in (
            "http://other.intent.autopay/",
            "http://a.quote.intent.autopay/",
            "http://intent.autopay/",
        ):
            answer = await quotes.home.ask(url)
            assert (answer.status, answer.json["code"]) == (404, "no_such_intent"), url
        answer = await quotes.want(method="OPTIONS")
        assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
        assert not quotes.sellers["good"].seen
    assert not [name for name in looked_up if "autopay" in name]


async def test_a_body_goes_to_each(net: Localnet, dsn: str, tmp_path: Path) -> None:
    """With a length or in chunks; and one that is too large is not begun with."""

    async def chunks() -> AsyncIterator[bytes]:
        for part in (b"one ", b"two"):
            yield part
            await asyncio.sleep(0.01)

    acts = {"broken": status(502), "good": good()}
    async with market(net, dsn, tmp_path, acts) as quotes:
        for body in (b"one two", chunks()):
            assert (await quotes.want(method="POST", data=body)).status == 200
        got = [seen for seller in quotes.sellers.values() for seen in seller.seen]
        assert [seen.body for seen in got] == [b"one two"] * 3  # the broken one is asked last then
        assert not any("transfer-encoding" in seen.headers for seen in got)
        large = await quotes.want(method="POST", data=b"x" * 1_100_000)
        assert (large.status, large.json["code"]) == (413, "content_too_large")
        assert len(quotes.sellers["good"].seen) == 2
        slow = await quotes.want(method="POST", data=b"x" * 900_000, expect100=True)
        assert slow.status == 200


async def test_what_is_too_long_to_be_judged_goes_on(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    body = b"x" * 3_000_000
    acts = {"broken": status(500), "long": asks(net, settles(body=body))}
    async with market(net, dsn, tmp_path, acts) as quotes:
        answer = await quotes.want()
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["Autopay-Attempts"] == "2"
        assert answer.headers["Autopay-Candidate"] == "long"
        assert answer.headers["Autopay-State"] == "paid"


async def test_events_are_relayed_as_they_come(net: Localnet, dsn: str, tmp_path: Path) -> None:
    more = asyncio.Event()

    async def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        writer.write(head + b"data: 1\n\n")
        await writer.drain()
        await more.wait()
        writer.write(b"data: 2\n\n")
        await writer.drain()
        writer.close()

    intent = {"seconds": 2}  # which a stream that has begun does not heed
    async with market(net, dsn, tmp_path, {"events": act}, intent=intent) as quotes:
        home = quotes.home
        async with home.session.get(HOST, proxy=home.proxy) as response:
            assert await response.content.readline() == b"data: 1\n"
            await asyncio.sleep(2.5)
            more.set()
            assert await response.content.read() == b"\ndata: 2\n\n"
            assert response.headers["Autopay-Candidate"] == "events"


async def test_who_is_too_slow_loses_its_turn(net: Localnet, dsn: str, tmp_path: Path) -> None:
    """Paid or not; what it was paid for counts as in doubt."""
    acts = {"hangs": hangs(), "paid": asks(net, hangs()), "good": good()}
    async with market(
        net, dsn, tmp_path, acts, intent={"seconds": 0.5}, timeouts={"paid_response": 1}
    ) as quotes:
        answer = await quotes.want()
        assert (answer.status, answer.headers["Autopay-Candidate"]) == (200, "good")
        assert answer.headers["Autopay-In-Doubt"] == "0.001 USD"
        errors = [row["error"] for row in await quotes.rows()]
        assert errors[:2] == ["no whole answer in 0.5 s"] * 2


async def test_nothing_is_bought_for_who_has_gone(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"slow": hangs(), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts, intent={"seconds": 1}) as quotes:
        asking = asyncio.create_task(quotes.want())
        await until(lambda: bool(quotes.sellers["slow"].seen))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(15):
            while len(rows := await quotes.rows()) < 2:
                await asyncio.sleep(0.02)
        assert "closed its side" in rows[1]["error"]
        assert (quotes.payments("paid"), await quotes.home.counters()) == (0, (0, 0))


async def test_who_leaves_before_the_price_is_named_buys_nothing(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    named = asyncio.Event()

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await named.wait()
        await asks(net, settles())(seen, writer)

    async with market(net, dsn, tmp_path, {"paid": act}) as quotes:
        asking = asyncio.create_task(quotes.want())
        await until(lambda: bool(quotes.sellers["paid"].seen))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        connections = quotes.home.service.procurement._plane._connections
        await until(lambda: all(one._eof for one in connections))
        named.set()
        async with asyncio.timeout(15):
            while not (rows := await quotes.rows()):
                await asyncio.sleep(0.02)
        assert "closed its side" in rows[0]["error"]
        assert (quotes.payments("paid"), await quotes.home.counters()) == (0, (0, 0))


async def test_by_https_under_our_certificate(net: Localnet, dsn: str, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    ours = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    async with market(net, dsn, tmp_path, {"paid": asks(net, settles())}) as quotes:
        answer = await quotes.home.ask("https://quote.intent.autopay/x", ssl=ours)
        assert (answer.status, answer.body) == (200, GOODS)
        assert answer.headers["Autopay-Candidate"] == "paid"
        # Where there is something else than http, nobody is looked for.
        with pytest.raises(aiohttp.ClientError):
            await quotes.home.ask(
                "https://quote.intent.autopay:9/", ssl=ssl.create_default_context()
            )


async def test_on_the_mounts(net: Localnet, dsn: str, tmp_path: Path) -> None:
    async with market(net, dsn, tmp_path, {"paid": asks(net, settles())}) as quotes:
        home = quotes.home
        bearer = {"Authorization": f"Bearer {home.token}"}
        for path, target in (
            ("/.intent/quote/a/b?c=d/e", "/v1/quote/a/b?c=d/e"),
            ("/.intent/quote?c=d", "/v1/quote?c=d"),
            ("/.intent/quote", "/v1/quote"),
        ):
            answer = await home.ask(home.mounts + path, proxy=None, headers=bearer)
            assert (answer.status, answer.headers["Autopay-Candidate"]) == (200, "paid")
            seen = quotes.sellers["paid"].seen[-1]
            assert seen.line == f"GET {target} HTTP/1.1"
            assert home.token not in str(seen.headers)
        answer = await home.ask(f"{home.mounts}/.intent/other/", proxy=None, headers=bearer)
        assert (answer.status, answer.json["code"]) == (404, "no_such_intent")


async def test_a_candidate_has_words_of_its_own(net: Localnet, dsn: str, tmp_path: Path) -> None:
    own = {
        "a": {"method": "POST", "body": '{"q": 1}', "headers": {"X-Key": "secret", "Accept": "x/y"}}
    }
    async with market(net, dsn, tmp_path, {"a": good()}, own) as quotes:
        answer = await quotes.want(headers={"X-Key": "mine", "Authorization": "Bearer mine"})
        assert answer.status == 200
        (seen,) = quotes.sellers["a"].seen
        assert (seen.line, seen.body) == ("POST /v1/quote HTTP/1.1", b'{"q": 1}')
        assert (seen.headers["x-key"], seen.headers["accept"]) == ("secret", "x/y")
        assert "authorization" not in seen.headers
        assert "secret" not in str(dict(answer.headers))


async def test_a_trace_and_a_session_hold_all_of_it(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    acts = {"liar": asks(net, settles(500)), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        told = {"Autopay-Trace": "t-1", "Autopay-Session": "s-1", "Autopay-Tool": "quote"}
        assert (await quotes.want(headers=told)).status == 200
        rows = await quotes.home.rows("SELECT trace_id, session_id FROM payments")
        assert rows == [{"trace_id": "t-1", "session_id": "s-1"}] * 2
        steps = await quotes.home.rows("SELECT tool_name FROM x402_trace_steps")
        assert steps == [{"tool_name": "quote"}] * 2


async def test_a_body_that_stalls_is_not_waited_for(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    timeouts = {"response": 1}
    async with market(net, dsn, tmp_path, {"good": good()}, timeouts=timeouts) as quotes:
        home = quotes.home
        credential = base64.b64encode(f"{home.agent}:{home.token}".encode()).decode()
        reader, writer = await asyncio.open_connection(*home.service.proxy_address)
        writer.write(
            b"POST http://quote.intent.autopay/ HTTP/1.1\r\nHost: quote.intent.autopay\r\n"
            b"Content-Length: 10\r\nProxy-Authorization: Basic "
            + credential.encode()
            + b"\r\n\r\n123"
        )
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 408 ")
        assert not quotes.sellers["good"].seen
