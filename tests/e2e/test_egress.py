"""Where the agent may not be taken, with the policy in the database and the refusals on record."""

import asyncio
import base64
import contextlib
import json
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from policies import Policy
from proxy.ledger import agents
from proxy.localnet import Localnet
from tests.e2e.house import Answer, House, house
from tests.e2e.seller import Seller


async def connect(home: House, authority: str) -> tuple[int, bytes]:
    """The status of a CONNECT, and what follows the head."""
    parts = urlsplit(home.proxy)
    assert parts.hostname and parts.username and parts.password
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    credential = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    writer.write(
        f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
        f"Proxy-Authorization: Basic {credential}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    body = b"" if status == 200 else await reader.read()
    writer.close()
    return status, body


async def last_decision(home: House) -> dict[str, object]:
    """The row of the last denial; it is not waited for by the answer."""
    async with asyncio.timeout(20):
        while not (
            rows := await home.rows("SELECT * FROM policy_decision_logs ORDER BY created_at DESC")
        ):
            await asyncio.sleep(0.01)
    return rows[0]


def refused(answer: Answer, code: str) -> None:
    assert answer.status == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["code"] == code
    assert "Nothing was sent or paid" in answer.json["detail"]


async def test_a_refusal_is_on_record(home: House, seller: Seller) -> None:
    await home.set_policy(allowed_targets=())
    headers = {"Autopay-Session": "night", "Autopay-Trace": "t-1"}
    refused(
        await home.ask(f"{seller.url}/?token=hidden", "POST", headers=headers, data=b"x" * 1000),
        "egress_loopback",
    )
    row = await last_decision(home)
    assert (row["decision"], row["reason"]) == ("deny", "egress_loopback")
    assert (row["method"], row["endpoint"]) == ("POST", f"{seller.url}/?token=***")
    assert (row["session_id"], row["trace_id"]) == ("night", "t-1")
    assert row["policy_version"] == home.service.directory.version
    assert row["quoted_price_micros"] == 0
    assert row["detail"] == "it leads to 127.0.0.1"
    assert seller.seen == []
    assert await home.counters() == (0, 0)
    assert await home.rows("SELECT 1 FROM payments") == []


async def test_a_tunnel_that_is_refused_is_on_record(home: House, seller: Seller) -> None:
    await home.set_policy(allowed_targets=())
    authority = urlsplit(seller.url).netloc
    status, body = await connect(home, authority)
    assert status == 403
    assert json.loads(body)["code"] == "egress_loopback"
    row = await last_decision(home)
    assert (row["method"], row["endpoint"]) == ("CONNECT", authority)
    assert (row["decision"], row["reason"]) == ("deny", "egress_loopback")
    assert seller.seen == []


async def test_a_policy_takes_effect_at_once(home: House, seller: Seller) -> None:
    """And a connection that is open already counts for nothing."""
    assert (await home.ask(seller.url)).status != 403
    for targets, allowed in (((), False), (("127.0.0.1",), True), (("10.0.0.0/8",), False)):
        begin = time.monotonic()
        policy = Policy(home.agent, allowed_targets=targets)
        await agents.set_policy(home.operator, policy)
        while ((await home.ask(seller.url)).status != 403) is not allowed:
            assert time.monotonic() - begin < 10
            await asyncio.sleep(0.01)


async def test_only_the_port_that_was_allowed(home: House, net: Localnet, seller: Seller) -> None:
    await home.set_policy(allowed_targets=(f"127.0.0.1:{urlsplit(seller.url).port}",))
    assert (await home.ask(seller.url)).status != 403
    refused(await home.ask(f"{net.api_url}/free"), "egress_loopback")


async def test_autopay_itself_is_never_reached(home: House) -> None:
    await home.set_policy(allowed_targets=("0.0.0.0/0", "::/0"))
    for host, port in (home.service.proxy_address, home.service.mounts_address):
        refused(await home.ask(f"http://{host}:{port}/"), "egress_own_listener")
        refused(await home.ask(f"http://localhost:{port}/"), "egress_own_listener")


async def test_a_database_on_tcp_is_never_reached(net: Localnet, dsn: str, tmp_path: Path) -> None:
    """Something in front of the real one, so that the books are reached over TCP."""
    (path,) = Path(parse_qs(urlsplit(dsn).query)["host"][0]).glob(".s.PGSQL.*[0-9]")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = front.sockets[0].getsockname()[1]
    user, name = urlsplit(dsn).username, urlsplit(dsn).path
    tcp = f"postgresql://{user}@localhost:{port}{name}?sslmode=disable"
    async with house(net, tcp, tmp_path) as home:
        await home.set_policy(allowed_targets=("0.0.0.0/0", "::/0"))
        for host in ("127.0.0.1", "localhost", "127.0.0.9"):
            refused(await home.ask(f"http://{host}:{port}/"), "egress_own_listener")
        assert (await last_decision(home))["reason"] == "egress_own_listener"
    front.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_mount_is_the_operators_word(net: Localnet, dsn: str, tmp_path: Path) -> None:
    async with house(net, dsn, tmp_path, providers={"shop": {"upstream": net.api_url}}) as home:
        await home.set_policy(allowed_targets=())
        url = f"{home.mounts}/shop/free"
        answer = await home.ask(url, proxy=None, headers={"Autopay-Token": home.token})
        assert answer.status == 200
        refused(await home.ask(f"{net.api_url}/free"), "egress_loopback")


async def test_a_refusal_does_not_wait_for_the_database(home: House, seller: Seller) -> None:
    await home.set_policy(allowed_targets=())
    connection = await asyncpg.connect(home.service.store.dsn)
    async with connection.transaction():
        await connection.execute("LOCK TABLE policy_decision_logs IN ACCESS EXCLUSIVE MODE")
        begin = time.monotonic()
        refused(await home.ask(seller.url), "egress_loopback")
        assert time.monotonic() - begin < 4  # it would be given up after five
    await connection.close()
    assert (await last_decision(home))["reason"] == "egress_loopback"


async def test_an_entry_that_cannot_be_read_allows_nothing(home: House, seller: Seller) -> None:
    """Stored by hand, or by another version."""
    await home.set_policy(allowed_targets=())
    await home.operator.execute(
        "UPDATE agent_policies SET allowed_targets = '{localhost,*}', allowed_ports = '{1}'"
    )
    async with asyncio.timeout(20):
        while home._policy_version() != 3:
            await asyncio.sleep(0.01)
    refused(await home.ask(seller.url), "egress_loopback")
