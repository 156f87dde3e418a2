"""Limits over every window, of every layer, through the listening socket."""

from typing import Any
from uuid import UUID

import pytest

from policies import Policy
from proxy.ledger import agents
from proxy.localnet import Localnet
from tests.e2e.house import LOOPBACK, Answer, House, until
from tests.e2e.seller import Seller, b64, challenge, offer, pays_once, reply
from tests.ledger.windows import check_windows, room_in_the_hour, set_rules

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
async def within_the_hour() -> None:
    await room_in_the_hour()


@pytest.fixture(autouse=True)
def sells(net: Localnet, seller: Seller) -> None:
    """Every path of the seller costs 1,000 micro-dollars and is served for a payment."""
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    done = b64({"success": True, "transaction": "", "network": entry["network"], "payer": ""})
    served = reply(200, [(b"PAYMENT-RESPONSE", done)], b"goods")
    seller.answer = pays_once(challenge(entry), lambda _: served)


async def agent_id(home: House) -> UUID:
    found = await home.row("SELECT id FROM agents WHERE name = $1", home.agent)
    return UUID(str(found["id"]))


@pytest.mark.parametrize(
    ("rules", "code", "window", "again"),
    [
        ({"hourly": "0.003"}, "over_hourly_limit", "hour", True),
        ({"monthly": "0.003"}, "over_monthly_limit", "month", True),
        ({"lifetime": "0.003"}, "over_lifetime_limit", "lifetime", False),
        ({"rolling": {"24h": "0.003"}}, "over_rolling_limit", "24h", True),
        ({"payments": {"hour": 3}}, "too_many_payments", "hour", True),
        ({"payments": {"day": 3}}, "too_many_payments", "day", True),
        ({"payments": {"7d": 3}}, "too_many_payments", "7d", True),
    ],
    ids=str,
)
async def test_a_window_of_an_agent(
    home: House, seller: Seller, rules: dict[str, Any], code: str, window: str, again: bool
) -> None:
    agent = await agent_id(home)
    assert (await home.ask(f"{seller.url}/before")).status == 200  # counts, too
    await set_rules(home.operator, agent, None, rules)
    for number in range(2):
        assert (await home.ask(f"{seller.url}/{number}")).status == 200
    refused = await home.ask(f"{seller.url}/over")
    assert (refused.status, refused.json["code"]) == (403, code), refused.body
    assert (refused.json["window"], refused.json["limit_of"]) == (window, "agent")
    assert (refused.json["spent_usd"], refused.json["held_usd"]) == ("0.003", "0.00")
    assert (refused.json["possible_again"] is not None) == again
    assert home.paid_on_chain() <= 3_000
    await check_windows(home.operator)
    await set_rules(home.operator, agent, None, None)
    assert (await home.ask(f"{seller.url}/free")).status == 200


async def test_a_providers_limit_is_of_all_agents_together(home: House, seller: Seller) -> None:
    ask = await another(home)
    await set_rules(home.operator, None, HOST, {"hourly": "0.002"})
    assert (await home.ask(f"{seller.url}/1")).status == 200
    assert (await ask(f"{seller.url}/2")).status == 200
    for refused in (await home.ask(f"{seller.url}/3"), await ask(f"{seller.url}/4")):
        assert refused.json["code"] == "over_hourly_limit"
        assert (refused.json["limit_of"], refused.json["pattern"]) == ("provider", HOST)


async def test_an_agents_limit_at_a_provider_is_its_own(home: House, seller: Seller) -> None:
    ask = await another(home)
    await set_rules(home.operator, await agent_id(home), HOST, {"payments": {"month": 1}})
    assert (await home.ask(f"{seller.url}/1")).status == 200
    refused = await home.ask(f"{seller.url}/2")
    assert refused.json["code"] == "too_many_payments"
    assert (refused.json["limit_of"], refused.json["limit_payments"]) == ("agent_provider", 1)
    assert (await ask(f"{seller.url}/3")).status == 200


async def test_what_the_defaults_say_is_each_agents_own(home: House, seller: Seller) -> None:
    ask = await another(home)
    await set_rules(home.operator, None, None, {"lifetime": "0.001"})
    assert (await home.ask(f"{seller.url}/1")).status == 200
    assert (await home.ask(f"{seller.url}/2")).json["code"] == "over_lifetime_limit"
    assert (await ask(f"{seller.url}/3")).status == 200


async def another(home: House) -> Any:
    """A second agent; as it asks."""
    policy = Policy("other", allowed_targets=LOOPBACK)
    new = await agents.add(home.operator, home.service.store.vault, "other", policy)
    await until(lambda: home.service.directory.by_token(new.token) is not None, 10)
    host, port = home.service.proxy_address

    async def ask(url: str) -> Answer:
        return await home.ask(url, proxy=f"http://other:{new.token}@{host}:{port}")

    return ask
