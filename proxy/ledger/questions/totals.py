"""How things stand: what was paid and denied today, in the last 24 hours and in 30 days, and what
is held. Money in micro-USD.

Days are read from the counters, which are exact; the last 24 hours, which are no day, from the
receipts; denials from an index that holds nothing else.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from proxy.ledger.database import Database
from proxy.ledger.questions.spend import Spend, spend

DAYS = 30

_DAYS = """
SELECT coalesce(sum(spent_micros) FILTER (WHERE day = today), 0)::bigint AS spent_today,
       coalesce(sum(paid_calls) FILTER (WHERE day = today), 0)::bigint AS calls_today,
       coalesce(sum(spent_micros) FILTER (WHERE day > today - $1::int), 0)::bigint AS spent_days,
       coalesce(sum(paid_calls) FILTER (WHERE day > today - $1::int), 0)::bigint AS calls_days,
       coalesce(sum(held_micros), 0)::bigint AS held
FROM budget_counters, (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS t
WHERE kind = 'fleet_day'
"""
# A receipt stays when the chain disproves it, but then nothing was paid.
_LAST_DAY = """
SELECT coalesce(sum(l.amount_micros), 0)::bigint AS spent, count(*) AS calls
FROM x402_payment_logs l
WHERE l.created_at > now() - interval '24 hours'
  AND l.id NOT IN (SELECT id FROM payments WHERE status = 'FAILED' AND settled_at IS NOT NULL)
"""
_DENIED = """
SELECT reason, count(*) AS days,
       count(*) FILTER (WHERE created_at > now() - interval '24 hours') AS last_day,
       count(*) FILTER (WHERE created_at >= date_trunc('day', now(), 'UTC')) AS today
FROM policy_decision_logs
WHERE decision = 'deny'
  AND created_at >= date_trunc('day', now(), 'UTC') - make_interval(days => $1 - 1)
GROUP BY reason
"""
_IN_DOUBT = """
SELECT count(*) AS payments, min(in_doubt_since) AS since FROM payments
WHERE status IN ('INITIATED', 'SIGNED') AND in_doubt_since IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Span:
    """`denied`: how often, by reason; the most frequent first."""

    MONEY: ClassVar = ("spent",)
    spent: int
    paid_calls: int
    denied: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Totals:
    """`days` are 30 UTC days, today's included. `held`: of all days, what is not paid yet or in
    doubt. `providers`: the ten that took most in 30 days."""

    MONEY: ClassVar = ("held",)
    today: Span
    last_day: Span
    days: Span
    held: int
    in_doubt: int
    in_doubt_since: datetime | None
    providers: list[Spend]


async def totals(database: Database) -> Totals:
    """Of all agents together."""
    (days,) = await database.fetch(_DAYS, DAYS)
    (last,) = await database.fetch(_LAST_DAY)
    (doubt,) = await database.fetch(_IN_DOUBT)
    denied: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in await database.fetch(_DENIED, DAYS):
        for span in ("today", "last_day", "days"):
            if row[span]:
                denied[span][row["reason"]] = row[span]
    for span, counts in denied.items():
        denied[span] = dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
    return Totals(
        Span(days["spent_today"], days["calls_today"], denied["today"]),
        Span(last["spent"], last["calls"], denied["last_day"]),
        Span(days["spent_days"], days["calls_days"], denied["days"]),
        days["held"],
        doubt["payments"],
        doubt["since"],
        await spend(database, "provider", since=timedelta(days=DAYS - 1), limit=10),
    )
