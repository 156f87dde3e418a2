"""A whole proxy whose login owns nothing pays as ever, and keeps its database well."""

import secrets
from pathlib import Path

import asyncpg
import pytest

from proxy.ledger.roles import ADMIN, WRITER, RoleRefused
from proxy.localnet import Localnet
from tests.e2e.house import house


async def test_a_proxy_whose_login_owns_nothing(
    net: Localnet, shop: str, dsn: str, tmp_path: Path
) -> None:
    owner = await asyncpg.connect(dsn)
    name = f"proxy_{secrets.token_hex(4)}"
    await owner.execute(f"CREATE ROLE {name} LOGIN")
    lesser = dsn.replace("//autopay@", f"//{name}@")
    settings = {"database_url": lesser}
    try:
        with pytest.raises(RoleRefused, match=f'GRANT {WRITER} TO "{name}"'):
            async with house(net, dsn, tmp_path, **settings):
                pass
        await owner.execute(f"GRANT {WRITER}, {ADMIN} TO {name}")
        month = await owner.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
        await owner.execute(f"DROP TABLE query_logs_{month}")
        async with house(net, dsn, tmp_path, **settings) as home:
            assert home.service.keeper.leads
            assert await owner.fetchval(f"SELECT to_regclass('query_logs_{month}') IS NOT NULL")
            answer = await home.ask(f"{shop}/paid")
            assert (answer.status, answer.headers["Autopay-State"]) == (200, "paid")
            # What the test itself asks with is the owner's; every connection of the proxy is not.
            logins = await owner.fetch(
                "SELECT DISTINCT usename::text, application_name FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name <> ''"
            )
            known = {row["application_name"]: row["usename"] for row in logins}
            assert known.pop("autopay") in (name, "autopay")
            assert set(known.values()) == {name}
            assert {"autopay directory", "autopay upkeep", "autopay admin"} <= known.keys()
    finally:
        await owner.execute(f"DROP ROLE {name}")
        await owner.close()
