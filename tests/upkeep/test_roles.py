"""A connection is its role's, whatever is said on it; and a login that cannot be it is told."""

import asyncpg
import pytest

from proxy.ledger import Database, Directory, LedgerFault, MigrationError, migrate
from proxy.ledger.roles import READER, WRITER, RoleRefused
from proxy.vault import Vault
from sql import migrations

Owner = "asyncpg.Connection[asyncpg.Record]"
WHO = "SELECT current_user::text"


async def test_every_statement_is_the_roles(
    dsn: str, owner: Owner, lesser: tuple[str, str]
) -> None:
    login, name = lesser
    await owner.execute(f"GRANT {WRITER} TO {name}")
    database = await Database.open(login, size=1, role=WRITER)
    try:
        for statement in (
            "SELECT 1",
            "RESET ALL",
            "RESET ROLE",
            "SELECT set_config('role', 'none', true)",
        ):
            await database.execute(statement)
            assert await database.fetchval(WHO) == WRITER, statement
        # This leads back to the login, which is worth no more than the role.
        await database.execute("SET ROLE NONE")
        assert await database.fetchval(WHO) == name
        for statement in (
            "UPDATE budget_counters SET spent_micros = 0",
            "DELETE FROM payments",
            "ALTER TABLE payments DISABLE TRIGGER ALL",
            f"SET ROLE {READER}",
            "SET ROLE autopay",
            "SET SESSION AUTHORIZATION autopay",
        ):
            with pytest.raises(LedgerFault):
                await database.execute(statement)
    finally:
        await database.close()


async def test_a_login_that_may_not_is_told_which_grant_to_run(
    owner: Owner, lesser: tuple[str, str]
) -> None:
    login, name = lesser
    grant = f'GRANT {WRITER} TO "{name}"'
    with pytest.raises(RoleRefused) as error:
        await Database.open(login, role=WRITER)
    assert str(error.value).endswith(grant)
    await owner.execute(grant)
    await (await Database.open(login, role=WRITER)).close()


async def test_a_role_that_is_not_there_is_told(dsn: str) -> None:
    with pytest.raises(RoleRefused, match="no role autopay_nobody"):
        await Database.open(dsn, role="autopay_nobody")


async def test_the_directory_is_told_as_well(lesser: tuple[str, str], vault: Vault) -> None:
    directory = Directory(lesser[0], vault, role=WRITER)
    with pytest.raises(RoleRefused, match="GRANT"):
        await directory.start()


async def test_who_owns_nothing_finds_the_schema_up_to_date_and_no_more(
    owner: Owner, lesser: tuple[str, str]
) -> None:
    login, name = lesser
    await owner.execute(f"GRANT {WRITER} TO {name}")
    assert await migrate(login) == []
    await owner.execute(
        "DELETE FROM schema_migrations WHERE name = (SELECT max(name) FROM schema_migrations)"
    )
    with pytest.raises(MigrationError, match="autopay db migrate --owner-url"):
        await migrate(login)
    assert len(migrations()) - 1 == await owner.fetchval("SELECT count(*) FROM schema_migrations")


async def test_on_an_empty_database_it_is_told_too(empty: str, lesser: tuple[str, str]) -> None:
    login = empty.replace("//autopay@", f"//{lesser[1]}@")
    with pytest.raises(MigrationError, match="autopay db migrate --owner-url"):
        await migrate(login)


async def test_asyncpg_keeps_what_we_give_it(dsn: str) -> None:
    """The pool's own reset, which ours does without, would lead back to the role as well."""
    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=1, server_settings={"role": WRITER})
    for _ in range(3):
        assert await pool.fetchval(WHO) == WRITER
    await pool.close()
