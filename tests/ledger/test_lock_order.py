"""Two processes that want the same, in opposite orders: neither is ever told of a deadlock.

Each storm sends statements on two connections at once, again and again. Where locks are taken in
two orders, they meet crosswise within a few of them; PostgreSQL then ends one of them, and counts
it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from proxy.ledger import (
    Agent,
    Database,
    Ledger,
    SettledReceipt,
    agents,
    provider_stats,
    ratings,
    score_sums,
)
from proxy.vault import Vault
from tests.ledger.conftest import Make

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

GOOD = SettledReceipt(claimed=True, http_status=200, success=True, latency_ms=1)
TRACES = [f"task-{n}" for n in range(6)]
Moves = list[dict[str, Any]]
Act = Callable[["Connection"], Awaitable[object]]


async def storm(dsn: str, rounds: Sequence[tuple[Act, Act]]) -> None:
    """Both of each round at once, each on a connection of its own."""
    one, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        for left, right in rounds:
            async with asyncio.timeout(30):
                await asyncio.gather(left(one), right(other))
    finally:
        await one.close()
        await other.close()
    counter = await asyncpg.connect(dsn)
    try:
        assert await counter.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ) == 0  # fmt: skip
    finally:
        await counter.close()


def tick(moves: Moves) -> Act:
    """A batch of moves; each has to succeed."""

    async def act(connection: "Connection") -> None:
        rows = await connection.fetch("SELECT * FROM tick($1)", json.dumps(moves))
        assert [row["failure"] for row in rows if row["failure"]] == []

    return act


def denial(agent: Agent, trace: str) -> dict[str, Any]:
    """Of a request that met a 402: it is a step of its trace."""
    return {
        "move": "deny",
        "args": {
            "id": str(uuid4()), "agent_id": str(agent.id), "trace_id": trace, "method": "GET",
            "endpoint": "https://api.example.com/v1/quote", "reason": "endpoint_not_allowed",
            "price_micros": 1, "api_request_id": str(uuid4()),
        },
    }  # fmt: skip


def loss(payment: UUID, agent: Agent) -> dict[str, Any]:
    """Money was taken, and an error came for it."""
    return {
        "move": "deliver",
        "args": {
            "id": str(uuid4()), "payment_id": str(payment), "agent_id": str(agent.id),
            "intent": "GET x", "provider_id": "https://api.example.com:443", "url": "x",
            "method": "GET", "status": 500, "paid_amount_atomic": "1", "response_hash": "",
            "latency_ms": 1, "success": False, "schema_ok": False, "score": "1", "attempt": 1,
        },
    }  # fmt: skip


async def paid(ledger: Ledger, make: Make, agent: Agent, **changes: Any) -> UUID:
    reservation = make(agent_id=agent.id, **changes)
    await ledger.reserve(reservation)
    assert await ledger.settle(reservation.payment_id, GOOD)
    return UUID(str(reservation.payment_id))


@pytest.fixture
async def others(database: Database, vault: Vault) -> list[Agent]:
    """Two more agents: of one agent, two batches would wait for each other at its chain."""
    return [(await agents.add(database, vault, name)).agent for name in ("left", "right")]


async def test_denials_on_the_same_traces(dsn: str, bot: Agent) -> None:
    """Of traces that are there, and of traces that either of them begins."""

    def both(traces: Sequence[str]) -> tuple[Act, Act]:
        return (
            tick([denial(bot, trace) for trace in traces]),
            tick([denial(bot, trace) for trace in reversed(traces)]),
        )

    await storm(
        dsn, [both([*TRACES, *(f"new-{n}-{m}" for m in range(3))]) for n in range(25)]
    )  # fmt: skip


async def test_a_denial_and_a_loss_on_one_trace(
    dsn: str, bot: Agent, others: list[Agent], ledger: Ledger, make: Make
) -> None:
    left, right = others
    mine, theirs = [
        await paid(ledger, make, one, trace_id=TRACES[0]) for one in (left, right)
    ]  # fmt: skip

    def both() -> tuple[Act, Act]:
        said = [[denial(bot, trace) for trace in TRACES] for _ in range(2)]
        return tick([*said[0], loss(mine, left)]), tick([loss(theirs, right), *said[1]])

    await storm(dsn, [both() for _ in range(25)])


async def test_a_denial_and_a_loss_that_the_chain_tells_of(
    dsn: str, bot: Agent, others: list[Agent], ledger: Ledger, make: Make
) -> None:
    """The reconciler finds lost payments of a trace, while another process denies on it."""
    mine = await paid(ledger, make, others[0])
    lost = []
    for _ in range(12):
        reservation = make(trace_id=TRACES[-1])
        await ledger.reserve(reservation)
        await ledger.doubt(reservation.payment_id, "answer_lost")
        lost.append(reservation.payment_id)

    def found(payment: UUID) -> Act:
        seen = {"signature": "4" * 80 + payment.hex[-8:], "slot": 5, "fee_lamports": 5000}

        async def act(connection: "Connection") -> None:
            said = await connection.fetchval(
                "SELECT confirm_from_chain($1, $2)", payment, json.dumps(seen)
            )
            assert said == "settled"

        return act

    def denied() -> Act:
        return tick([*(denial(bot, trace) for trace in reversed(TRACES)), loss(mine, others[0])])

    await storm(dsn, [(denied(), found(payment)) for payment in lost])


async def test_a_retry_and_a_doubt(dsn: str, bot: Agent, ledger: Ledger, make: Make) -> None:
    """A retry refers to a payment that another process doubts meanwhile."""
    reservation = make(trace_id=TRACES[0])
    await ledger.reserve(reservation)
    args = {"payment_id": str(reservation.payment_id), "reason": "answer_lost"}

    def both() -> tuple[Act, Act]:
        retry = {"id": str(uuid4()), "attempt": 1, "delay": 0, "outcome": "SUCCESS"}
        again = {"move": "retry", "args": retry | {"payment_id": args["payment_id"]}}
        return (
            tick([*(denial(bot, trace) for trace in TRACES), again]),
            tick([{"move": "doubt", "args": args}]),
        )

    await storm(dsn, [both() for _ in range(25)])


def erasing(agent: Agent, after: float = 0) -> Act:
    async def act(connection: "Connection") -> None:
        await asyncio.sleep(after)  # so that they meet elsewhere in each round
        assert await connection.fetchval("SELECT erase_agent($1, 'test')", agent.name) is not None

    return act


async def test_erasing_an_agent_that_pays(
    dsn: str, database: Database, vault: Vault, ledger: Ledger, make: Make
) -> None:
    rounds: list[tuple[Act, Act]] = []
    for n in range(8):
        agent = (await agents.add(database, vault, f"agent-{n}")).agent
        held = [
            make(agent_id=agent.id, trace_id=trace, session_id=trace, price=1)
            for trace in (*TRACES, None)
            for _ in range(3)
        ]
        await asyncio.gather(*(ledger.reserve(one) for one in held))
        settled = {"source": "provider", "claimed": True, "success": True, "latency_ms": 1}
        moves: Moves = [
            {"move": "settle", "args": settled | {"payment_id": str(one.payment_id)}}
            for one in held
        ]
        moves += [denial(agent, trace) for trace in TRACES]
        moves += [loss(one.payment_id, agent) for one in held]
        rounds.append((erasing(agent), tick(moves)))
    await storm(dsn, rounds)


async def test_erasing_an_agent_beside_the_reconciler(
    dsn: str, database: Database, vault: Vault, ledger: Ledger, make: Make
) -> None:
    rounds: list[tuple[Act, Act]] = []
    for n in range(8):
        agent = (await agents.add(database, vault, f"agent-{n}")).agent
        held = [make(agent_id=agent.id, trace_id=trace, price=1) for trace in TRACES]
        await asyncio.gather(*(ledger.reserve(one) for one in held))

        async def found(connection: "Connection", last: UUID = held[-1].payment_id) -> None:
            seen = {"signature": "4" * 80 + last.hex[-8:], "slot": 5, "fee_lamports": 5000}
            said = await connection.fetchval(
                "SELECT verify_payment($1, $2)", last, json.dumps(seen)
            )
            assert said == "verified"

        rounds.append((erasing(agent), found))
    await storm(dsn, rounds)


async def test_erasing_an_agent_that_begins_to_pay(
    dsn: str, database: Database, vault: Vault, ledger: Ledger, make: Make
) -> None:
    """Payments that were not there yet when the erasure locked those that were."""
    rounds: list[tuple[Act, Act]] = []
    for n in range(8):
        agent = (await agents.add(database, vault, f"agent-{n}")).agent

        async def pays(connection: "Connection", agent: Agent = agent) -> None:
            for _ in range(8):
                payment = str(uuid4())
                request = {
                    "payment_id": payment, "agent_id": str(agent.id), "price_micros": 1,
                    "amount_atomic": 1, "provider": "p", "method": "GET", "endpoint": "e",
                    "x402_version": 2, "network": "n", "asset": "a", "symbol": "USDC",
                    "pay_to": "r", "message_sha256": "\\x" + sha256(payment.encode()).hexdigest(),
                }  # fmt: skip
                settled = {"source": "provider", "claimed": True, "success": True}
                settled |= {"payment_id": payment, "latency_ms": 1}
                await tick([{"move": "reserve", "args": request}])(connection)
                await tick([{"move": "settle", "args": settled}])(connection)

        rounds.append((erasing(agent, after=0.004 * n), pays))
    await storm(dsn, rounds)


async def test_erasing_an_agent_beside_the_statistics(
    dsn: str, database: Database, vault: Vault, ledger: Ledger, make: Make
) -> None:
    """Its ratings are of many providers, and every proxy writes down how those do."""
    keys = [f"https://p{n}.example.com:443" for n in range(6)]
    endpoints = ["", *(f"GET https://api.example.com/{n}" for n in range(30))]
    deltas = [
        score_sums.ScoreDelta(key, endpoint, {"successes": 1})
        for key in keys
        for endpoint in endpoints
    ]
    calls = [provider_stats.ProviderDelta(key, 1, 1, 0, 5.0, 1, 0, 200, None, None) for key in keys]

    async def report(_: "Connection") -> None:
        for _again in range(12):
            await score_sums.add(database, deltas, (1e6, 50.0, 50.0))
            await provider_stats.add(database, calls)

    rounds: list[tuple[Act, Act]] = []
    for n in range(12):
        agent = (await agents.add(database, vault, f"agent-{n}")).agent
        receipts = await asyncio.gather(
            *(paid(ledger, make, agent, provider=key, price=1) for key in keys)
        )
        await database.execute(
            "WITH s AS (INSERT INTO chat_sessions (wallet_address, agent_id) VALUES ('w', $1)"
            " RETURNING id)"
            " INSERT INTO chat_messages (session_id, message_id, content, is_user, payment_id)"
            " SELECT s.id, x, '', false, x FROM s, unnest($2::uuid[]) x",
            agent.id,
            receipts[3:],
        )
        await database.execute(
            "INSERT INTO message_ratings (message_id, user_address, is_positive)"
            " SELECT x, 'somebody', true FROM unnest($1::text[]) x",
            [str(receipt) for receipt in receipts[3:]],
        )
        for receipt in reversed(receipts[:3]):
            assert await ratings.rate(database, receipt, "somebody", is_positive=True)
        rounds.append((erasing(agent, after=0.004 * n), report))
    await storm(dsn, [(report, report)] * 3 + rounds)
    for table in ("receipt_ratings", "message_ratings", "rating_words", "provider_thumbs"):
        assert await database.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_forgetting_endpoints_beside_the_statistics(dsn: str, database: Database) -> None:
    """One proxy has too many endpoints of a provider, which another one writes down just now."""
    key = "https://p.example.com:443"
    deltas = [
        score_sums.ScoreDelta(key, f"GET https://p.example.com/{n:02}", {"successes": 1})
        for n in range(40)
    ]

    async def report(_: "Connection") -> None:
        for _again in range(3):
            await score_sums.add(database, deltas, (1e6, 50.0, 50.0))

    async def forget(_: "Connection") -> None:
        for _again in range(3):
            await score_sums.forget(database, [key], 5)

    for _ in range(10):
        for delta in deltas:  # the last one is the newest, and is left the longest
            await score_sums.add(database, [delta], (1e6, 50.0, 50.0))
        await storm(dsn, [(report, forget)])
    await score_sums.forget(database, [key], 5)
    assert await database.fetchval("SELECT count(*) FROM provider_scores") == 5
