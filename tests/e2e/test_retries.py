"""Retries through the whole house: what is asked again, what is written of it, and forgotten."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.ledger import LedgerError
from proxy.localnet import Localnet
from tests.e2e.house import House, house
from tests.e2e.seller import (
    HangUp,
    Seen,
    Seller,
    challenge,
    offer,
    pays_once,
    raises,
    reply,
    settled,
)


def breaks(times: int) -> Any:
    """Hangs up without a word so often, then answers."""
    left = times

    def answer(_: Seen) -> bytes:
        nonlocal left
        left -= 1
        if left >= 0:
            raise HangUp
        return reply(200, body=b"goods")

    return answer


async def rows(home: House, count: int) -> list[dict[str, Any]]:
    """The retries on record, once there are so many."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found = await home.rows("SELECT * FROM retry_attempts ORDER BY attempt_number")
            await asyncio.sleep(0.01)
    return found


async def test_each_retry_is_a_row_of_its_own(home: House, seller: Seller) -> None:
    seller.answer = breaks(2)
    answer = await home.ask(f"{seller.url}/news?q=secret")
    assert (answer.status, answer.body) == (200, b"goods")
    first, second = await rows(home, 2)
    for row, number, outcome, error_class in (
        (first, 1, "FAILURE", "connection_broke"),
        (second, 2, "SUCCESS", None),
    ):
        assert (row["kind"], row["attempt_number"], row["outcome"]) == ("request", number, outcome)
        assert (row["cause"], row["error_class"]) == ("connection_broke", error_class)
        assert (row["provider"], row["method"]) == (seller.url, "GET")
        assert row["endpoint"] == f"{seller.url}/news"
        assert (row["api_request_id"], row["payment_id"]) == (None, None)
    assert "closed the connection" in first["error_message"]
    assert second["backoff_delay"] > first["backoff_delay"]
    assert await home.rows("SELECT 1 FROM api_requests") == []
    assert dict(home.service.counts.retries.sums()) == {
        ("failed", seller.url): 1,
        ("succeeded", seller.url): 1,
    }


async def test_a_paid_request_is_never_asked_again(
    net: Localnet, dsn: str, tmp_path: Path, seller: Seller
) -> None:
    retries = {"backoff": 0.01, "statuses": [500, 502, 503, 504], "budget": 1}
    price = challenge(offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey())))
    async with house(net, dsn, tmp_path, retries=retries) as home:
        seller.answer = pays_once(price, raises(HangUp))
        answer = await home.ask(f"{seller.url}/lost")
        assert answer.json["code"] == "payment_in_doubt"
        seller.answer = pays_once(price, lambda _: settled(status=503, body=b"no"))
        assert (await home.ask(f"{seller.url}/broken")).status == 503
        assert len(seller.payments) == 2
        assert await home.rows("SELECT 1 FROM retry_attempts") == []


@asynccontextmanager
async def flaky(seller: Seller) -> AsyncIterator[Seller]:
    """Every other request is answered 503."""
    count = 0

    def answer(_: Seen) -> bytes:
        nonlocal count
        count += 1
        return reply(503) if count % 2 else reply(200, body=b"goods")

    seller.answer = answer
    yield seller


async def test_a_provider_has_rules_of_its_own(
    net: Localnet, dsn: str, tmp_path: Path, seller: Seller
) -> None:
    shop = {"upstream": seller.url + "/v1", "retries": {"statuses": [503], "backoff": 0.02}}
    async with house(net, dsn, tmp_path, providers={"shop": shop}) as home, flaky(seller):
        assert (await home.ask(f"{seller.url}/a")).body == b"goods"  # in forward mode, too
        token = {"Autopay-Token": home.token}
        async with home.session.get(f"{home.mounts}/shop/a", headers=token) as answer:
            assert await answer.read() == b"goods"
        assert [seen.line for seen in seller.seen][-1] == "GET /v1/a HTTP/1.1"
        for row in await rows(home, 2):
            assert (row["cause"], row["outcome"]) == ("provider_unavailable", "SUCCESS")
            assert 0.015 < row["backoff_delay"].total_seconds() < 0.025


async def test_an_answer_that_breaks_off_speaks_against_the_provider(
    net: Localnet, dsn: str, tmp_path: Path, seller: Seller
) -> None:
    whole = reply(200, body=b"goods" * 1000)

    def half(_: Seen) -> bytes:
        seller.answer = raises(HangUp)
        return whole[: len(whole) // 2]

    async with house(net, dsn, tmp_path, breaker={"failures": 1}) as home:

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(half(Seen("", {}, b"")))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(cut, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(aiohttp.ClientPayloadError):
            await home.ask(url)
        answer = await home.ask(url)
        assert (answer.status, answer.json["code"]) == (503, "breaker_open")
        assert "in the middle" in answer.json["last_error"]
        assert await home.rows("SELECT 1 FROM retry_attempts") == []
        server.close()


async def test_an_open_breaker_is_not_tried_against(
    net: Localnet, dsn: str, tmp_path: Path, seller: Seller
) -> None:
    """The breaker hears one word for a request, however often it was tried."""
    seller.answer = raises(HangUp)
    async with house(net, dsn, tmp_path, breaker={"failures": 2}) as home:
        assert (await home.ask(seller.url)).status == 502
        assert (await home.ask(seller.url)).status == 502
        assert len(seller.seen) == 8
        assert (await home.ask(seller.url)).json["code"] == "breaker_open"
        assert len(seller.seen) == 8
        await rows(home, 6)


async def test_what_is_on_record_is_forgotten(home: House, seller: Seller) -> None:
    seller.answer = breaks(1)
    await home.ask(seller.url)
    (row,) = await rows(home, 1)
    dated = (
        "INSERT INTO retry_attempts (agent_id, kind, attempt_number, backoff_delay, outcome,"
        " provider, method, endpoint, created_at)"
        " VALUES ($1, 'request', 1, '1 s', 'SUCCESS', 'p', 'GET', 'e', now() - $2::interval)"
    )
    for days in (89, 91):
        await home.operator.execute(dated.replace("$2", f"'{days} days'"), row["agent_id"])
    with pytest.raises(LedgerError, match="31 days"):
        await home.service.store.database.execute("SELECT prune_retries(30)")
    assert (await home.row("SELECT prune_retries(90) AS gone"))["gone"] == 1
    assert len(await home.rows("SELECT 1 FROM retry_attempts")) == 2
    with pytest.raises(LedgerError, match="the books"):
        await home.operator.execute("UPDATE retry_attempts SET endpoint = ''")
    await home.operator.execute("SELECT erase_agent($1, 'ann')", home.agent)
    assert await home.rows("SELECT 1 FROM retry_attempts") == []
