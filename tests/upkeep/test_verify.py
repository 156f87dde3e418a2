"""What was altered by hand is named, each thing by its name."""

import asyncio
from pathlib import Path

import pytest

import sql
from proxy.ledger import migrate
from proxy.upkeep.catalog import Catalog
from proxy.upkeep.manifest import REGENERATE, as_text, catalog_of
from proxy.upkeep.verify import differences
from tests.upkeep.servers import PASSWORD, server

Owner = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture(scope="session")
def wanted(template: str) -> Catalog:
    """As the manifest is made, but of today's files: one test alone tells that it is outdated."""
    return asyncio.run(catalog_of(template))


async def test_the_manifest_is_the_schema(dsn: str) -> None:
    assert as_text(await catalog_of(dsn)) == sql.manifest(), f"run: {REGENERATE}"


async def test_a_filled_database_is_whole(filled: str, wanted: Catalog) -> None:
    assert differences(wanted, await catalog_of(filled)) == []


BY_HAND = [
    (
        "CREATE OR REPLACE FUNCTION guard_budget() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN NEW; END $$",
        "altered  function guard_budget(): its body was changed",
    ),
    (
        "ALTER FUNCTION note_maintenance(text, text, jsonb) SECURITY INVOKER",
        "altered  function note_maintenance(p_task text, p_error text, p_details jsonb): "
        "should be security definer",
    ),
    ("DROP FUNCTION erase_agent(text, text)", "missing  function erase_agent("),
    (
        "ALTER TABLE budget_counters DROP CONSTRAINT budget_counters_held_micros_check",
        "missing  table budget_counters, constraint budget_counters_held_micros_check",
    ),
    ("DROP INDEX idx_payments_agent", "missing  table payments, index idx_payments_agent"),
    (
        "DROP INDEX idx_query_logs_agent;"
        "CREATE INDEX idx_query_logs_agent ON query_logs (agent_id)",
        "altered  table query_logs, index idx_query_logs_agent: is USING btree (agent_id), should",
    ),
    (
        "ALTER TABLE audit_events DROP COLUMN severity",
        "missing  table audit_events, column severity",
    ),
    (
        "ALTER TABLE payments ALTER COLUMN method DROP NOT NULL",
        "altered  table payments, column method: is text, should be text NOT NULL",
    ),
    (
        "ALTER TABLE query_logs ALTER COLUMN agent_id SET DEFAULT 'x'",
        "altered  table query_logs, column agent_id: is text DEFAULT 'x'::text",
    ),
    (
        "DROP TRIGGER payments_guard ON payments",
        "missing  table payments, trigger payments_guard",
    ),
    (
        "ALTER TABLE payments DISABLE TRIGGER payments_keep",
        "altered  table payments, trigger payments_keep: is BEFORE DELETE OR TRUNCATE",
    ),
    (
        "CREATE RULE quiet AS ON DELETE TO payments DO INSTEAD NOTHING",
        "altered  table payments, rule quiet: is not in the schema",
    ),
    ("DROP TABLE message_ratings", "missing  table message_ratings"),
    ("DROP VIEW v_in_doubt", "missing  view v_in_doubt"),
    (
        "CREATE OR REPLACE VIEW x402_session_spend WITH (security_invoker = true) AS "
        "SELECT session_id, agent_id, 0::numeric(18, 6) AS total_spend_usd, "
        "paid_calls::integer AS paid_calls, updated_at, "
        "spent_micros, held_micros FROM budget_counters",
        "altered  view x402_session_spend, definition: its body was changed",
    ),
    (
        "GRANT UPDATE ON budget_counters TO autopay_writer",
        "altered  table budget_counters, grants to autopay_writer: is SELECT, UPDATE, should",
    ),
    (
        "GRANT DELETE ON payments TO PUBLIC",
        "altered  table payments, grants to PUBLIC: is not in the schema",
    ),
    (
        "REVOKE EXECUTE ON FUNCTION default_partition_rows() FROM autopay_writer",
        "missing  function default_partition_rows(), grants to autopay_writer",
    ),
    (
        "ALTER TABLE payments DISABLE ROW LEVEL SECURITY",
        "altered  table payments: is with fillfactor=80, should be row level security",
    ),
    (
        "CREATE POLICY all_of_it ON agent_tokens USING (true)",
        "altered  table agent_tokens, policy all_of_it: is not in the schema",
    ),
    ("ALTER TYPE audit_severity ADD VALUE 'FATAL'", "altered  enum audit_severity: is INFO"),
    (
        "DO $$ BEGIN EXECUTE 'GRANT SELECT ON audit_events' || to_char(now(), '_YYYY_MM') "
        "|| ' TO autopay_reader'; END $$",
        "grants to autopay_reader: is not in the schema",
    ),
]


async def test_what_was_altered_by_hand_is_found(dsn: str, wanted: Catalog, owner: Owner) -> None:
    for change, _ in BY_HAND:
        await owner.execute(change)
    found = [str(one) for one in differences(wanted, await catalog_of(dsn))]
    for change, told in BY_HAND:
        assert any(told in one for one in found), (change, found)
    # Besides: what went with the column, and the same of each month.
    logs = ("missing  table audit_events", "missing  table query_logs", "extra  table query_logs")
    logs += ("altered  table query_logs_",)
    besides = [one for one in found if not any(told in one for _, told in BY_HAND)]
    assert [one for one in besides if not one.startswith(logs)] == []


async def test_what_is_more_is_told_and_harms_nobody(
    dsn: str, wanted: Catalog, owner: Owner
) -> None:
    await owner.execute("CREATE TABLE mine (); CREATE INDEX more ON payments (symbol)")
    found = differences(wanted, await catalog_of(dsn))
    assert [str(one) for one in found] == ["extra  table mine", "extra  table payments, index more"]


OLD = Path("/usr/lib/postgresql/15/bin")


@pytest.mark.skipif(not OLD.exists(), reason="needs PostgreSQL 15")
def test_an_older_server_words_it_the_same(wanted: Catalog) -> None:
    async def look(dsn: str) -> list[str]:
        await migrate(dsn)
        return [str(one) for one in differences(wanted, await catalog_of(dsn))]

    with server(OLD, tls=False) as (port, _):
        dsn = f"postgresql://owner:{PASSWORD}@127.0.0.1:{port}/postgres"
        assert asyncio.run(look(dsn)) == []
