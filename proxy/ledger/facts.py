"""What the ledger would weigh of a payment, as it stands now: for `policies.explain`.

Nothing is taken and nothing is written. Where money is reserved the same is asked again, in one
transaction with the payment.
"""

import json
from uuid import UUID

import asyncpg

from policies import Ask, Facts, Policy, Used, parse_provider
from policies.explanation import Ceiling, median
from policies.rules import window_hours
from proxy.ledger import agents, audit
from proxy.ledger.database import Database
from proxy.urls import shown_url

# The counters that money is taken from (0029_limits.sql): a rolling window is the sum of its hours.
_USED = """
SELECT w.layer, w.win, coalesce(r.spent, c.spent_micros, 0) AS spent,
       coalesce(r.held, c.held_micros, 0) AS held,
       coalesce(r.calls, c.paid_calls + c.held_calls, 0) AS payments,
       window_end(w.win, now()) AS resets_at
FROM jsonb_to_recordset($1)
     AS w (layer text, win text, hours int, agent uuid, provider text, session text, trace text)
LEFT JOIN budget_counters c ON c.scope = CASE
     WHEN w.win = 'session' THEN session_scope(w.agent, w.session)
     WHEN w.win = 'trace' THEN trace_scope(w.agent, w.trace)
     WHEN w.win = 'day' AND w.provider IS NULL
     THEN agent_day_scope(w.agent, (now() AT TIME ZONE 'UTC')::date)
     WHEN w.hours IS NULL THEN window_scope(w.win, w.agent, w.provider, now()) END
LEFT JOIN LATERAL rolling_sum(w.agent, w.provider, w.hours, now()) r ON w.hours IS NOT NULL
"""
_CEILINGS = """
SELECT k.kind, spend_limit(k.kind::budget_kind, k.agent, k.subject) AS limit,
       budget_denial(k.kind::budget_kind) AS code, coalesce(c.spent_micros, 0) AS spent,
       coalesce(c.held_micros, 0) AS held,
       utc_midnight_after((now() AT TIME ZONE 'UTC')::date) AS resets_at
FROM (VALUES ('agent_provider_day', $1::uuid, $2::text), ('provider_day', NULL, $2),
             ('wallet_day', NULL, $3::text), ('fleet_day', NULL, '*')) k (kind, agent, subject)
LEFT JOIN budget_counters c ON c.kind = k.kind::budget_kind
     AND c.day = (now() AT TIME ZONE 'UTC')::date AND c.agent_id IS NOT DISTINCT FROM k.agent
     AND (c.subject = k.subject OR k.kind = 'fleet_day')
WHERE k.subject IS NOT NULL AND spend_limit(k.kind::budget_kind, k.agent, k.subject) IS NOT NULL
"""
_PINNED = """
SELECT p.pay_to FROM pay_to_pins p
WHERE p.provider = plain_origin($1) AND p.network = $2 AND p.accepted ORDER BY p.created_at
"""
# As the ledger counts them (0030_gate.sql): the last 21, by the same index.
_PRICES = """
SELECT p.price_micros FROM payments p
WHERE hashtextextended(p.provider || ' ' || p.method || ' ' || p.endpoint, 402)
      = hashtextextended($1 || ' ' || $2 || ' ' || $3, 402)
  AND p.provider = $1 AND p.method = $2 AND p.endpoint = $3
  AND p.status IN ('CONFIRMED', 'VERIFIED')
ORDER BY p.created_at DESC, p.id DESC LIMIT 21
"""
_LOST = """
SELECT w.layer, lost_micros((now() AT TIME ZONE 'UTC')::date, w.agent, w.provider) AS lost
FROM jsonb_to_recordset($1) AS w (layer text, agent uuid, provider text)
"""
_APPROVED = """
SELECT EXISTS (
    SELECT 1 FROM approvals a
    WHERE a.agent_id = $1 AND a.state = 'approved' AND a.expires_at > now() AND a.method = $2
      AND a.endpoint = $3 AND a.price_micros >= $4)
"""
_CEILING_NAMES = {
    "agent_provider_day": "this agent with this provider, per day",
    "provider_day": "this provider, per day",
    "wallet_day": "this wallet, per day",
    "fleet_day": "everything, per day",
}


async def facts(
    database: Database,
    policy: Policy,
    ask: Ask,
    *,
    session: str | None = None,
    trace: str | None = None,
    payer: str | None = None,
) -> Facts:
    """What is known of an offer's agent, provider and endpoint. Of sessions and traces only those
    that are named, of wallets only `payer`. An approval is for one request, body and all: here one
    for the same method, endpoint and price counts.

    Raises UnknownAgent, and LedgerError if the database cannot be asked.
    """
    agent = (await agents.find(database, policy.agent)).agent.id
    provider = parse_provider(f"{ask.scheme}://{ask.host}:{ask.port}").text
    port = "" if ask.port == {"http": 80, "https": 443}[ask.scheme] else f":{ask.port}"
    endpoint = shown_url(f"{ask.scheme}://{ask.host}{port}{ask.path}")
    layers = [
        {
            "layer": layer.name,
            "agent": str(agent) if layer.per_agent else None,
            "provider": layer.provider,
        }
        for layer in policy.stack
    ]
    paid = [row[0] for row in await database.fetch(_PRICES, provider, ask.method, endpoint)]
    lost = await database.fetch(_LOST, json.dumps(layers))
    switch = await audit.spending(database)
    return Facts(
        halted=(switch.reason or "It is not said why.") if switch.halted else None,
        used=await _used(database, policy, agent, session, trace),
        ceilings=[
            Ceiling(_CEILING_NAMES[row["kind"]], row["code"], row["limit"], _of(row))
            for row in await database.fetch(_CEILINGS, agent, provider, payer)
        ],
        pinned=[row[0] for row in await database.fetch(_PINNED, provider, ask.network)],
        last_paid=paid[0] if paid else None,
        median_paid=median(paid),
        lost={row["layer"]: row["lost"] for row in lost},
        approved=await database.fetchval(_APPROVED, agent, ask.method, endpoint, ask.price),
    )


async def _used(
    database: Database, policy: Policy, agent: UUID, session: str | None, trace: str | None
) -> dict[tuple[str, str], Used]:
    windows = [
        {
            "layer": layer.name,
            "win": limit.window,
            "hours": window_hours(limit.window),
            "agent": str(agent) if layer.per_agent else None,
            "provider": layer.provider,
            "session": session,
            "trace": trace,
        }
        for layer in policy.stack
        for limit in layer.rules.limits
    ]
    rows = await database.fetch(_USED, json.dumps(windows))
    return {(row["layer"], row["win"]): _of(row) for row in rows}


def _of(row: asyncpg.Record) -> Used:
    return Used(row["spent"], row["held"], row.get("payments", 0), row.get("resets_at"))
