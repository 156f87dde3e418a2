"""Who may do what at the operator's listener."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from proxy.admin import Role
from proxy.admin.keys import KeyRefused
from tests.admin.desk import Desk, lapsed, refused

OPEN = {"GET /healthz", "GET /readyz", "GET /openapi.json"}
READER, AUDITOR, OPERATOR, ADMIN = ORDER = list(Role)
LEAST = {  # of every other route
    "GET /metrics": READER,
    "GET /v1/status": READER,
    "GET /v1/decisions": READER,
    "GET /v1/payments": READER,
    "GET /v1/receipts": READER,
    "GET /v1/receipts/{id}": AUDITOR,
    "GET /v1/claims": AUDITOR,
    "GET /v1/receipts/{id}/ratings": AUDITOR,
    "PUT /v1/receipts/{id}/ratings": OPERATOR,
    "DELETE /v1/receipts/{id}/ratings": OPERATOR,
    "GET /v1/providers": AUDITOR,
    "GET /v1/providers/{provider}": AUDITOR,
    "PUT /v1/providers/{provider}/breaker": OPERATOR,
    "DELETE /v1/providers/{provider}/breaker": OPERATOR,
    "GET /v1/agents": READER,
    "POST /v1/agents": ADMIN,
    "GET /v1/agents/{agent}": READER,
    "PATCH /v1/agents/{agent}": ADMIN,
    "DELETE /v1/agents/{agent}": ADMIN,
    "GET /v1/agents/{agent}/tokens": OPERATOR,
    "POST /v1/agents/{agent}/tokens": ADMIN,
    "POST /v1/agents/{agent}/tokens/rotate": ADMIN,
    "PATCH /v1/agents/{agent}/tokens/{token}": ADMIN,
    "DELETE /v1/agents/{agent}/tokens/{token}": OPERATOR,
    "GET /v1/agents/{agent}/sessions/{run}/limit": READER,
    "PUT /v1/agents/{agent}/sessions/{run}/limit": OPERATOR,
    "DELETE /v1/agents/{agent}/sessions/{run}/limit": OPERATOR,
    "PUT /v1/agents/{agent}/freeze": OPERATOR,
    "DELETE /v1/agents/{agent}/freeze": OPERATOR,
    "PUT /v1/providers/{provider}/freeze": OPERATOR,
    "DELETE /v1/providers/{provider}/freeze": OPERATOR,
    "PUT /v1/agents/{agent}/providers/{provider}/freeze": OPERATOR,
    "DELETE /v1/agents/{agent}/providers/{provider}/freeze": OPERATOR,
    "GET /v1/halt": READER,
    "PUT /v1/halt": OPERATOR,
    "DELETE /v1/halt": OPERATOR,
    "GET /v1/limits": READER,
    "PUT /v1/limits": OPERATOR,
    "DELETE /v1/limits": OPERATOR,
    "GET /v1/policies": READER,
    "PUT /v1/policies": OPERATOR,
    "PATCH /v1/policies": OPERATOR,
    **{
        f"{method} /v1/policies/{layer}": READER if method == "GET" else OPERATOR
        for method in ("GET", "PUT", "PATCH", "DELETE")
        for layer in (
            "defaults",
            "providers/{provider}",
            "agents/{agent}",
            "agents/{agent}/providers/{provider}",
        )
    },
    "GET /v1/policies/history": READER,
    "POST /v1/policies/rollback": OPERATOR,
    "POST /v1/policies/diff": READER,
    "GET /v1/policies/shadow": READER,
    "PUT /v1/policies/shadow": OPERATOR,
    "DELETE /v1/policies/shadow": OPERATOR,
    "GET /v1/budgets": READER,
    "GET /v1/policies/explain": READER,
    "GET /v1/approvals": READER,
    "GET /v1/approvals/{id}": READER,
    "POST /v1/approvals/{id}/approve": OPERATOR,
    "POST /v1/approvals/{id}/reject": OPERATOR,
    "GET /v1/pins": READER,
    "PUT /v1/pins": OPERATOR,
    "DELETE /v1/pins": OPERATOR,
    "GET /v1/events": AUDITOR,
    "GET /v1/events/stream": AUDITOR,
    "GET /v1/dashboard/agents": READER,
    "GET /v1/dashboard/stats": READER,
    "GET /v1/dashboard/activity": READER,
    "GET /v1/dashboard/spend": READER,
    "GET /v1/chat/sessions": AUDITOR,
    "POST /v1/chat/sessions": OPERATOR,
    "GET /v1/chat/sessions/{session}": AUDITOR,
    "DELETE /v1/chat/sessions/{session}": OPERATOR,
    "GET /v1/chat/sessions/{session}/messages": AUDITOR,
    "POST /v1/chat/sessions/{session}/messages": OPERATOR,
    "DELETE /v1/chat/sessions/{session}/messages": OPERATOR,
    "GET /v1/ratings": AUDITOR,
    "PUT /v1/ratings": OPERATOR,
    "DELETE /v1/ratings": OPERATOR,
    "GET /v1/webhooks": READER,
    "POST /v1/webhooks": ADMIN,
    "GET /v1/webhooks/{id}": READER,
    "PATCH /v1/webhooks/{id}": ADMIN,
    "DELETE /v1/webhooks/{id}": ADMIN,
    "POST /v1/webhooks/{id}/test": ADMIN,
    "GET /v1/webhooks/deliveries": AUDITOR,
    "GET /v1/procure/state": READER,
    "GET /procure/state": READER,
    "GET /v1/keys": ADMIN,
    "POST /v1/keys": ADMIN,
    "DELETE /v1/keys/{key}": ADMIN,
}
AGENT = {  # what agents do, with their own credential
    "POST /v1/procure/rank": "agent",
    "POST /v1/procure/execute": "agent",
    "POST /procure/rank": "agent",
    "POST /procure/execute": "agent",
}


def test_the_order_of_the_roles() -> None:
    assert ORDER == ["reader", "auditor", "operator", "admin"]


async def test_every_route_is_in_this_matrix(desk: Desk) -> None:
    """So that none is added without saying here who may use it."""
    document = (await desk.ask("/openapi.json")).json
    known = {
        f"{method.upper()} {path}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert known.keys() == OPEN | LEAST.keys() | AGENT.keys()
    for route, operation in known.items():
        assert operation.get("x-role") == (LEAST | AGENT).get(route), route
        assert ("security" in operation) is (route not in OPEN), route
        assert operation["summary"], route


async def test_every_route_for_every_role(desk: Desk) -> None:
    for route in OPEN:
        assert (await desk.ask(route.split()[1])).status == 200, route
    for route, least in LEAST.items():
        method, path = route.split()
        asks_nothing = method == "GET" and least in (READER, ADMIN) and "{" not in path
        asks_nothing &= not path.endswith("/explain")
        if path.endswith("/stream"):
            path += "?after=nothing"  # or it would not end
        for role in ORDER:
            answer = await desk.ask(re.sub(r"{\w+}", str(uuid4()), path), role, method)
            if ORDER.index(role) < ORDER.index(least):
                refused(answer, 403, "role_not_allowed")
                assert (answer.json["role"], answer.json["needed"]) == (role, least)
            elif asks_nothing:
                assert answer.status == 200, (route, role, answer.body)
            else:  # it got through, to where it is asked what it wants
                assert answer.status not in (401, 403, 500), (route, role, answer.body)


async def test_without_a_key(desk: Desk) -> None:
    for route in LEAST:
        method, path = route.split()
        answer = await desk.ask(re.sub(r"{\w+}", str(uuid4()), path), None, method)
        if "/procure/" in path:
            refused(answer, 401, "authentication_required")
            continue
        refused(answer, 401, "api_key_required")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="autopay"'
    refused(
        await desk.ask("/v1/agents", headers={"Authorization": "Basic eDp5"}),
        401,
        "api_key_required",
    )


async def test_what_is_for_agents(desk: Desk) -> None:
    """No key does what an agent does, and no agent what takes a key."""
    for route in AGENT:
        method, path = route.split()
        for key in (None, *ORDER, "x" * 40):
            refused(await desk.ask(path, key, method, json={}), 401, "authentication_required")
        answer = await desk.ask(path, desk.home.token, method, json={})
        refused(answer, 400, "bad_body")
    assert (await desk.ask("/v1/procure/state", desk.home.token)).status == 200
    for route in LEAST.keys() - {"GET /v1/procure/state", "GET /procure/state"}:
        method, path = route.split()
        answer = await desk.ask(re.sub(r"{\w+}", str(uuid4()), path), desk.home.token, method)
        refused(answer, 401, "api_key_invalid")


async def test_a_key_that_is_none(desk: Desk) -> None:
    good = await desk.key(Role.ADMIN)
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    agents_token = desk.home.token
    for key in (wrong, good[:-1], good + "x", good.upper(), agents_token, "apk_", "x" * 4000, "é"):
        answer = await desk.ask("/v1/keys", key)
        refused(answer, 401, "api_key_invalid")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert key not in answer.body.decode()
    assert (await desk.ask("/v1/keys", good)).status == 200


async def test_a_revoked_key_ends_at_once(desk: Desk) -> None:
    key = await desk.key(Role.READER)
    for _ in range(3):
        assert (await desk.ask("/v1/agents", key)).status == 200
    await desk.book.revoke("reader")
    refused(await desk.ask("/v1/agents", key), 401, "api_key_invalid")
    again = await desk.book.create("reader", Role.READER)  # its name is free
    assert (await desk.ask("/v1/agents", again)).status == 200
    refused(await desk.ask("/v1/agents", key), 401, "api_key_invalid")


async def test_an_expired_key(desk: Desk) -> None:
    refused(await desk.ask("/v1/agents", await lapsed(desk, Role.ADMIN)), 401, "api_key_invalid")
    short = await desk.book.create("short", Role.READER, lives=timedelta(seconds=0.4))
    assert (await desk.ask("/v1/agents", short)).status == 200
    await asyncio.sleep(0.5)
    refused(await desk.ask("/v1/agents", short), 401, "api_key_invalid")


async def test_only_hashes_are_stored(desk: Desk) -> None:
    key = await desk.key(Role.OPERATOR)
    rows = await desk.home.rows("SELECT api_keys::text AS row FROM api_keys")
    assert len(rows) == 1 and key not in rows[0]["row"] and key[4:] not in rows[0]["row"]
    answer = await desk.ask("/v1/keys", Role.ADMIN)
    assert [item["name"] for item in answer.json["items"]] == ["admin", "operator"]
    assert b"apk_" not in answer.body and b"sha256" not in answer.body


async def test_names(desk: Desk) -> None:
    await desk.book.create("ci", Role.READER)
    with pytest.raises(KeyRefused, match="there is a key 'ci' already"):
        await desk.book.create("ci", Role.ADMIN)
    with pytest.raises(KeyRefused, match="cannot be a key's name"):
        await desk.book.create("a b", Role.READER)
    with pytest.raises(KeyRefused, match="there is no key 'nobody'"):
        await desk.book.revoke("nobody")


async def test_the_migration_may_run_twice(dsn: str) -> None:
    from sql import migrations

    (text,) = [m.text for m in migrations() if m.name == "0008_api_keys"]
    connection = await asyncpg.connect(dsn)
    await connection.execute(text)
    for values in (
        "('\\x00', 'short-hash', 'reader', NULL)",
        f"('\\x{'00' * 32}', 'a:b', 'reader', NULL)",
        f"('\\x{'00' * 32}', 'dead-on-arrival', 'reader', now() - interval '1 s')",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(
                f"INSERT INTO api_keys (key_sha256, name, role, expires_at) VALUES {values}"
            )
    await connection.close()


async def test_the_table_of_the_documentation(desk: Desk) -> None:
    """docs/api.md says of every route who may use it, and of no other."""
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| `([A-Z]+ /\S+)` \| (?:`(\w+)`|none) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == len({route for route, _, _ in rows})
    assert {route: role or None for route, role, _ in rows} == dict.fromkeys(OPEN) | LEAST | AGENT
    assert all(words for _, _, words in rows)
