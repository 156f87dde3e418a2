"""Policies through the proxy's socket: every rule of every layer, and rules that are changed while
money is spent."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from policies import Book, Policy
from policies.decision import RULES
from proxy.ledger import agents, policies
from proxy.localnet import Localnet
from tests.e2e.house import LOOPBACK, House, until
from tests.e2e.seller import Seller, challenge, offer, pays_once, settled

PATIENCE = 20.0
HOST = "127.0.0.1"
STRANGER = "GyGKxMyg1p9SsHfm15MkNUu1u9TN2JtTspcdmrtGUdse"
FAR = (datetime.now(UTC) + timedelta(days=3)).strftime("%a")


@pytest.fixture
def sell(net: Localnet, seller: Seller) -> Callable[..., None]:
    """Make the seller sell at a price; several offers, if several are given."""

    def sell(*offers: dict[str, Any], amount: int = 1000) -> None:
        pay_to, fee_payer = str(net.seller.pubkey()), str(net.fee_payer.pubkey())
        entries = [
            offer(one.pop("payTo", pay_to), fee_payer, **{"amount": amount, **one})
            for one in map(dict, offers or ({},))
        ]
        seller.answer = pays_once(challenge(*entries), lambda _: settled())

    sell()
    return sell


async def last_decision(home: House) -> dict[str, Any]:
    rows = await home.rows("SELECT * FROM policy_decision_logs ORDER BY created_at DESC LIMIT 1")
    return rows[0]


# rule → what a layer says, what the seller offers, the code. Without the layer the offer is paid
# (or denied by what is built in, for the two that begin with "!").
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "frozen": ({"frozen": True}, {}, "provider_frozen"),
    "hours": ({"hours": [f"{FAR} 08:00-09:00 UTC"]}, {}, "hours_closed"),
    "per_call": ({"per_call": "0.000999"}, {}, "over_per_call_limit"),
    "denied_endpoints": ({"denied_endpoints": ["{url}/pa*"]}, {}, "endpoint_denied"),
    "allowed_endpoints": ({"allowed_endpoints": ["{url}/else"]}, {}, "endpoint_not_allowed"),
    "pay_to_pinning": ({"pay_to_pinning": "list"}, {}, "pay_to_not_listed"),
    "allowed_pay_to": ({"allowed_pay_to": [STRANGER]}, {}, "pay_to_not_allowed"),
    "allowed_assets": ({"allowed_assets": ["CASH"]}, {}, "asset_not_allowed"),
    "allowed_networks": ({"allowed_networks": ["solana-mainnet"]}, {}, "network_not_allowed"),
    "allowed_schemes": ({"allowed_schemes": ["upto"]}, {}, "scheme_not_allowed"),
    "allowed_flows": ({"allowed_flows": ["upfront"]}, {}, "flow_not_allowed"),
    "max_timeout_seconds": ({"max_timeout_seconds": 59}, {}, "timeout_too_long"),
}


def test_every_pure_rule_has_its_case() -> None:
    assert list(CASES) == [rule.key for rule in RULES]


@pytest.mark.parametrize("kind", ["defaults", "agent", "provider", "agent provider"])
async def test_every_rule_of_a_layer(
    home: House, seller: Seller, sell: Callable[..., None], kind: str
) -> None:
    agent = home.agent if kind.startswith("agent") else None
    provider = HOST if kind.endswith("provider") else None
    if kind == "defaults":  # that they do not give way to what the agent's own layer names
        await home.set_rules(home.agent, None)
    for rule, (said, offered, code) in CASES.items():
        filled = {
            key: [one.replace("{url}", seller.url) for one in value]
            if isinstance(value, list)
            else value
            for key, value in said.items()
        }
        sell(offered)
        seller.seen.clear()
        version = await home.set_rules(agent, provider, **filled)
        answer = await home.ask(f"{seller.url}/paid")
        document = answer.json
        wanted = "frozen" if rule == "frozen" and provider is None else code
        assert (answer.status, document["code"], document["rule"]) == (403, wanted, rule), answer
        assert document["layer"].split(" ")[0] == kind.split(" ", maxsplit=1)[0], rule
        assert seller.payments == [], rule
        row = await last_decision(home)
        assert (row["reason"], row["policy_version"]) == (wanted, version), rule
    assert document["layer"] == {
        "defaults": "defaults",
        "agent": f"agent {home.agent}",
        "provider": f'provider "{HOST}"',
        "agent provider": f'agent {home.agent} provider "{HOST}"',
    }[kind]  # fmt: skip
    version = await home.set_rules(agent, provider)
    assert (await home.ask(f"{seller.url}/paid")).status == 200
    row = await last_decision(home)
    assert (row["decision"], row["policy_version"]) == ("allow", version)


async def test_schemes_and_flows_are_off_unless_allowed(
    home: House, seller: Seller, sell: Callable[..., None]
) -> None:
    for flow in ("upfront", "escrow"):
        sell({"extra": {"paymentFlow": flow}})
        answer = (await home.ask(seller.url)).json
        assert (answer["code"], answer["layer"]) == ("flow_not_allowed", "built in")
        await home.set_rules(home.agent, None, allowed_flows=[flow])
        assert (await home.ask(seller.url)).status == 200
        await home.set_rules(home.agent, None)
    sell({"scheme": "upto", "amount": 10}, {})
    assert (await home.ask(seller.url)).status == 200  # the other one
    sell({"scheme": "upto"})
    answer = (await home.ask(seller.url)).json
    assert (answer["code"], answer["layer"]) == ("scheme_not_allowed", "built in")
    # What the policy allows can still be beyond us; then what we can do goes before it.
    await home.set_rules(home.agent, None, allowed_schemes=["upto", "exact"])
    answer = (await home.ask(seller.url)).json
    assert answer["code"] == "scheme_not_supported"
    sell({"scheme": "upto", "amount": 10}, {})
    assert (await home.ask(seller.url)).status == 200
    row = await home.row(
        "SELECT x402_instructions -> 'offers' AS offers FROM api_requests "
        "ORDER BY created_at DESC LIMIT 1"
    )
    assert '"left": "scheme_not_supported"' in row["offers"]


async def test_the_offer_that_is_preferred_and_why_the_others_were_left(
    home: House, net: Localnet, seller: Seller, sell: Callable[..., None]
) -> None:
    await home.set_rules(None, HOST, allowed_pay_to=[str(net.seller.pubkey())])
    sell({"amount": 3000}, {"amount": 10, "payTo": STRANGER}, {"amount": 2000}, {"amount": 2000})
    assert (await home.ask(seller.url)).status == 200
    row = await home.row(
        "SELECT x402_instructions -> 'chosen' AS chosen, array(SELECT o ->> 'left' FROM "
        "jsonb_array_elements(x402_instructions -> 'offers') o) AS left FROM api_requests"
    )
    assert row["chosen"] == "2"
    assert row["left"] == ["dearer", "pay_to_not_allowed", None, "same_price"]


async def test_who_is_frozen_where(home: House, seller: Seller, sell: Callable[..., None]) -> None:
    """A provider for all agents; one agent at one provider; and everything."""
    other = await agents.add(
        home.operator, home.service.store.vault, "other", Policy("other", allowed_targets=LOOPBACK)
    )
    await until(lambda: home.service.directory.by_token(other.token) is not None, PATIENCE)
    by_other = home.proxy.replace(f"{home.agent}:{home.token}", f"other:{other.token}")
    elsewhere = seller.url.replace(HOST, "localhost")

    async def codes() -> list[str]:
        """Of the shopper and the other one here, and of the shopper elsewhere."""
        answers = [
            await home.ask(seller.url),
            await home.ask(seller.url, proxy=by_other),
            await home.ask(elsewhere),
        ]
        return ["ok" if one.status == 200 else one.json["code"] for one in answers]

    async def freeze(agent: str | None, provider: str | None, frozen: bool) -> None:
        version = await policies.freeze(home.operator, agent, provider, frozen)
        await until(lambda: home.service.directory.version >= version, PATIENCE)

    for agent, provider, expected in (
        (None, HOST, ["provider_frozen", "provider_frozen", "ok"]),
        (home.agent, HOST, ["provider_frozen", "ok", "ok"]),
        (home.agent, None, ["frozen", "ok", "frozen"]),
        (None, None, ["frozen", "frozen", "frozen"]),
    ):
        await freeze(agent, provider, True)
        assert await codes() == expected, (agent, provider)
        await freeze(agent, provider, False)
    assert await codes() == ["ok", "ok", "ok"]


async def spelled(home: House, seller: Seller, host: str) -> bytes:
    """The answer to one request whose URL has the seller's host written like this, as it is: a
    client library would spell it its own way."""
    parts, port = urlsplit(home.proxy), urlsplit(seller.url).port
    credential = b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(
        f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
        f"Proxy-Authorization: Basic {credential}\r\n\r\n".encode()
    )
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("host", "spellings"),
    [
        (HOST, ("127.0.0.1.", "[::ffff:127.0.0.1]", "[0:0:0:0:0:FFFF:7f00:1]")),
        ("localhost", ("localhost.", "LocalHost.")),
    ],
)
async def test_a_provider_is_one_however_it_is_spelled(
    home: House, seller: Seller, sell: Callable[..., None], host: str, spellings: tuple[str, ...]
) -> None:
    await home.set_rules(None, host, payments={"hour": len(spellings)})
    for one in spellings:
        assert (await spelled(home, seller, one)).startswith(b"HTTP/1.1 200 "), one
    key = f"http://{host}:{urlsplit(seller.url).port}"
    assert await home.rows("SELECT DISTINCT provider FROM payments") == [{"provider": key}]
    for one in spellings:
        assert b"too_many_payments" in await spelled(home, seller, one), one
    await home.set_rules(None, host, frozen=True)
    for one in spellings:
        assert b"provider_frozen" in await spelled(home, seller, one), one


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "127.1."])
async def test_an_address_in_shorthand_is_no_way_around_its_rules(
    home: House, seller: Seller, sell: Callable[..., None], host: str
) -> None:
    await home.set_rules(None, HOST, frozen=True)
    answer = await spelled(home, seller, host)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"four decimal numbers" in answer
    assert seller.seen == []


async def test_defaults_speak_where_the_agent_says_nothing(
    home: House, seller: Seller, sell: Callable[..., None]
) -> None:
    await home.set_rules(None, None, per_call="0.0005", daily="0.0015")
    assert (await home.ask(seller.url)).status == 200  # the agent was made with limits of its own
    await home.set_rules(home.agent, None, daily="1")
    answer = (await home.ask(seller.url)).json
    assert (answer["code"], answer["limit_usd"]) == ("over_per_call_limit", "0.0005")
    assert answer["layer"] == "defaults"
    await home.set_rules(home.agent, None, per_call="1")
    answer = (await home.ask(seller.url)).json
    assert (answer["code"], answer["limit_usd"]) == ("over_daily_limit", "0.0015")


async def test_a_shadow_decides_and_changes_nothing(
    home: House, seller: Seller, sell: Callable[..., None]
) -> None:
    book = Book.from_json({"agent": {home.agent: {"per_call": "0.0001"}}})
    await policies.shadow(home.operator, book, by="ann")
    agent = home.service.directory.by_token(home.token)
    assert agent is not None

    class Place:
        scheme, host, port = "http", HOST, 1

    await until(lambda: home.service.directory.shadow_at(agent, Place) is not None, PATIENCE)
    assert (await home.ask(seller.url)).status == 200
    row = await last_decision(home)
    assert (row["decision"], row["shadow_reason"]) == ("allow", "over_per_call_limit")
    await home.set_rules(None, HOST, frozen=True)
    assert (await home.ask(seller.url)).json["code"] == "provider_frozen"
    assert (await last_decision(home))["shadow_reason"] == "over_per_call_limit"
    await policies.shadow(home.operator, None)
    await until(lambda: home.service.directory.shadow_at(agent, Place) is None, PATIENCE)
    assert (await home.ask(seller.url)).status == 403
    assert (await last_decision(home))["shadow_reason"] is None


@pytest.mark.parametrize("still_allowed", [True, False])
async def test_a_change_between_the_decision_and_the_money(
    home: House, seller: Seller, sell: Callable[..., None], still_allowed: bool
) -> None:
    """Decided by what was, reserved under what is: it is decided again."""
    changer = await asyncpg.connect(home.service.store.owner_dsn)
    try:
        change = changer.transaction()
        await change.start()
        limit = "0.001" if still_allowed else "0.0009"
        await changer.execute(
            "INSERT INTO policy_rules (provider, rules) "
            "VALUES ($1, jsonb_build_object('per_call', $2::text))",
            HOST,
            limit,
        )
        asked = asyncio.create_task(home.ask(seller.url))
        waits = "SELECT exists(SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        async with asyncio.timeout(PATIENCE):
            while not await home.operator.fetchval(waits):
                await asyncio.sleep(0.01)
        await change.commit()
        answer = await asked
    finally:
        await changer.close()
    version = await home.operator.fetchval("SELECT policy_version()")
    rows = await home.rows("SELECT decision, reason, policy_version FROM policy_decision_logs")
    if still_allowed:
        assert answer.status == 200
        assert rows == [{"decision": "allow", "reason": "ok", "policy_version": version}]
        assert (await home.row("SELECT policy_version FROM payments")) == {
            "policy_version": version
        }
    else:
        assert (answer.status, answer.json["code"]) == (403, "over_per_call_limit")
        assert rows == [
            {"decision": "deny", "reason": "over_per_call_limit", "policy_version": version}
        ]
        assert seller.payments == []
    assert len(seller.payments) == len(await home.rows("SELECT 1 FROM payments"))
    assert home.paid_on_chain() == 0  # and what was signed first is counted as money again
