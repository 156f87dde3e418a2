"""The numbers are those of what happened."""

import asyncio
import os
import socket
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.admin import Role
from proxy.authority import Authority
from proxy.localnet import Localnet
from proxy.metrics import MOST_OF_ALL, MOST_OF_ONE, OTHER, Durations, Tally
from tests.admin.desk import Desk, refused
from tests.e2e.house import house, until
from tests.e2e.seller import (
    HangUp,
    Seller,
    challenge,
    offer,
    pays_once,
    raises,
    reply,
    selling,
    settled,
    vanishing,
)
from tests.wire.wire_tls import Authority as Issuer

SPENT = "autopay_spent_micro_usd_total"


def entry(net: Localnet, **more: Any) -> dict[str, Any]:
    return offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), **more)


async def test_one_paid_one_denied_one_in_doubt(desk: Desk, net: Localnet, seller: Seller) -> None:
    before = await desk.metrics()
    assert before["autopay_rpc_calls_total", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"] >= 1
    home = desk.home

    seller.answer = pays_once(challenge(entry(net)), lambda _: settled())
    assert (await home.ask(seller.url)).status == 200
    await until(lambda: home.service.ledger.waiting == 0)
    seller.answer = pays_once(challenge(entry(net, amount=90_000)), lambda _: settled())
    assert (await home.ask(seller.url)).json["code"] == "over_per_call_limit"
    seller.answer = pays_once(challenge(entry(net, amount=2_000)), raises(HangUp))
    assert (await home.ask(seller.url)).json["code"] == "payment_in_doubt"
    seller.answer = lambda _: reply(200, body=b"free")
    assert (await home.ask(seller.url)).body == b"free"
    seller.answer = lambda _: reply(402, body=b"pay, somehow")
    assert (await home.ask(seller.url)).status == 402
    await home.set_policy(allowed_targets=())
    assert (await home.ask(seller.url)).json["code"] == "egress_loopback"

    await until(lambda: home.service.ledger.waiting == 0)
    numbers = await desk.metrics()
    assert numbers[SPENT, "shopper", seller.url, "USDC"] == 1_000
    assert (await home.counters()) == (1_000, 2_000)
    payments = {key[1:]: n for key, n in numbers.items() if key[0] == "autopay_payments_total"}
    assert payments == {
        ("", "paid"): 1,
        ("answer_lost", "in_doubt"): 1,
        ("over_per_call_limit", "denied"): 1,
    }
    decisions = {key[1:]: n for key, n in numbers.items() if key[0] == "autopay_decisions_total"}
    rows = await home.rows(
        "SELECT decision, reason, count(*) FROM policy_decision_logs GROUP BY 1, 2"
    )
    assert decisions == {(row["decision"], row["reason"]): row["count"] for row in rows}
    assert sum(decisions.values()) == 5
    requests = {key[1:]: n for key, n in numbers.items() if key[0] == "autopay_requests_total"}
    assert requests == {
        ("paid", "2xx"): 1,
        ("refused", "4xx"): 2,
        ("failed", "5xx"): 1,
        ("answered", "2xx"): 1,
        ("unpaid", "4xx"): 1,
    }
    problems = {key[1]: n for key, n in numbers.items() if key[0] == "autopay_problems_total"}
    assert problems == {"over_per_call_limit": 1, "payment_in_doubt": 1, "egress_loopback": 1}
    for what, count in (("reserve", 2), ("settle", 1)):
        assert numbers[f"autopay_{what}_seconds_count",] == count
        assert numbers[f"autopay_{what}_seconds_bucket", "+Inf"] == count
        assert 0 < numbers[f"autopay_{what}_seconds_sum",] < 5
    assert numbers["autopay_audit_findings",] == 0
    assert numbers["autopay_default_partition_rows",] == 0
    assert numbers["autopay_reconciled_total", "verified"] == 0
    assert numbers["autopay_outbox_writes",] == 0
    assert numbers["autopay_connections",] == 1
    assert numbers["autopay_breaker_state", seller.url] == 0
    assert 0.5 < numbers["autopay_provider_score", seller.url] < 1
    assert [key[0] for key in numbers].count("autopay_build_info") == 1


async def test_a_payment_that_never_left(desk: Desk, net: Localnet) -> None:
    gone = await vanishing(challenge(entry(net)))
    assert (await desk.home.ask(gone)).status == 502
    numbers = await desk.metrics()
    assert numbers["autopay_payments_total", "never_sent", "released"] == 1
    assert not any(key[0] == SPENT for key in numbers)


async def test_a_breaker_that_opens(desk: Desk) -> None:
    dead = "http://127.0.0.1:1"
    for _ in range(3):
        assert (await desk.home.ask(dead)).status == 502
    assert (await desk.home.ask(dead)).json["code"] == "breaker_open"
    numbers = await desk.metrics()
    assert numbers["autopay_breaker_state", dead] == 2
    assert [numbers["autopay_breakers", state] for state in ("open", "half-open", "closed")] == [
        1,
        0,
        0,
    ]
    status = (await desk.ask("/v1/status", Role.READER)).json
    (breaker,) = status["breakers"]
    assert breaker["provider"] == dead and "no connection" in breaker["last_error"]
    assert (breaker["state"], breaker["probing"]) == ("open", False)
    wait = datetime.fromisoformat(breaker["retry_at"]) - datetime.now(UTC)
    assert 100 < wait.total_seconds() <= 181


async def test_programs_that_hang_up_and_tunnels(desk: Desk, seller: Seller) -> None:
    home = desk.home
    seller.hold_all = asyncio.Event()
    credential = aiohttp.encode_basic_auth(home.agent, home.token)
    where = seller.url.removeprefix("http://")
    head = f"Host: {where}\r\nProxy-Authorization: {credential}\r\n\r\n"
    reader, writer = await asyncio.open_connection(*home.service.proxy_address)
    writer.write(f"GET {seller.url}/ HTTP/1.1\r\n{head}".encode())
    await until(lambda: bool(seller.seen))
    numbers = await desk.metrics()
    assert (numbers["autopay_connections",], numbers["autopay_pool_connections",]) == (1, 1)
    reset(writer)
    async with asyncio.timeout(20):
        while (await desk.metrics()).get(("autopay_requests_total", "abandoned", "")) != 1:
            await asyncio.sleep(0.01)
    seller.hold_all.set()

    reader, writer = await asyncio.open_connection(*home.service.proxy_address)
    writer.write(f"CONNECT {where} HTTP/1.1\r\n{head}".encode())
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"free")
    numbers = await desk.metrics()
    assert numbers["autopay_tunnels",] == 1
    assert numbers["autopay_requests_total", "tunnelled", ""] == 1
    writer.close()
    async with asyncio.timeout(20):
        while (await desk.metrics())["autopay_tunnels",] != 0:
            await asyncio.sleep(0.01)


async def test_a_request_is_counted_once(desk: Desk, net: Localnet, seller: Seller) -> None:
    """Its program is gone before its payment is in doubt, and nobody is there to be told."""
    home = desk.home
    seller.hold = asyncio.Event()
    seller.answer = pays_once(challenge(entry(net)), raises(HangUp))
    credential = aiohttp.encode_basic_auth(home.agent, home.token)
    reader, writer = await asyncio.open_connection(*home.service.proxy_address)
    head = f"Host: x\r\nProxy-Authorization: {credential}\r\n\r\n"
    writer.write(f"GET {seller.url}/ HTTP/1.1\r\n{head}".encode())
    await until(lambda: bool(seller.payments))
    reset(writer)
    async with asyncio.timeout(20):
        while (await desk.metrics())["autopay_connections",] != 0:
            await asyncio.sleep(0.01)
    seller.hold.set()
    async with asyncio.timeout(20):
        while ("autopay_payments_total", "answer_lost", "in_doubt") not in await desk.metrics():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    numbers = await desk.metrics()
    requests = {key[1:]: n for key, n in numbers.items() if key[0] == "autopay_requests_total"}
    assert requests == {("abandoned", ""): 1}
    del reader


def reset(writer: asyncio.StreamWriter) -> None:
    """A mere close can't be told from a program that only sends no more."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()


async def test_a_program_that_rejects_our_certificate_is_seen(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    """In the metrics, the status and the log of it; by a real client that trusts others only."""
    issuer = Issuer(tmp_path)
    Authority.create(tmp_path / "ca")
    async with house(net, dsn, tmp_path, tls={"ca_file": str(issuer.ca_file)}) as home:
        desk = Desk(home)
        async with selling(issuer.context("localhost")) as seller:
            for expected in (60, 0, 0):
                process = await asyncio.create_subprocess_exec(
                    "curl", "-sS", "--http1.1", "-m", "10", "--cacert", issuer.ca_file, seller.url,
                    env={"HTTPS_PROXY": home.proxy, "PATH": os.environ["PATH"]},
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                )  # fmt: skip
                await process.communicate()
                assert process.returncode == expected
        numbers = await desk.metrics()
        assert numbers["autopay_certificate_rejections_total", "shopper", "localhost"] == 1
        assert numbers["autopay_requests_total", "opened", ""] == 1
        assert numbers["autopay_requests_total", "tunnelled", ""] == 2
        (one,) = (await desk.ask("/v1/status", Role.READER)).json["certificate_rejections"]
        assert (one["agent"], one["host"], one["reason"]) == ("shopper", "localhost", "unknown ca")


@pytest.mark.parametrize("settings", [{"admin": {"open_metrics": True}}])
async def test_metrics_for_everyone_if_the_operator_says_so(desk: Desk) -> None:
    answer = await desk.ask("/metrics")
    assert answer.status == 200 and b"# TYPE autopay_requests_total counter" in answer.body
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    refused(await desk.ask("/v1/status"), 401, "api_key_required")


async def test_providers_do_not_fill_the_memory(desk: Desk) -> None:
    """One agent that pays ever new hosts, through the counters that the whole service uses."""
    counts = desk.home.service.counts
    for number in range(3 * MOST_OF_ONE):
        counts.paid("shopper", f"https://{number}.example:443", "USDC", 10)
        counts.rejections.add("shopper", f"{number}.example")
    counts.paid("another", "https://first.example:443", "USDC", 5)
    numbers = await desk.metrics()
    spent = {key[1:]: n for key, n in numbers.items() if key[0] == SPENT}
    assert len(spent) == MOST_OF_ONE + 2
    assert sum(spent.values()) == 3 * MOST_OF_ONE * 10 + 5  # nothing is lost
    assert spent["shopper", OTHER, "USDC"] == 2 * MOST_OF_ONE * 10
    assert spent["another", "https://first.example:443", "USDC"] == 5
    hosts = [key for key in numbers if key[0] == "autopay_certificate_rejections_total"]
    assert len(hosts) == MOST_OF_ONE + 1


def test_a_tally_is_bounded_in_all() -> None:
    tally = Tally("agent", "host", folded="host")
    for number in range(2 * MOST_OF_ALL):
        tally.add(f"agent-{number // 50}", f"{number}.example")
    sums = dict(tally.sums())
    assert len(sums) == MOST_OF_ALL + 20  # and one for each agent that came too late
    assert sum(sums.values()) == 2 * MOST_OF_ALL
    tally.add("agent-0", "0.example")
    assert dict(tally.sums())["agent-0", "0.example"] == 2  # what is known goes on


def test_durations_fall_into_their_buckets() -> None:
    durations = Durations()
    for seconds in (0.0001, 0.0005, 0.0006, 5.0, 6.0):
        durations.add(seconds)
    assert durations.counts[0] == 2 and durations.counts[1] == 1
    assert durations.counts[-2:] == [1, 1]
    assert durations.total == pytest.approx(11.0012)
