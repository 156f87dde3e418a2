"""Books as years of work would leave them, written by COPY: payments with all their rows, and the
counters that are the exact sum of them."""

import hashlib
import json
import random
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

NETWORK = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
ASSET = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
WALLET = "7f1kAW7ZaYq6iMfeYKouRu166VU2xqa1EtWTRABZaYqN"
PAY_TO = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
DENIALS = ("over_daily_limit", "endpoint_not_allowed", "over_per_call_limit", "not_payable")
OTHERS = 250  # one payment in so many has no receipt: it failed, or is in doubt
RARE = "claimed_not_landed"  # a word that one event in 20,000 has
CHUNK = 20_000

Rows = dict[str, list[tuple[Any, ...]]]

_COLUMNS = {
    "api_requests": "id agent_id session_id trace_id provider method endpoint http_status"
    " x402_instructions status error_class created_at updated_at",
    "payments": "id agent_id status amount_atomic price_micros day scopes policy_version session_id"
    " trace_id provider method endpoint x402_version network asset symbol pay_to payer fee_payer"
    " source_account destination_account memo blockhash last_valid_block_height client_signature"
    " message_sha256 payment_payload payment_hash doubt_reason in_doubt_since release_reason"
    " settled_at created_at updated_at api_request_id request_key",
    "x402_payment_logs": "id session_id trace_id agent_id endpoint method amount symbol asset"
    " amount_micros network pay_to receipt_ref tx_hash settle_tx_hash payment_payload claimed"
    " success http_status latency_ms settled_at created_at",
    "x402_procurement_receipts": "id payment_id agent_id intent provider_id url method status"
    " paid_amount_atomic response_hash latency_ms success schema_ok score tx_hash pay_to"
    " created_at",
    "policy_decision_logs": "payment_id trace_id session_id agent_id method endpoint decision"
    " reason policy_version scope limit_micros scope_spent_micros scope_held_micros"
    " quoted_price_micros spent_today_micros reserved_micros remaining_daily_micros day created_at",
    "audit_events": "agent_id event_type related_id details severity created_at",
    "transaction_logs": "agent_id payment_id solana_tx_metadata confirmation_status gas_fees"
    " created_at",
    "query_logs": "response_time_ms agent_id tx_hash created_at",
    "x402_trace_steps": "agent_id trace_id step_index tool_name endpoint quoted_price_micros reason"
    " budget_before_micros budget_after_micros outcome payment_id created_at updated_at",
    "x402_traces": "agent_id trace_id session_id budget_limit_micros spent_start_micros"
    " spent_end_micros remaining_end_micros steps created_at updated_at",
    "budget_counters": "scope kind agent_id day session_id subject spent_micros held_micros"
    " paid_calls",
}
LIMIT = 10**15


@dataclass(frozen=True, slots=True)
class Scale:
    receipts: int
    agents: int = 200
    providers: int = 50
    days: int = 120


@dataclass(slots=True)
class _Counter:
    kind: str
    agent: UUID | None
    day: Any
    session: str | None
    subject: str | None
    spent: int = 0
    held: int = 0
    calls: int = 0


@dataclass(slots=True)
class _Books:
    """What is summed up while rows are made."""

    counters: dict[str, _Counter] = field(default_factory=dict)
    traces: dict[tuple[UUID, str], list[Any]] = field(default_factory=dict)


async def load(superuser_dsn: str, scale: Scale, seed: int = 402) -> None:
    """Fills a migrated database. Triggers and foreign keys rest meanwhile: every row is what they
    would have let pass, and each event is written here and not once more by them."""
    connection = await asyncpg.connect(superuser_dsn, timeout=30)
    try:
        now = await connection.fetchval("SELECT now()")
        start = now - timedelta(days=scale.days)
        await connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '256MB'")
        await connection.execute("SELECT ensure_partitions(3, $1)", start.date())
        agents = await _agents(connection, scale.agents)
        await connection.execute("SET session_replication_role = replica")
        books = _Books()
        for rows in _chunks(scale, agents, start, now, books, random.Random(seed)):  # noqa: S311
            await _copy(connection, rows)
        await _copy(connection, _sums(books))
        await connection.execute("SET session_replication_role = DEFAULT")
        await connection.execute("SELECT link_receipts()")
        await connection.execute("VACUUM ANALYZE")  # as autovacuum does in time
    finally:
        await connection.close()


async def _agents(connection: "asyncpg.Connection[asyncpg.Record]", count: int) -> list[UUID]:
    rows = await connection.fetch(
        "INSERT INTO agents (name) SELECT 'agent-' || lpad(n::text, 3, '0')"
        " FROM generate_series(0, $1 - 1) n RETURNING id, name",
        count,
    )
    await connection.execute(
        "INSERT INTO agent_policies (agent_id, daily_limit_micros, session_limit_micros,"
        " trace_limit_micros) SELECT id, $1, $1, $1 FROM agents WHERE name LIKE 'agent-%'",
        LIMIT,
    )
    return [row["id"] for row in sorted(rows, key=lambda row: row["name"])]


async def _copy(connection: "asyncpg.Connection[asyncpg.Record]", rows: Rows) -> None:
    for table, records in rows.items():
        await connection.copy_records_to_table(
            table, records=records, columns=_COLUMNS[table].split()
        )


def _chunks(
    scale: Scale,
    agents: list[UUID],
    start: datetime,
    now: datetime,
    books: _Books,
    rng: random.Random,
) -> Iterator[Rows]:
    count = scale.receipts + scale.receipts // OTHERS
    pause = (now - start) / (count + 1)
    # Some agents do much, most do little; the first does a tenth of everything.
    weights = [len(agents) / 9] + [1.0 + at % 7 for at in range(len(agents) - 1)]
    rows: Rows = defaultdict(list)
    for number in range(count):
        other = number % (OTHERS + 1) == OTHERS
        if number % 5 == 0:  # a task: five payments of one agent
            agent = rng.choices(agents, weights)[0]
        at = start + pause * (number + 1)
        _payment(rows, books, scale, rng, agent, number, at, now, other=other)
        if number % 10 == 0:
            _denial(rows, rng, agent, at)
        if len(rows["payments"]) == CHUNK:
            yield rows
            rows = defaultdict(list)
    yield rows


def _payment(
    rows: Rows,
    books: _Books,
    scale: Scale,
    rng: random.Random,
    agent: UUID,
    number: int,
    at: datetime,
    now: datetime,
    *,
    other: bool,
) -> None:
    payment = _uuid7(at, rng)
    trace, session = f"trace-{number // 5}", f"session-{agent.hex[:8]}-{number // 20_000}"
    host = f"api{(agent.int + rng.randrange(8)) % scale.providers}.example.com"
    provider, url = f"https://{host}:443", f"https://{host}/v1/{rng.choice(('quote', 'news'))}"
    price = rng.randrange(1, 50) * 1_000
    digest = hashlib.sha512(payment.bytes).digest()
    hash_ = b64encode(digest).decode()
    payload = f'{{"transaction": "{b64encode(digest * 4).decode()}"}}'
    day = at.date()
    in_doubt = other and number % 3 == 0
    fresh = now - at < timedelta(minutes=2)  # not yet seen finalized
    if other:
        status, request = ("SIGNED" if in_doubt else "FAILED"), "FAILED"
    else:
        status, request = ("CONFIRMED" if fresh else "VERIFIED"), "ACCESSED"
    scopes = _count(books, agent, provider, session, trace, day, price, status)

    rows["api_requests"].append(
        (payment, agent, session, trace, provider, "GET", url, 502 if other else 200,
         f'{{"version": 2, "offers": [{{"amount": "{price}", "asset": "{ASSET}"}}]}}', request,
         "answer_lost" if other else None, at, at)
    )  # fmt: skip
    rows["payments"].append(
        (payment, agent, status, price, price, day, scopes, 1, session, trace, provider, "GET", url,
         2, NETWORK, ASSET, "USDC", PAY_TO, WALLET, PAY_TO, PAY_TO, PAY_TO, digest[:16].hex(),
         hash_[:44], 250 + number, hash_[::-1], digest[:32], payload, None if other else hash_,
         "answer_lost" if in_doubt else None, at if in_doubt else None,
         "proved_dead" if status == "FAILED" else None, None if other else at, at, at, payment,
         digest[32:])
    )  # fmt: skip
    rows["policy_decision_logs"].append(
        (payment, trace, session, agent, "GET", url, "allow", "ok", 1, scopes[0], LIMIT, 0, price,
         price, 0, price, LIMIT - price, day, at)
    )  # fmt: skip
    tried = books.traces.setdefault((agent, trace), [session, at, 0, 0])
    rows["x402_trace_steps"].append(
        (agent, trace, tried[2], provider, url, price, "ok", LIMIT, LIMIT - price,
         "in_doubt" if in_doubt else "failed" if other else "paid", payment, at, at)
    )  # fmt: skip
    tried[2] += 1
    if other:
        return
    tried[3] += price
    rows["x402_payment_logs"].append(
        (payment, session, trace, agent, url, "GET", str(price), "USDC", ASSET, price, NETWORK,
         PAY_TO, str(payment), hash_, hash_, payload, True, True, 200, 40, at, at)
    )  # fmt: skip
    rows["x402_procurement_receipts"].append(
        (_uuid7(at, rng), payment, agent, f"GET {url}", provider, url, "GET", 200, str(price),
         digest[:32].hex(), 40, True, True, 1, hash_, PAY_TO, at)
    )  # fmt: skip
    rows["transaction_logs"].append(
        (agent, payment, f'{{"signature": "{hash_}", "slot": {number}, "network": "{NETWORK}"}}',
         "FINALIZED", 5000, at)
    )  # fmt: skip
    rows["query_logs"].append((40, str(agent), hash_, at))
    rows["audit_events"].append(_event(number, agent, payment, provider, url, price, hash_, at))


def _event(
    number: int,
    agent: UUID,
    payment: UUID,
    provider: str,
    url: str,
    price: int,
    hash_: str,
    at: datetime,
) -> tuple[Any, ...]:
    """In turns, what the triggers write in the life of a payment; now and then an alarm."""
    details: dict[str, Any] = {"provider": provider, "price_micros": price}
    if number % 20_000 == 777:
        kind, severity = "ALARM", "ERROR"
        details |= {"code": RARE, "claimed": hash_}
    elif number % 500 == 13:
        kind, severity = "NETWORK_ISSUE", "WARNING"
        details |= {"state": "in_doubt", "reason": "answer_lost"}
    elif number % 3 == 0:
        kind, severity = "PAYMENT_STATUS", "INFO"
        details |= {"to": "SIGNED", "reason": "reserved"}
    elif number % 3 == 1:
        kind, severity = "PAYMENT_SUCCESS", "INFO"
        details |= {"from": "SIGNED", "to": "CONFIRMED", "transaction": hash_, "reason": "settled"}
    else:
        kind, severity = "API_ACCESS", "INFO"
        details = {"endpoint": url, "http_status": 200}
    return agent, kind, payment, json.dumps(details), severity, at


def _denial(rows: Rows, rng: random.Random, agent: UUID, at: datetime) -> None:
    rows["policy_decision_logs"].append(
        (None, None, None, agent, "GET", "https://api0.example.com/v1/dear", "deny",
         rng.choice(DENIALS), 1, None, LIMIT, None, None, 90_000, 0, 0, LIMIT, at.date(), at)
    )  # fmt: skip


def _count(
    books: _Books,
    agent: UUID,
    provider: str,
    session: str,
    trace: str,
    day: Any,
    price: int,
    status: str,
) -> list[str]:
    """As counters_of and the moves of money do. Returns the scopes."""
    makes: tuple[tuple[str, str, UUID | None, Any, str | None, str | None], ...] = (
        (f"10/agent-day/{agent}/{day}", "agent_day", agent, day, None, None),
        (f"20/session/{agent}/{session}", "session", agent, None, session, None),
        (f"30/trace/{agent}/{trace}", "trace", agent, None, None, trace),
        (f"40/agent-provider-day/{agent}/{provider}/{day}", "agent_provider_day",
         agent, day, None, provider),
        (f"50/provider-day/{provider}/{day}", "provider_day", None, day, None, provider),
        (f"60/wallet-day/{NETWORK}/{WALLET}/{day}", "wallet_day", None, day, None, WALLET),
        (f"70/fleet-day/{day}", "fleet_day", None, day, None, None),
    )  # fmt: skip
    for scope, *rest in makes:
        counter = books.counters.get(scope)
        if counter is None:
            counter = books.counters[scope] = _Counter(*rest)
        if status == "SIGNED":
            counter.held += price
        elif status != "FAILED":
            counter.spent += price
            counter.calls += 1
    return [scope for scope, *_ in makes]


def _sums(books: _Books) -> Rows:
    return {
        "x402_traces": [
            (agent, trace, session, LIMIT, 0, spent, LIMIT - spent, steps, at, at)
            for (agent, trace), (session, at, steps, spent) in books.traces.items()
        ],
        "budget_counters": [
            (scope, c.kind, c.agent, c.day, c.session, c.subject, c.spent, c.held, c.calls)
            for scope, c in books.counters.items()
        ],
    }


def _uuid7(at: datetime, rng: random.Random) -> UUID:
    milliseconds = int(at.astimezone(UTC).timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | 0x2 << 62 | rng.getrandbits(62))
