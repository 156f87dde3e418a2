"""What the ledger would weigh of a payment, as it stands now: for `policies.explain`.

Nothing is taken and nothing is written. Where money is reserved the same is asked again, in one
transaction with the payment.
"""

import json
from uuid import UUID

import asyncpg

from policies import Ask, Facts, Policy, Used, format_usd, parse_provider
from policies.explanation import CEILINGS, Ceiling, median
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
SELECT k.kind, k.limit, coalesce(c.spent_micros, 0) AS spent,
       coalesce(c.held_micros, 0) AS held,
       utc_midnight_after((now() AT TIME ZONE 'UTC')::date) AS resets_at,
       k.subject IS NOT NULL AS known
FROM (SELECT v.*, CASE WHEN v.subject IS NULL THEN (
                      SELECT min(l.limit_micros) FROM spend_limits l
                      WHERE l.kind = v.kind::budget_kind)
                  ELSE spend_limit(v.kind::budget_kind, v.agent, v.subject) END AS limit
      FROM (VALUES ('agent_provider_day', $1::uuid, $2::text), ('provider_day', NULL, $2),
                   ('wallet_day', NULL, $3::text), ('fleet_day', NULL, '*'))
           v (kind, agent, subject)) k
LEFT JOIN budget_counters c ON c.kind = k.kind::budget_kind
     AND c.day = (now() AT TIME ZONE 'UTC')::date AND c.agent_id IS NOT DISTINCT FROM k.agent
     AND (c.subject = k.subject OR k.kind = 'fleet_day')
     AND (k.kind <> 'wallet_day' OR starts_with(c.scope, '60/wallet-day/' || $4 || '/'))
WHERE k.limit IS NOT NULL
"""
# The wallet of the agent's own layer, or of the defaults, as the proxy saw it last.
_PAYER = "SELECT nullif(wallet_address, repeat('1', 32)) FROM agents WHERE id = $1"
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
# What the gate would find (0030_gate.sql, `approval_bound` and `approval_denial`): an approval for
# all this and this price, else a rejection for as much or less, else a question that waits.
_BOUND = """
SELECT a.id, a.state, a.price_micros AS price, a.expires_at
FROM approvals a
WHERE a.bound = sha256(convert_to(jsonb_build_array(
          $1::uuid, $2::text, $3::text, encode($4::bytea, 'hex'), $5::text, $6::text, $7::text,
          $8::text)::text, 'UTF8'))
  AND a.expires_at > now()
  AND CASE a.state WHEN 'approved' THEN a.price_micros >= $9 WHEN 'rejected' THEN
           a.price_micros <= $9 ELSE a.state = 'pending' END
ORDER BY array_position(ARRAY['approved', 'rejected', 'pending'], a.state),
         CASE a.state WHEN 'approved' THEN a.price_micros END,
         CASE a.state WHEN 'rejected' THEN a.expires_at END DESC, a.expires_at, a.id
LIMIT 1
"""
# Those that it could be: of all that is known of the request.
_PERHAPS = """
SELECT a.id, a.state FROM approvals a
WHERE a.agent_id = $1 AND a.method = $2 AND a.endpoint = $3 AND a.provider = $4 AND a.network = $5
  AND ($6 = '' OR a.asset = $6) AND ($7 = '' OR a.pay_to = $7) AND a.price_micros >= $8
  AND a.state IN ('approved', 'pending') AND a.expires_at > now()
ORDER BY a.state, a.price_micros, a.expires_at, a.id
"""


async def facts(
    database: Database,
    policy: Policy,
    ask: Ask,
    *,
    session: str | None = None,
    trace: str | None = None,
    request_key: bytes | None = None,
) -> Facts:
    """What is known of an offer's agent, provider and endpoint. Of sessions and traces only those
    that are named. An approval is for one request, with its query and body, and one receiver:
    without the `request_key`, `ask.pay_to` or `ask.asset`, one that may be for it is not known to
    be.

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
    elsewhere = any(layer.rules.wallet for layer in policy.layers if layer.provider is not None)
    payer = None if elsewhere else await database.fetchval(_PAYER, agent)
    approved, approval = await _approval(database, ask, agent, provider, endpoint, request_key)
    return Facts(
        halted=(switch.reason or "It is not said why.") if switch.halted else None,
        used=await _used(database, policy, agent, session, trace),
        ceilings=[
            Ceiling(*CEILINGS[row["kind"]], row["limit"], _of(row) if row["known"] else None)
            for row in await database.fetch(_CEILINGS, agent, provider, payer, ask.network)
        ],
        pinned=[row[0] for row in await database.fetch(_PINNED, provider, ask.network)],
        last_paid=paid[0] if paid else None,
        median_paid=median(paid),
        lost={row["layer"]: row["lost"] for row in lost},
        approved=approved,
        approval=approval,
    )


async def _approval(
    database: Database,
    ask: Ask,
    agent: UUID,
    provider: str,
    endpoint: str,
    request_key: bytes | None,
) -> tuple[bool | None, str]:
    """Whether an operator has approved it, None if nobody can know; and what is known of it."""
    missing = [
        name
        for name, known in (
            ("its body", request_key is not None),
            ("its receiver", ask.pay_to),
            ("its asset's address", ask.asset),
        )
        if not known
    ]
    request, offer = (agent, ask.method, endpoint), (ask.network, ask.asset, ask.pay_to, ask.price)
    if missing:
        found = await database.fetch(_PERHAPS, *request, provider, *offer)
        if not found:
            return False, ""
        if found[0]["state"] == "pending":
            why = f"approval {found[0]['id']}, which may be for this request, waits."
            return False, f"An operator must approve it first: {why}"
        good = sum(row["state"] == "approved" for row in found)
        others = f" or one of {good - 1} more" if good > 1 else ""
        return None, (
            f"Approval {found[0]['id']}{others} may be for this request, which is known by its"
            f" query, body and receiver too. Not said: {', '.join(missing)}."
        )
    row = await database.fetchrow(_BOUND, *request, request_key, provider, *offer)
    if row is None:
        return False, ""
    return row["state"] == "approved", _said(row, ask.price)


def _said(row: asyncpg.Record, price: int) -> str:
    name, until = f"approval {row['id']}", f"until {row['expires_at']:%Y-%m-%d %H:%M} UTC"
    if row["state"] == "approved":
        return f"An operator has approved it: {name}, {until}."
    if row["state"] == "rejected":
        return f"An operator has rejected it: {name}, {until}."
    if row["price"] < price:
        why = f"{name} waits for {format_usd(row['price'])} USD; at this price it is asked anew."
        return f"An operator must approve it first: {why}"
    return f"An operator must approve it first: {name} waits, {until}."


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
