"""What one payment costs the ledger: reserve, settle, deliver, each timed; by one caller, and by
many who share one agent, so that every payment waits for the same counters."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from policies import Policy
from proxy.ledger import (
    Database,
    Delivery,
    Ledger,
    Met402,
    Reservation,
    Reserved,
    SettledReceipt,
    agents,
)
from proxy.ledger.agents import Agent
from proxy.vault import GivenKeys, Vault
from tests.ledger.reservations import reservation

PROVIDER = "https://api.bench.example:443"
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds, by move and for the three together; `width`: moves in a batch, on average;
    `cpu`: what PostgreSQL computed for one payment, which other work on the machine doesn't change
    much."""

    callers: int
    payments_per_second: float
    width: float
    cpu: float
    p50: dict[str, float]
    p99: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Times:
    reserve: list[float] = field(default_factory=list)
    settle: list[float] = field(default_factory=list)
    deliver: list[float] = field(default_factory=list)
    payment: list[float] = field(default_factory=list)


async def hot_agent(database: Database) -> Agent:
    """An agent that no budget stops."""
    most = 10**15
    policy = Policy("hot", per_call_limit=most, daily_limit=most, session_limit=most)
    vault = Vault(GivenKeys(secrets.token_hex(32)))
    agent = (await agents.add(database, vault, f"hot-{secrets.token_hex(4)}", policy)).agent
    await database.execute(
        "UPDATE agent_policies SET trace_limit_micros = $2 WHERE agent_id = $1", agent.id, most
    )
    return agent


async def measure(database: Database, agent: Agent, callers: int, payments: int) -> Cost:
    """`payments` in all, the first tenth of them untimed. `database` acts as the running proxy."""
    ledger, times = Ledger(database), _Times()
    for warm, count in ((True, payments // 10), (False, payments)):
        left = iter(range(count))
        seen = _Times() if warm else times
        lane = ledger._lane
        before = lane.batches, lane.moves
        computed = await _computed(database)
        started = time.perf_counter()
        await asyncio.gather(*(_caller(ledger, agent, left, seen) for _ in range(callers)))
        took = time.perf_counter() - started
        computed = await _computed(database) - computed
    await ledger.close()
    columns = {name: sorted(getattr(times, name)) for name in _Times.__slots__}
    return Cost(
        callers,
        payments / took,
        (lane.moves - before[1]) / (lane.batches - before[0]),
        computed / payments,
        {name: values[len(values) // 2] * 1e3 for name, values in columns.items()},
        {name: values[len(values) * 99 // 100] * 1e3 for name, values in columns.items()},
    )


async def _computed(database: Database) -> float:
    """Milliseconds on a CPU so far, of all connections to the database."""
    rows = await database.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    )
    return sum(_nanoseconds(row["pid"]) for row in rows) / 1e6


def _nanoseconds(pid: int) -> int:
    """As Linux counts them, of a process on this machine."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


async def _caller(ledger: Ledger, agent: Agent, left: Iterator[int], times: _Times) -> None:
    session, trace = f"session-{secrets.token_hex(4)}", f"trace-{secrets.token_hex(4)}"
    clock = time.perf_counter
    for number in left:
        if number % 50 == 0:
            trace = f"trace-{secrets.token_hex(4)}"
        asked = _reservation(agent, session, trace)
        delivery = _delivery(agent, asked)
        receipt = SettledReceipt(
            claimed=True,
            http_status=200,
            success=True,
            latency_ms=9,
            transaction=_base58(88),
            network=asked.network,
            response_header="eyJzdWNjZXNzIjp0cnVlfQ==",
        )
        begun = clock()
        reserved = await ledger.reserve(asked)
        held = clock()
        assert isinstance(reserved, Reserved), reserved
        assert await ledger.settle(asked.payment_id, receipt)
        settled = clock()
        assert await ledger.deliver(delivery)
        done = clock()
        times.reserve.append(held - begun)
        times.settle.append(settled - held)
        times.deliver.append(done - settled)
        times.payment.append(done - begun)


def _reservation(agent: Agent, session: str, trace: str) -> Reservation:
    """With all that a real one has to be written."""
    return reservation(
        agent.id,
        session_id=session,
        trace_id=trace,
        provider=PROVIDER,
        endpoint="https://api.bench.example/v1/quote",
        request_body_sha256=sha256(b"").digest(),
        payer="7f1kAW7ZaYq6iMfeYKouRu166VU2xqa1EtWTRABZaYqN",
        fee_payer="2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4",
        source_account=_base58(44),
        destination_account=_base58(44),
        memo=secrets.token_hex(16),
        blockhash=_base58(44),
        blockhash_slot=100,
        client_signature=_base58(88),
        payload={"transaction": secrets.token_hex(400)},
        request_key=sha256(secrets.token_bytes(16)).digest(),
        url_sealed=secrets.token_bytes(120),
        met=Met402(
            PROVIDER,
            instructions={"version": 2, "offers": [{"amount": "10000", "asset": _base58(44)}]},
            response_headers={"content-type": "application/json"},
        ),
    )


def _delivery(agent: Agent, asked: Reservation) -> Delivery:
    return Delivery(
        provider=PROVIDER,
        url=asked.endpoint,
        method="GET",
        status=200,
        response_hash=sha256(b"").hexdigest(),
        latency_ms=9,
        success=True,
        schema_ok=True,
        score=0.9,
        payment_id=asked.payment_id,
        agent_id=agent.id,
        amount=asked.amount,
        transaction=_base58(88),
        pay_to=asked.pay_to,
    )


def _base58(length: int) -> str:
    return "".join(secrets.choice(BASE58) for _ in range(length))
