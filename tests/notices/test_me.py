"""http://autopay.internal/me: what an agent may learn of itself, by every way in, and no more."""

import asyncio
import socket
import ssl
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from policies import Policy
from proxy import gatekeeper
from proxy.authority import Authority
from proxy.ledger import agents, ceilings, sessions
from proxy.localnet import Localnet
from proxy.standing import standing
from proxy.wire.plane import DataPlane
from tests.e2e.house import LOOPBACK, Answer, House, house, until
from tests.e2e.seller import Seller, challenge, offer, pays_once, settled
from tests.ledger.windows import room_in_the_hour
from tests.notices.conftest import PRICE

ME = "http://autopay.internal/me"


@pytest.fixture(autouse=True)
def authority(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca")


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name that was asked of DNS."""
    names: list[str] = []
    real = asyncio.BaseEventLoop.getaddrinfo

    async def spied(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        names.append(str(host))
        return await real(loop, host, port, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", spied)
    return names


def window(answer: Answer, name: str) -> dict[str, Any]:
    (found,) = [one for one in answer.json["limits"] if one["window"] == name]
    assert isinstance(found, dict)
    return found


async def raw(home: House, *lines: str, body: bytes = b"") -> bytes:
    """The whole answer to a request that no client would send."""
    reader, writer = await asyncio.open_connection(*home.service.proxy_address)
    credential = b64encode(f"{home.agent}:{home.token}".encode()).decode()
    head = [*lines, f"Proxy-Authorization: Basic {credential}", "Connection: close", "", ""]
    writer.write("\r\n".join(head).encode() + body)
    async with asyncio.timeout(15):
        answer = await reader.read()
    writer.close()
    return answer


async def test_an_agent_learns_its_limits_and_what_is_left(home: House, seller: Seller) -> None:
    await home.set_policy(per_call_limit=5 * PRICE, daily_limit=10 * PRICE, session_limit=4 * PRICE)
    trip = {"Autopay-Session": "s1", "Autopay-Trace": "t1"}
    for number in range(3):
        assert (await home.ask(f"{seller.url}/{number}", headers=trip)).status == 200
    answer = await home.ask(ME, headers=trip)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json
    assert (told["agent"], told["session"], told["trace"]) == ("shopper", "s1", "t1")
    assert (told["frozen"], told["halted"], told["may_pay"]) == (False, False, True)
    assert told["policy_version"] > 0
    assert told["last_denial"] is None
    assert "operator" in told["to_get_more"]
    assert window(answer, "call")["limit_usd"] == "0.005"
    day = window(answer, "day")
    assert (day["limit_usd"], day["spent_usd"], day["left_usd"]) == ("0.01", "0.003", "0.007")
    assert day["resets_at"].endswith("00:00:00+00:00")
    assert window(answer, "session")["left_usd"] == "0.001"
    assert window(answer, "trace")["spent_usd"] == "0.003"
    # Without a session and a trace there is nothing to tell of them.
    plain = await home.ask(ME)
    assert [one["window"] for one in plain.json["limits"]] == ["call", "day"]
    # What it asked here cost nothing, and is in no book.
    assert await home.counters() == (3 * PRICE, 0)


async def test_every_window_that_it_is_under_is_told(home: House, seller: Seller) -> None:
    await home.operator.execute(
        "INSERT INTO policy_rules (agent_id, provider, rules) SELECT a.id, l.provider, l.rules"
        " FROM agents a, (VALUES (NULL, $1::text::jsonb), ('127.0.0.1', $2::text::jsonb))"
        " l (provider, rules) WHERE a.name = 'shopper'",
        '{"hourly": "0.02", "rolling": {"24h": "0.05"}, "payments": {"day": 10}}',
        '{"monthly": "0.5"}',
    )
    async with asyncio.timeout(15):
        while len((await home.ask(ME)).json["limits"]) != 5:
            await asyncio.sleep(0.05)
    paid = 0
    while paid < 2:  # the proxy may not have heard yet
        paid += (await home.ask(f"{seller.url}/{len(seller.seen)}")).status == 200
    answer = await home.ask(ME)
    windows = [(one["window"], one.get("provider")) for one in answer.json["limits"]]
    assert windows == [
        ("call", None), ("hour", None), ("day", None), ("24h", None), ("month", "127.0.0.1"),
    ]  # fmt: skip
    assert window(answer, "hour")["left_usd"] == "0.018"
    assert window(answer, "24h")["spent_usd"] == "0.002"
    assert window(answer, "month")["left_usd"] == "0.498"
    day = window(answer, "day")
    assert (day["payments"], day["left_payments"], day["limit_payments"]) == (2, 8, 10)


async def test_it_learns_why_it_was_refused_last(home: House, seller: Seller) -> None:
    await home.set_policy(daily_limit=PRICE)
    for number in range(2):
        await home.ask(f"{seller.url}/{number}")
    denial = (await home.ask(ME)).json["last_denial"]
    assert (denial["code"], denial["endpoint"]) == ("over_daily_limit", f"{seller.url}/1")
    assert (denial["price_usd"], denial["limit_usd"], denial["spent_usd"]) == ("0.001",) * 3
    assert "does not fit into today's budget" in denial["detail"]
    await home.set_policy(per_call_limit=1)
    await home.ask(f"{seller.url}/2")
    denial = (await home.ask(ME)).json["last_denial"]
    assert denial["code"] == "over_per_call_limit"
    assert denial["detail"]
    await home.set_policy(frozen=True)
    told = (await home.ask(ME)).json
    assert (told["frozen"], told["may_pay"]) == (True, False)


async def test_it_learns_that_all_spending_is_halted(home: House) -> None:
    await home.operator.execute("SELECT halt_spending(true, 'a test', 'a test')")
    told = (await home.ask(ME)).json
    assert (told["halted"], told["may_pay"]) == (True, False)


async def test_nobody_learns_of_another(home: House, seller: Seller) -> None:
    vault = home.service.store.vault
    other = await agents.add(home.operator, vault, "other", Policy("other", frozen=True))
    await until(lambda: home.service.directory.by_token(other.token) is not None, 15)
    await home.set_policy(frozen=True)
    await home.ask(f"{seller.url}/mine")
    host, port = home.service.proxy_address
    as_other = f"http://other:{other.token}@{host}:{port}"
    told = (await home.ask(ME, proxy=as_other)).json
    assert (told["agent"], told["last_denial"]) == ("other", None)
    assert "mine" in str((await home.ask(ME)).json["last_denial"])


async def share(home: House, seller: Seller, what: str) -> None:
    """A limit of 0.005 USD that all agents are under together, or 5 payments."""
    match what:
        case "fleet_day" | "wallet_day" | "provider_day":
            await ceilings.set_ceiling(home.operator, what, "*", 5 * PRICE)
        case "payments":
            await home.set_rules(None, "127.0.0.1", payments={"day": 5})
        case _:
            await home.set_rules(None, "127.0.0.1", **{what: "0.005"})


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("hourly", "over_hourly_limit"),
        ("payments", "too_many_payments"),
        ("fleet_day", "over_fleet_limit"),
        ("wallet_day", "over_wallet_limit"),
        ("provider_day", "over_provider_limit"),
    ],
)
async def test_of_a_shared_limit_nobody_learns_what_others_spent(
    home: House, seller: Seller, what: str, code: str
) -> None:
    await room_in_the_hour()
    policy = Policy("other", allowed_targets=LOOPBACK)
    other = await agents.add(home.operator, home.service.store.vault, "other", policy)
    await until(lambda: home.service.directory.by_token(other.token) is not None, 15)
    host, port = home.service.proxy_address
    as_other = {"proxy": f"http://other:{other.token}@{host}:{port}"}
    await share(home, seller, what)
    paid = [(await home.ask(f"{seller.url}/{n}")).status for n in range(4)]
    paid.append((await home.ask(f"{seller.url}/o", **as_other)).status)
    assert paid == [200] * 5
    for options in ({}, as_other):
        refused = await home.ask(f"{seller.url}/over", **options)
        assert (refused.status, refused.json["code"]) == (403, code)
        denial = (await home.ask(ME, **options)).json["last_denial"]
        assert denial["code"] == code
        for told in (refused.json, denial):
            assert told["possible_again"] is not None
            if what == "payments":
                assert (told["window"], told["limit_payments"]) == ("day", 5)
            else:
                assert told["limit_usd"] == "0.005"
                assert "0.005 USD" in told["detail"]
            assert not {"spent_usd", "held_usd", "payments"} & set(told), told
            # What they spent together, what the other did, and what is left.
            said = told["detail"]
            assert not [sum_ for sum_ in ("0.004", "0.00 ", "spent and") if sum_ in said], said
    assert await home.counters() != (0, 0)


async def test_what_others_paid_and_lost_is_not_told(
    home: House, net: Localnet, seller: Seller
) -> None:
    policy = Policy("other", allowed_targets=LOOPBACK)
    other = await agents.add(home.operator, home.service.store.vault, "other", policy)
    await until(lambda: home.service.directory.by_token(other.token) is not None, 15)
    host, port = home.service.proxy_address
    as_other = f"http://other:{other.token}@{host}:{port}"

    def sell(amount: int, status: int = 200) -> None:
        entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), amount=amount)
        seller.answer = pays_once(challenge(entry), lambda seen: settled(status=status))

    sell(7001, status=500)
    assert (await home.ask(f"{seller.url}/x", proxy=as_other)).status == 500
    async with asyncio.timeout(60):
        while not await home.rows("SELECT 1 FROM losses"):
            await asyncio.sleep(0.02)
    await home.set_rules(None, "127.0.0.1", max_price_ratio_last="1.5")
    sell(20_000)
    refused = await home.ask(f"{seller.url}/x")
    denial = (await home.ask(ME)).json["last_denial"]
    for told in (refused.json, denial):
        assert (told["code"], told["limit_usd"]) == ("price_drift", "0.010501")
        assert not [name for name in told if name.startswith(("last", "median", "ratio", "max_"))]
        assert "payments" not in told
        assert "7001" not in str(told)
    await home.set_rules(None, "127.0.0.1", loss_cap="0.02")
    refused = await home.ask(f"{seller.url}/y")
    denial = (await home.ask(ME)).json["last_denial"]
    for told in (refused.json, denial):
        assert (told["code"], told["limit_usd"]) == ("over_loss_cap", "0.02")
        assert told["possible_again"] is not None
        assert not [name for name in told if name.startswith(("lost", "spent", "held"))], told
        assert "7001" not in str(told)


async def test_it_may_not_pay_while_the_defaults_are_frozen(home: House, seller: Seller) -> None:
    await home.set_rules(None, None, frozen=True)
    assert (await home.ask(seller.url)).json["code"] == "frozen"
    told = (await home.ask(ME)).json
    assert (told["frozen"], told["may_pay"]) == (True, False)
    await home.set_rules(None, None, frozen=False)
    told = (await home.ask(ME)).json
    assert (told["frozen"], told["may_pay"]) == (False, True)


async def test_who_is_bound_to_a_session_learns_of_that_alone(home: House, seller: Seller) -> None:
    await home.set_policy(frozen=True)
    await home.ask(f"{seller.url}/elsewhere", headers={"Autopay-Session": "s1"})
    agent = home.service.directory.by_token(home.token)
    assert agent is not None
    vault = home.service.store.vault
    lent = (await agents.issue_token(home.operator, vault, "shopper", session="s2")).token
    await sessions.set_limit(home.operator, agent, "s2", 2 * PRICE)
    await until(lambda: home.service.directory.by_token(lent) is not None, 15)
    host, port = home.service.proxy_address
    answer = await home.ask(
        ME, proxy=f"http://shopper:{lent}@{host}:{port}", headers={"Autopay-Session": "s1"}
    )
    assert (answer.json["session"], answer.json["last_denial"]) == ("s2", None)
    assert window(answer, "session")["limit_usd"] == "0.002"


async def test_only_me_and_only_to_read(home: House, looked_up: list[str]) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await home.ask(ME, method, data=b'{"daily_limit": "100"}')
        assert (answer.status, answer.json["code"]) == (405, "method_not_allowed"), method
        assert answer.headers["Allow"] == "GET, HEAD"
    for path in ("/", "/you", "/me/", "/me/more", "/ME", "/.autopay/me", "//me", "/me%2f"):
        answer = await home.ask(f"http://autopay.internal{path}")
        assert (answer.status, answer.json["code"]) == (404, "not_found"), path
    for url in ("http://autopay.internal:8402/me", "http://autopay.internal/me?x=1"):
        assert (await home.ask(url)).status == 200, url
    for host in ("x.autopay.internal", "ME.AUTOPAY.INTERNAL"):
        assert (await home.ask(f"http://{host}/me")).status == 404, host
    assert b" 200 OK" in await raw(home, "GET http://AUTOPAY.internal./me HTTP/1.1", "Host: x")
    head = await home.ask(ME, "HEAD")
    assert (head.status, head.body, int(head.headers["Content-Length"]) > 100) == (200, b"", True)
    assert not [name for name in looked_up if "internal" in name.lower()]
    assert not await home.rows("SELECT * FROM x402_procurement_provider_stats")


async def test_without_a_credential_nothing_is_told(home: House, looked_up: list[str]) -> None:
    host, port = home.service.proxy_address
    for proxy in (f"http://{host}:{port}", f"http://shopper:wrong@{host}:{port}"):
        answer = await home.ask(ME, proxy=proxy)
        assert (answer.status, answer.json["code"]) == (407, "proxy_authentication_required")
        assert "limits" not in answer.json
    answer = await home.ask(f"{home.mounts}/.autopay/me", proxy=None)
    assert (answer.status, answer.json["code"]) == (401, "authentication_required")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"CONNECT autopay.internal:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 407 ")
    writer.close()
    assert not [name for name in looked_up if "internal" in name]


@pytest.mark.parametrize(
    "settings", [{}, {"intercept": {"default": "tunnel", "tunnel": ["*.internal"]}}]
)
async def test_by_https_under_our_certificate(
    home: House, looked_up: list[str], tmp_path: Path
) -> None:
    pem = Authority.load(tmp_path / "ca").certificate_pem.decode()
    context = ssl.create_default_context(cadata=pem)
    answer = await home.ask("https://autopay.internal/me", ssl=context)
    assert (answer.status, answer.json["agent"]) == (200, "shopper")
    answer = await home.ask("https://autopay.internal/x", "POST", data=b"x" * 100, ssl=context)
    assert answer.status == 404
    # Plain http in a tunnel, and what is no http at all, lead nowhere else either.
    reader, writer = await asyncio.open_connection(*home.service.proxy_address)
    credential = b64encode(f"{home.agent}:{home.token}".encode())
    connect = (
        b"CONNECT autopay.internal:80 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %b\r\n\r\n"
    )
    writer.write(connect % credential)
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\x01\x02\x03 hello")
    async with asyncio.timeout(15):
        assert await reader.read() == b""
    writer.close()
    assert not [name for name in looked_up if "internal" in name]


async def test_without_a_ca_https_there_is_refused(
    net: Localnet, dsn: str, tmp_path: Path, looked_up: list[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir(mode=0o700)
    async with house(net, dsn, bare) as home:
        answer = await raw(home, "CONNECT autopay.internal:443 HTTP/1.1", "Host: x")
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"not_found" in answer
    assert not [name for name in looked_up if "internal" in name]


async def test_on_the_mounts_too(home: House) -> None:
    bearer = {"Authorization": f"Bearer {home.token}"}
    for path, headers in (
        ("/.autopay/me", bearer),
        (f"/~{home.token}/.autopay/me", {}),
        ("/.autopay/me?x", bearer),
    ):
        answer = await home.ask(home.mounts + path, proxy=None, headers=headers)
        assert (answer.status, answer.json["agent"]) == (200, "shopper"), path
    for path in ("/.autopay", "/.autopay/", "/.autopay/x", "/.autopayx/me"):
        answer = await home.ask(home.mounts + path, proxy=None, headers=bearer)
        assert answer.status == 404, path


async def test_who_waits_too_long_for_a_turn_is_told_so(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answering = held(monkeypatch)
    first = [asyncio.create_task(home.ask(ME)) for _ in range(2)]
    await until(lambda: len(asked) == 2, 15)
    async with asyncio.timeout(30):
        answer = await home.ask(ME)
    assert (answer.status, answer.json["code"]) == (503, "ledger_unavailable")
    assert answer.headers["Retry-After"] == "5"
    assert (len(asked), [one.done() for one in first]) == (2, [False, False])
    answering.set()
    assert [(await one).status for one in first] == [200, 200]
    assert (await home.ask(ME)).status == 200


async def test_who_hangs_up_waits_for_no_turn(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatekeeper, "ASKING_SECONDS", 120)
    asked, answering = held(monkeypatch)
    begun, closed = spied(monkeypatch, "begin"), spied(monkeypatch, "closed")
    first = [asyncio.create_task(home.ask(ME)) for _ in range(2)]
    await until(lambda: len(asked) == 2, 15)
    _, writer = await asyncio.open_connection(*home.service.proxy_address)
    credential = b64encode(f"{home.agent}:{home.token}".encode())
    request = b"GET %b HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %b\r\n\r\n"
    writer.write(request % (ME.encode(), credential))
    await until(lambda: len(begun) == 3, 15)
    reset = struct.pack("ii", 1, 0)  # a mere end could be of one that waits for its answer
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    writer.transport.abort()
    await until(lambda: len(closed) == 1, 15)
    last = asyncio.create_task(home.ask(ME))
    await until(lambda: len(begun) == 4, 15)
    answering.set()
    assert [(await one).status for one in (*first, last)] == [200] * 3
    assert len(asked) == 3


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Grows with each call of this method of the data plane."""
    calls: list[object] = []
    real = getattr(DataPlane, name)

    def spy(self: DataPlane, *rest: Any) -> None:
        real(self, *rest)
        calls.append(rest)

    monkeypatch.setattr(DataPlane, name, spy)
    return calls


def held(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], asyncio.Event]:
    """Who was let through to the ledger, and what they all wait for."""
    asked: list[str] = []
    answering, real = asyncio.Event(), standing

    async def slow(database: Any, agent: Any, *rest: Any) -> Any:
        asked.append(agent.name)
        await answering.wait()
        return await real(database, agent, *rest)

    monkeypatch.setattr(gatekeeper, "standing", slow)
    return asked, answering


async def test_with_the_database_away_it_says_so(home: House) -> None:
    await home.service.store.database.close()
    answer = await home.ask(ME)
    assert (answer.status, answer.json["code"]) == (503, "ledger_unavailable")
    assert answer.headers["Retry-After"] == "5"
