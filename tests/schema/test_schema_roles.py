# ruff: noqa: E501 - statements and tables read better unbroken
"""Every role is tried against every table, view, column and function, by SET ROLE."""

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from proxy.ledger.roles import AUDITOR, READER, ROLES, WRITER
from tests.schema.rights import COLUMNS, FUNCTIONS, OWN_ROWS, TABLES
from tests.schema.rows import BOT, CONFIRMED, VERIFIED, WALLET, u

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

TRIES = {
    "SELECT": "SELECT {} FROM {} LIMIT 0",
    "INSERT": "INSERT INTO {1} ({0}) SELECT NULL WHERE false",
    "UPDATE": "UPDATE {1} SET {0} = DEFAULT WHERE false",
}


async def refused(books: "Connection", sql: str) -> bool:
    """Whether the database has no right for it; that it fails otherwise, or works, is a right."""
    back = books.transaction()
    await back.start()
    try:
        await books.execute(sql)
    except asyncpg.InsufficientPrivilegeError as error:
        return "permission denied" in str(error)
    except asyncpg.PostgresError:
        return False
    finally:
        await back.rollback()
    return False


async def tables(books: "Connection", *, partitions: bool = False) -> list[str]:
    return [
        name
        for (name,) in await books.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p', 'v') AND relispartition = $1 ORDER BY 1",
            partitions,
        )
    ]


async def columns(books: "Connection", table: str) -> list[str]:
    """Those that a row can be written with."""
    return [
        name
        for (name,) in await books.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 "
            "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
            table,
        )
    ]


async def rights(books: "Connection", role: str, table: str) -> tuple[str, dict[str, set[str]]]:
    """What `role` may do with the whole table, as letters (small: with some columns), and which."""
    letters, some = "", {}
    every = await columns(books, table)
    assert not await books.fetchval(
        "SELECT has_table_privilege($1, $2::text::regclass, 'TRUNCATE, REFERENCES, TRIGGER')",
        role,
        table,
    )
    await books.execute(f"SET LOCAL ROLE {role}")
    for verb, one in TRIES.items():
        allowed = {c for c in every if not await refused(books, one.format(c, table))}
        if allowed == set(every):
            letters += verb[0]
        elif allowed:
            letters += verb[0].lower()
            some[verb] = allowed
    if not await refused(books, f"DELETE FROM {table} WHERE false"):
        letters += "D"
    await books.execute("RESET ROLE")
    if await books.fetchval(
        "SELECT relkind = 'v' FROM pg_class WHERE oid = $1::text::regclass", table
    ):
        # Most views cannot be written at all, so a try would tell nothing of rights.
        assert not await books.fetchval(
            "SELECT has_table_privilege($1, $2::text::regclass, 'INSERT, UPDATE, DELETE')",
            role,
            table,
        )
        return letters[:1], {}
    return letters or "-", some


@pytest.mark.parametrize("role", ROLES)
async def test_every_table(books: "Connection", role: str) -> None:
    place = ROLES.index(role)
    expected = {words[0]: words[1 + place] for words in map(str.split, TABLES.strip().splitlines())}
    found = {table: await rights(books, role, table) for table in await tables(books)}
    assert {table: letters for table, (letters, _) in found.items()} == expected
    some = {
        (table, verb): columns
        for table, (_, by_verb) in found.items()
        for verb, columns in by_verb.items()
    }
    assert some == {
        (table, verb): set(names.split())
        for (who, table, verb), names in COLUMNS.items()
        if who == role
    }


@pytest.mark.parametrize("role", ROLES)
async def test_who_may_read_sees_every_row(books: "Connection", role: str) -> None:
    """A grant without a policy would show an empty table."""
    place = ROLES.index(role)
    for line in TABLES.strip().splitlines():
        table, letters = line.split()[0], line.split()[1 + place]
        if letters[0] in "Ss" and (role, table) not in OWN_ROWS:
            column = (COLUMNS.get((role, table, "SELECT")) or "*").split()[0]
            column = f"count({column})" if column == "*" else f"count(ROW({column}))"
            count = f"SELECT {column} FROM {table}"
            there = await books.fetchval(count)
            await books.execute(f"SET LOCAL ROLE {role}")
            assert await books.fetchval(count) == there > 0, table
            await books.execute("RESET ROLE")


@pytest.mark.parametrize("role", ROLES)
async def test_every_function(books: "Connection", role: str) -> None:
    place = ROLES.index(role)
    expected = {
        words[0]
        for words in map(str.split, FUNCTIONS.strip().splitlines())
        if words[1 + place] == "X"
    }
    named = {line.split()[0] for line in FUNCTIONS.strip().splitlines()}
    allowed, seen = set(), set()
    for oid, name, arguments in await books.fetch(
        "SELECT oid, proname, (SELECT string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY n) "
        "FROM unnest(proargtypes) WITH ORDINALITY a (t, n)) FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace AND NOT prorettype = 'trigger'::regtype"
    ):
        seen.add(name)
        await books.execute(f"SET LOCAL ROLE {role}")
        may = not await refused(books, f"SELECT {name}({arguments or ''})")
        assert may == await books.fetchval(
            "SELECT has_function_privilege($1::oid, 'EXECUTE')", oid
        ), name
        if may:
            allowed.add(name)
        await books.execute("RESET ROLE")
    assert seen == named
    assert allowed == expected


@pytest.mark.parametrize("role", ROLES)
async def test_months_are_reached_through_their_log_only(books: "Connection", role: str) -> None:
    months = await tables(books, partitions=True)
    assert len(months) >= 16
    await books.execute(f"SET LOCAL ROLE {role}")
    for month in months:
        for sql in (
            f"SELECT 1 FROM {month} LIMIT 0",
            f"INSERT INTO {month} DEFAULT VALUES",
            f"UPDATE {month} SET created_at = DEFAULT WHERE false",
            f"DELETE FROM {month} WHERE false",
            f"DROP TABLE {month}",
        ):
            back = books.transaction()
            await back.start()
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await books.execute(sql)
            await back.rollback()


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_owns_or_makes_anything(books: "Connection", role: str) -> None:
    await books.execute(f"SET LOCAL ROLE {role}")
    for sql in (
        "CREATE TABLE mine ()",
        "CREATE FUNCTION mine() RETURNS void LANGUAGE sql AS ''",
        "ALTER TABLE payments DISABLE TRIGGER ALL",
        "ALTER TABLE payments DISABLE ROW LEVEL SECURITY",
        "DROP TABLE payments",
        "DROP TRIGGER payments_guard ON payments",
        "ALTER TABLE x402_payment_logs OWNER TO CURRENT_USER",
        "SET LOCAL session_replication_role = replica",
    ):
        back = books.transaction()
        await back.start()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await books.execute(sql)
        await back.rollback()


async def test_nobody_else_may_do_anything(books: "Connection") -> None:
    """A login that was granted none of the roles has the database's name, and that is all."""
    await books.execute("CREATE ROLE passer_by NOLOGIN; GRANT passer_by TO CURRENT_USER")
    everything = [*await tables(books), *await tables(books, partitions=True)]
    await books.execute("SET LOCAL ROLE passer_by")
    for table in everything:
        assert await refused(books, f"SELECT 1 FROM public.{table}"), table
    assert await refused(books, "SELECT public.tick('[]')")


async def test_the_erasing_switch_opens_nothing(books: "Connection") -> None:
    """It is what lets erase_agent rewrite final rows; a role that sets it has still no right to."""
    for role in ROLES:
        await books.execute(f"SET LOCAL ROLE {role}")
        await books.execute("SET LOCAL autopay.erasing = 'on'")
        for table in ("payments", "x402_payment_logs", "audit_events"):
            assert await refused(books, f"UPDATE {table} SET agent_id = agent_id"), (role, table)
        await books.execute("RESET ROLE")


# --- rows that are somebody's own -----------------------------------------------------------------

STRANGER = "Stranger1111111111111111111111111111111111"


async def as_reader(books: "Connection", wallet: str) -> None:
    await books.execute(
        "RESET ROLE; INSERT INTO chat_sessions (id, wallet_address) "
        f"VALUES ('{u(301)}', '{STRANGER}') ON CONFLICT DO NOTHING; "
        "INSERT INTO chat_messages (id, session_id, message_id, content, is_user) "
        f"VALUES ('{u(302)}', '{u(301)}', 'm302', 'hello', false) ON CONFLICT DO NOTHING; "
        "INSERT INTO message_ratings (id, message_id, user_address, is_positive) "
        f"VALUES ('{u(303)}', 'm302', '{STRANGER}', true) ON CONFLICT DO NOTHING"
    )
    await books.execute(f"SET LOCAL ROLE {READER}")
    await books.execute("SELECT set_config('autopay.wallet', $1, true)", wallet)


async def own(books: "Connection") -> list[set[str]]:
    return [
        {row[0] for row in await books.fetch(f"SELECT {what} FROM {table}")}
        for table, what in (
            ("chat_sessions", "wallet_address"),
            ("chat_messages", "message_id"),
            ("message_ratings", "user_address"),
        )
    ]


async def test_a_wallet_sees_its_own_chats_only(books: "Connection") -> None:
    await as_reader(books, WALLET)
    assert await own(books) == [{WALLET}, {"m82", "m83"}, {WALLET}]
    await as_reader(books, STRANGER)
    assert await own(books) == [{STRANGER}, {"m302"}, {STRANGER}]
    await as_reader(books, "")
    assert await own(books) == [set(), set(), set()]


async def test_without_a_wallet_there_is_nothing_to_see(books: "Connection") -> None:
    await books.execute(f"SET LOCAL ROLE {READER}")
    assert await own(books) == [set(), set(), set()]


async def test_a_rating_is_ones_own_and_of_ones_own_message(books: "Connection") -> None:
    rate = "INSERT INTO message_ratings (message_id, user_address, is_positive) VALUES ('{}', '{}', true)"
    await as_reader(books, STRANGER)
    for message, who in (
        ("m302", WALLET),
        ("m83", STRANGER),
        ("m83", WALLET),
        ("no such", STRANGER),
    ):
        back = books.transaction()
        await back.start()
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await books.execute(rate.format(message, who))
        await back.rollback()
    # nobody else's can be changed, taken away or made one's own
    assert await books.execute("UPDATE message_ratings SET is_positive = false") == "UPDATE 1"
    assert await books.execute("DELETE FROM message_ratings") == "DELETE 1"
    await books.execute(rate.format("m302", STRANGER))
    back = books.transaction()
    await back.start()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await books.execute(f"UPDATE message_ratings SET user_address = '{WALLET}'")
    await back.rollback()
    await books.execute("RESET ROLE")
    assert await books.fetchval("SELECT count(*) FROM message_ratings") == 2


async def test_a_rating_of_a_receipt_is_ones_own_and_of_what_one_was_given(
    books: "Connection",
) -> None:
    """What one's wallet paid, or one's chat was given: m83, of the chat of WALLET, was paid for."""
    await books.execute("DELETE FROM receipt_ratings")
    rate = "INSERT INTO receipt_ratings (receipt_id, user_address, is_positive) VALUES ('{}', '{}', true)"
    await as_reader(books, STRANGER)
    for receipt, who in ((CONFIRMED, STRANGER), (CONFIRMED, WALLET), (VERIFIED, STRANGER)):
        back = books.transaction()
        await back.start()
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await books.execute(rate.format(receipt, who))
        await back.rollback()
    await as_reader(books, WALLET)
    for receipt in (CONFIRMED, VERIFIED):  # given to its chat; paid by its wallet
        await books.execute(rate.format(receipt, WALLET))
    back = books.transaction()
    await back.start()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await books.execute(f"UPDATE receipt_ratings SET user_address = '{STRANGER}'")
    await back.rollback()
    await as_reader(books, STRANGER)
    assert await books.fetch("SELECT * FROM receipt_ratings") == []
    assert await books.execute("DELETE FROM receipt_ratings") == "DELETE 0"
    # He was given it in a chat of his own: by its message, he may say something of it.
    await books.execute("RESET ROLE")
    await books.execute(
        f"UPDATE chat_messages SET payment_id = '{CONFIRMED}' WHERE message_id = 'm302'"
    )
    await as_reader(books, STRANGER)
    await books.execute(rate.format(CONFIRMED, STRANGER))
    assert len(await books.fetch("SELECT * FROM receipt_ratings")) == 1


async def test_every_table_has_row_security(books: "Connection") -> None:
    assert (
        await books.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p') AND NOT relispartition AND NOT relrowsecurity"
        )
        == []
    )


async def test_functions_that_run_as_their_owner_trust_no_path(books: "Connection") -> None:
    """SECURITY DEFINER with the caller's search_path would run the caller's own tables."""
    assert (
        await books.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef "
            "AND NOT coalesce('search_path=public, pg_temp' = ANY (proconfig), false)"
        )
        == []
    )


async def test_views_ask_for_the_readers_own_rights(books: "Connection") -> None:
    assert (
        await books.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace "
            "AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)"
        )
        == []
    )


async def test_a_counter_is_moved_through_its_function(dsn: str) -> None:
    """The writer can pay, though it cannot touch what paying changes."""
    owner = await asyncpg.connect(dsn)
    writer = await asyncpg.connect(dsn, server_settings={"role": WRITER})
    try:
        agent = await owner.fetchval(
            "INSERT INTO agents (id, name) VALUES ($1, 'bot') RETURNING id", BOT
        )
        await owner.execute("INSERT INTO agent_policies (agent_id) VALUES ($1)", agent)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute("UPDATE budget_counters SET held_micros = 0")
        code = await writer.fetchval(
            "SELECT (reserve(jsonb_build_object('payment_id', gen_random_uuid(), 'agent_id', $1::uuid, "
            "'price_micros', 10, 'amount_atomic', 10, 'provider', 'p', 'method', 'GET', 'endpoint', 'e', "
            "'x402_version', 2, 'network', 'n', 'asset', 'a', 'symbol', 'USDC', 'pay_to', 'x'))).code",
            agent,
        )
        assert code == "ok"
        for role in (READER, AUDITOR):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncio.gather(owner.execute(f"SET ROLE {role}; SELECT tick('[]')"))
            await owner.execute("RESET ROLE")
    finally:
        await writer.close()
        await owner.close()
