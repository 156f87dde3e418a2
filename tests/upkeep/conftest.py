"""A database with rows of every kind, and an empty one on a server of its own."""

import secrets
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.peers.postgres import cluster, drop_database, fresh_database

# Text that is not ASCII, bytes, JSON, arrays, NULLs, generated columns, months long gone.
FILL = r"""
INSERT INTO agents (name) SELECT 'agent-' || n FROM generate_series(1, 40) n;
INSERT INTO agent_policies (agent_id, allowed_endpoints, updated_by)
    SELECT id, ARRAY['GET https://api.example/*', E'tab\t"quote" \\ ü €'], NULL FROM agents
    WHERE name LIKE 'agent-%';
SELECT ensure_partitions(3, '2026-05-01');
INSERT INTO audit_events (agent_id, event_type, details, created_at)
    SELECT a.id, 'ALARM', jsonb_build_object('n', n, 'text', repeat('é', n % 7)),
           timestamptz '2026-05-03 12:00Z' + n * interval '5 hours'
    FROM generate_series(1, 900) n, agents a WHERE a.name = 'agent-1';
INSERT INTO query_logs (response_time_ms, agent_id) SELECT n, NULL FROM generate_series(1, 300) n;
INSERT INTO policy_decision_logs (agent_id, endpoint, decision, reason)
    SELECT id, 'https://api.example/' || name, 'deny', 'frozen' FROM agents;
INSERT INTO chat_sessions (wallet_address, title)
    VALUES ('So11111111111111111111111111111111111111112', E'two\nlines');
INSERT INTO spend_limits (kind, subject, limit_micros) VALUES ('fleet_day', '*', 5);
INSERT INTO x402_procurement_provider_stats (id, avg_latency_ms)
    VALUES ('https://api.example:443', 1.25);
"""


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the test's database as its owner."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def filled(dsn: str) -> str:
    """The test's database, with rows."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(FILL)
    await connection.close()
    return dsn


@pytest.fixture
async def empty(server: str) -> AsyncIterator[str]:
    """A database with nothing in it, not even the schema."""
    dsn = await fresh_database(server)
    yield dsn
    await drop_database(server, dsn)


@pytest.fixture(scope="session")
def other_server() -> Iterator[str]:
    """Another server, on which none of our roles has ever been."""
    with cluster() as dsn:
        yield dsn


@pytest.fixture
async def lesser(dsn: str) -> AsyncIterator[tuple[str, str]]:
    """(DSN, name) of a login that owns nothing and is a member of nothing."""
    name = f"login_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"CREATE ROLE {name} LOGIN")
    yield dsn.replace("//autopay@", f"//{name}@"), name
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()
