"""Keys made and ended through the API; and by which names the listener is asked for."""

import asyncio
from typing import Any

import asyncpg
import pytest

from proxy.admin import Role
from proxy.ledger import Database, LedgerFault
from proxy.ledger.roles import ADMIN as ADMIN_ROLE
from proxy.ledger.signed import Signature, SignedDatabase
from tests.admin.desk import Desk, refused

ADMIN = Role.ADMIN


async def test_a_keys_life(desk: Desk) -> None:
    new = {"name": "grafana", "role": "reader", "expires_in": 3600}
    made = await desk.does("POST", "/v1/keys", new, role=ADMIN, status=201)
    assert (made["name"], made["role"]) == ("grafana", "reader")
    assert (await desk.ask("/v1/agents", made["key"])).status == 200
    refused(await desk.ask("/v1/keys", made["key"]), 403, "role_not_allowed")
    listed = {one["name"]: one for one in await desk.items("/v1/keys", ADMIN)}
    assert listed["grafana"]["created_by"] == "admin" and listed["grafana"]["expires_at"]
    done = await desk.last_action()
    assert (done["name"], done["of_role"], done["by"]) == ("grafana", "reader", "admin")
    assert made["key"] not in str(done)
    refused(await desk.ask("/v1/keys", ADMIN, "POST", json=new), 409, "key_exists")

    await desk.does("DELETE", "/v1/keys/grafana", role=ADMIN, status=204)
    refused(await desk.ask("/v1/agents", made["key"]), 401, "api_key_invalid")
    refused(await desk.ask("/v1/keys/grafana", ADMIN, "DELETE"), 404, "no_such_key")
    for wrong in ({"name": "a b", "role": "reader"}, {"name": "a", "role": "king"}, {"name": "a"}):
        refused(await desk.ask("/v1/keys", ADMIN, "POST", json=wrong), 400, "bad_body")


@pytest.mark.parametrize("settings", [{"admin": {"hosts": ["Autopay.internal", "*.ops.example"]}}])
async def test_it_is_asked_for_by_its_names(desk: Desk) -> None:
    """A page in a browser can make a name lead here, but it can't make it one of these."""
    for known in (
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:9",
        "[::1]:8404",
        "10.1.2.3",
        "localhost.",
    ):
        assert (await status(desk, known)) == 200, known
    for known in ("autopay.internal", "a.ops.example:8404"):
        assert (await status(desk, known)) == 200, known
    for strange in (
        "evil.example",
        "localhost.evil.example",
        "ops.example",
        "",
        "x:y",
        "127.0.0.1.nip.io",
    ):
        assert (await status(desk, strange)) == 421, strange
    answer = await desk.ask("/v1/agents", ADMIN, headers={"Host": "evil.example"})
    refused(answer, 421, "host_not_allowed")
    assert (await status(desk, None)) == 200  # HTTP/1.0: no browser


async def status(desk: Desk, host: str | None) -> int:
    reader, writer = await asyncio.open_connection(*desk.home.service.admin_address)
    said = "" if host is None else f"Host: {host}\r\n"
    version = "1.0" if host is None else "1.1"
    writer.write(f"GET /healthz HTTP/{version}\r\n{said}Connection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return int(answer.split()[1])


async def test_no_page_of_another_site_gets_in(desk: Desk) -> None:
    """No cookie, no form, no leave for other origins: a key in Authorization, and JSON."""
    key = await desk.key(ADMIN)
    for headers in ({"Cookie": f"key={key}"}, {"X-Api-Key": key}):
        refused(await desk.ask("/v1/agents", headers=headers), 401, "api_key_required")
    refused(await desk.ask(f"/v1/agents?key={key}"), 401, "api_key_required")
    form: dict[str, Any] = {"data": {"agent": "bot"}}
    refused(await desk.ask("/v1/agents", key, "POST", **form), 415, "json_required")
    answer = await desk.ask(
        "/v1/agents", key, "OPTIONS", headers={"Origin": "https://evil.example"}
    )
    refused(answer, 405, "method_not_allowed")
    answer = await desk.ask("/v1/agents", key, headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_what_the_listener_may_do_in_the_database(desk: Desk) -> None:
    """Its connections act as autopay_admin: whatever a route may be made to do, not the books."""
    database = await Database.open(desk.home.service.store.dsn, role=ADMIN_ROLE)
    used = await desk.home.rows(
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'autopay admin'"
    )
    assert used
    signed = SignedDatabase(database, Signature("me", "here"))
    for books in ("payments", "x402_payment_logs", "budget_counters", "audit_events"):
        with pytest.raises(LedgerFault, match="permission denied"):
            await signed.execute(f"DELETE FROM {books}")
    await database.close()
    assert await desk.actions() == 0


async def test_a_login_that_may_do_less_is_told_so(desk: Desk) -> None:
    """Where no role is used, and the login is no operator's: 503, and what would help."""
    owner = await asyncpg.connect(desk.home.service.store.owner_dsn)
    await owner.execute("REVOKE UPDATE ON agents FROM autopay_admin")
    try:
        body = {"json": {"capture_chat": True}}
        answer = await desk.ask("/v1/agents/shopper", ADMIN, "PATCH", **body)
        refused(answer, 503, "database_refuses")
    finally:
        await owner.execute("GRANT UPDATE ON agents TO autopay_admin")
        await owner.close()
    await desk.does("PATCH", "/v1/agents/shopper", {"capture_chat": True}, role=ADMIN)
