"""Where the operator's listener is, and who is kept from it."""

import asyncio
from pathlib import Path

import aiohttp
import asyncpg

from proxy.admin import Role
from proxy.localnet import Localnet
from tests.admin.desk import Desk, refused
from tests.e2e.house import House, house, until


async def test_no_agent_is_taken_there(desk: Desk) -> None:
    """Not with every target allowed, and not with a key."""
    home, (host, port) = desk.home, desk.home.service.admin_address
    await home.set_policy(allowed_targets=("0.0.0.0/0", "::/0"), allowed_ports=(port,))
    headers = {"Authorization": f"Bearer {await desk.key(Role.ADMIN)}"}
    for name in (host, "localhost", "127.0.0.9", "0.0.0.0", "[::ffff:127.0.0.1]"):
        answer = await home.ask(f"http://{name}:{port}/healthz", headers=headers)
        codes = {"egress_own_listener"} | ({"egress_unspecified"} if name == "0.0.0.0" else set())
        assert answer.status == 403 and answer.json["code"] in codes, (name, answer.body)
    status, body = await connect(home, f"{host}:{port}")
    assert status == 403 and b"egress_own_listener" in body
    await until(lambda: home.service.ledger.waiting == 0)
    (row,) = await home.rows("SELECT reason FROM policy_decision_logs WHERE method = 'CONNECT'")
    assert row["reason"] == "egress_own_listener"


async def connect(home: House, authority: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(*home.service.proxy_address)
    credential = aiohttp.encode_basic_auth(home.agent, home.token)
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    writer.write(f"{head}Proxy-Authorization: {credential}\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return int(answer.split()[1]), answer


async def test_nothing_of_it_is_on_the_ports_of_programs(desk: Desk) -> None:
    key = await desk.key(Role.ADMIN)
    for host, port in (desk.home.service.proxy_address, desk.home.service.mounts_address):
        for path in ("/healthz", "/metrics", "/v1/agents", "/openapi.json"):
            async with desk.home.session.get(
                f"http://{host}:{port}{path}", headers={"Authorization": f"Bearer {key}"}
            ) as response:
                assert response.status in (400, 401, 404), (port, path)


async def test_it_may_be_off(net: Localnet, dsn: str, tmp_path: Path) -> None:
    listen = {"proxy": "127.0.0.1:0", "mounts": "127.0.0.1:0", "admin": "off"}
    async with house(net, dsn, tmp_path, listen=listen) as home:
        assert home.service.admin_address == ("", 0)
        assert (await home.ask(f"{net.api_url}/free")).status == 200


async def test_alive_and_ready(desk: Desk) -> None:
    assert (await desk.ask("/healthz")).json == {"status": "ok", "wallet": True, "ca": False}
    assert (await desk.ask("/readyz")).json == {"status": "ready"}


async def test_not_ready_without_the_rpc(net: Localnet, dsn: str, tmp_path: Path) -> None:
    networks = {"devnet": {"rpc_url": net.rpc_url}, "mainnet": {"rpc_url": "http://127.0.0.1:1"}}
    async with house(net, dsn, tmp_path, networks=networks) as home:
        desk = Desk(home)
        answer = await desk.ask("/readyz")
        refused(answer, 503, "not_ready")
        mainnet = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
        assert answer.json["reasons"] == [f"rpc_unavailable:{mainnet}"]
        assert b"127.0.0.1" not in answer.body  # anyone may ask
        assert (await desk.ask("/healthz")).status == 200
        assert (await desk.metrics())["autopay_rpc_errors_total", mainnet] >= 1
        status = (await desk.ask("/v1/status", Role.READER)).json
        assert status["networks"][mainnet]["well"] is False


async def test_not_ready_without_the_database(desk: Desk, server: str) -> None:
    """And what needs it says so; whether the process lives is another question."""
    key = await desk.key(Role.READER)
    name = desk.home.service.store.dsn.partition("?")[0].rpartition("/")[2]
    admin = await asyncpg.connect(server)
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
    )
    try:
        answer = await desk.ask("/readyz")
        refused(answer, 503, "not_ready")
        assert answer.json["reasons"] == ["ledger_unavailable"]
        refused(await desk.ask("/v1/agents", key), 503, "ledger_unavailable")
        assert (await desk.ask("/healthz")).status == 200
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()
    await asyncio.sleep(1)
    assert (await desk.ask("/readyz")).status == 200
    assert (await desk.ask("/v1/agents", key)).status == 200


async def test_its_questions_take_no_connection_from_payments(desk: Desk) -> None:
    """All of the operator's connections busy: the ledger does not wait for one of them."""
    key = await desk.key(Role.READER)
    connection = await asyncpg.connect(desk.home.service.store.owner_dsn)
    async with connection.transaction():
        await connection.execute("LOCK TABLE agents IN ACCESS EXCLUSIVE MODE")
        waiting = [asyncio.create_task(desk.ask("/v1/agents", key)) for _ in range(12)]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(1):
            await desk.home.service.store.database.execute("SELECT 1")
    await connection.close()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * 12
