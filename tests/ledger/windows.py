"""Limits over windows, as tests set them, turn the clock under them, and check them."""

import asyncio
import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from proxy.ledger import Database

_SET = """
INSERT INTO policy_rules (agent_id, provider, rules) VALUES ($1, $2, $3)
ON CONFLICT (agent_id, provider) DO UPDATE SET rules = excluded.rules
"""
_CLEAR = """
DELETE FROM policy_rules
WHERE agent_id IS NOT DISTINCT FROM $1 AND provider IS NOT DISTINCT FROM $2
"""
# Hours are those of `created_at`; days, of `day`: only the first are turned back.
_AGE = """
SET session_replication_role = replica;
UPDATE budget_counters SET day = ((right(scope, 13) || ':00')::timestamp - '{age}'::interval)::date,
       scope = '~' || left(scope, -13)
               || to_char((right(scope, 13) || ':00')::timestamp - '{age}'::interval,
                          'YYYY-MM-DD"T"HH24')
 WHERE kind = 'hour';
UPDATE budget_counters SET scope = ltrim(scope, '~') WHERE scope LIKE '~%';
UPDATE payments SET created_at = created_at - '{age}'::interval, scopes = ARRAY(
    SELECT CASE WHEN s LIKE '80/hour/%'
                THEN left(s, -13) || to_char((right(s, 13) || ':00')::timestamp - '{age}'::interval,
                                             'YYYY-MM-DD"T"HH24')
                ELSE s END
      FROM unnest(scopes) WITH ORDINALITY o (s, n) ORDER BY n);
UPDATE policy_decision_logs SET created_at = created_at - '{age}'::interval;
SET session_replication_role = origin;
"""


async def room_in_the_hour() -> None:
    """Returns where the hour of the clock has some time left: a test is about one and the same."""
    left = 3600 - datetime.now(UTC).timestamp() % 3600
    if left < 20:
        await asyncio.sleep(left + 0.1)


async def set_rules(
    database: Database, agent: UUID | None, provider: str | None, rules: dict[str, Any] | None
) -> None:
    """The layer says `rules`; None: there is none."""
    if rules is None:
        await database.execute(_CLEAR, agent, provider)
    else:
        await database.execute(_SET, agent, provider, json.dumps(rules))


def superuser(dsn: str) -> str:
    """Only he can turn the triggers off."""
    return urlsplit(dsn)._replace(netloc="postgres@").geturl()


async def age(dsn: str, hours: int) -> None:
    """All payments are so many hours older, with the counters of their hours."""
    owner = await asyncpg.connect(superuser(dsn))
    try:
        await owner.execute(_AGE.format(age=f"{hours} hours"))
    finally:
        await owner.close()


def covers(pattern: str, provider: str) -> bool:
    """Whether a provider (scheme://host:port) falls under a pattern, told again."""
    scheme, host, port = provider.split(":")
    host = host.removeprefix("//")
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    default = {"http": "80", "https": "443"}[scheme] == port
    return pattern in {host, provider, f"{scheme}://{host}" if default else provider}


async def check_windows(database: Database) -> None:
    """Every limit's counter of now has all that its window holds, however long it has counted."""
    now = await database.fetchval("SELECT now()")
    payments = await database.fetch(
        "SELECT agent_id, provider, price_micros, day, created_at, status::text FROM payments"
        " WHERE status <> 'FAILED'"
    )
    agents = [row["id"] for row in await database.fetch("SELECT id FROM agents WHERE is_active")]
    counters = {row["scope"]: row for row in await database.fetch("SELECT * FROM budget_counters")}
    for limit in await database.fetch("SELECT * FROM policy_limits"):
        owners = [limit["agent_id"]]
        if limit["agent_id"] is None and limit["provider"] is None:
            owners = agents
        for owner in owners:
            found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
            for payment in payments:
                scope = _scope(limit, owner, payment, now)
                if scope is not None:
                    paid = payment["status"] in ("CONFIRMED", "VERIFIED")
                    found[scope][0 if paid else 1] += payment["price_micros"]
                    found[scope][2 if paid else 3] += 1
            for scope, sums in found.items():
                c = counters[scope]
                stands = [c["spent_micros"], c["held_micros"], c["paid_calls"], c["held_calls"]]
                assert stands == sums, (scope, stands, sums)


def _scope(limit: Any, owner: UUID | None, payment: Any, now: datetime) -> str | None:
    """The counter of this limit that this payment is to be found in; None: in no window of now."""
    win, pattern = limit["win"], limit["provider"]
    if owner is not None and payment["agent_id"] != owner:
        return None
    if pattern is not None and not covers(pattern, payment["provider"]):
        return None
    at: datetime = payment["created_at"].astimezone(UTC)
    today = now.astimezone(UTC).date()
    who = f"{owner or '*'}/{pattern or '*'}"
    if win in ("hour", "rolling"):
        back = timedelta(hours=limit["hours"] or 0)
        first = now.replace(minute=0, second=0, microsecond=0) - back
        return f"80/hour/{who}/{at:%Y-%m-%dT%H}" if at >= first else None
    if win == "day" and pattern is not None:
        return f"81/day/{who}/{today}" if payment["day"] == today else None
    if win == "month":
        same = (payment["day"].year, payment["day"].month) == (today.year, today.month)
        return f"82/month/{who}/{today:%Y-%m}" if same else None
    return f"83/lifetime/{who}" if win == "lifetime" else None
