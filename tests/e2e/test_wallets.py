"""Which wallet pays, through the listening socket. The balances on the chain are the judge."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from solders.keypair import Keypair

from policies import Policy
from proxy.admin import Keys, Role
from proxy.chains.solana import Wallet
from proxy.ledger import agents, ceilings
from proxy.localnet import USDC_DEVNET, Localnet
from proxy.reconciler.books import Account
from proxy.service import Service
from proxy.wire.routes import origin_of
from proxy.x402.assets import ASSETS
from tests.e2e.house import FUNDS, LOOPBACK, Answer, House, house, until
from tests.e2e.seller import DEVNET, Seller, selling
from tests.e2e.till import till

PRICE = 1000
(USDC_THERE,) = (one for one in ASSETS if (one.network, one.symbol) == (DEVNET, "USDC"))
NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass
class Office:
    """A house with two more wallets, `research` and a `poor` one, and a second agent, `reader`."""

    home: House
    reader: str
    """Its token."""
    research: Keypair
    seller: Seller

    async def ask(self, agent: str, path: str = "") -> Answer:
        token = {"shopper": self.home.token, "reader": self.reader}[agent]
        host, port = self.home.service.proxy_address
        return await self.home.ask(
            f"{self.seller.url}/{path}", proxy=f"http://{agent}:{token}@{host}:{port}"
        )

    async def buy(self, agent: str, path: str = "") -> None:
        assert (await self.ask(agent, path)).status == 200

    async def say(
        self, wallet: str | None, agent: str | None = None, *, here: bool = False
    ) -> None:
        """One layer says which wallet pays, or nothing: defaults, agent, provider, both. Returns
        when the proxy has heard of it."""
        provider = origin_of(self.seller.url).key if here else None
        await self.home.operator.execute(
            "INSERT INTO policy_rules (agent_id, provider, rules)"
            " VALUES ((SELECT id FROM agents WHERE name = $1), $2, $3)"
            " ON CONFLICT (agent_id, provider) DO UPDATE SET rules = excluded.rules",
            agent,
            provider,
            json.dumps({"wallet": wallet} if wallet else {}),
        )
        version = await self.home.operator.fetchval("SELECT policy_version()")
        assert await self.home.service.directory.fresh(version, 20)

    def spent(self) -> tuple[int, int]:
        """Payments from the default wallet, and from `research`; by what is on the chain."""
        left = self.home.net.chain.balance(self.research.pubkey(), USDC_DEVNET) or 0
        return self.home.paid_on_chain() // PRICE, (FUNDS - left) // PRICE

    async def addresses(self) -> dict[str, str]:
        rows = await self.home.rows("SELECT name, wallet_address FROM agents WHERE is_active")
        return {row["name"]: row["wallet_address"] for row in rows}

    async def assigned(self) -> None:
        """Wait until every agent has the wallet that its own layer has it pay from."""
        home, second = str(self.home.wallet.pubkey()), str(self.research.pubkey())
        async for _ in looks():
            if await self.addresses() == {"shopper": home, "reader": second}:
                return


async def looks() -> AsyncIterator[None]:
    """Again and again, for a while."""
    async with asyncio.timeout(20):
        while True:
            yield
            await asyncio.sleep(0.05)


@pytest.fixture
async def office(net: Localnet, dsn: str, tmp_path: Path) -> AsyncIterator[Office]:
    research, poor = Keypair(), Keypair()
    net.fund(research.pubkey(), usdc=FUNDS)
    net.fund(poor.pubkey(), usdc=PRICE - 1)
    Wallet(research).save(tmp_path / "wallet-research.json")
    Wallet(poor).save(tmp_path / "wallet-poor.json")
    settings: dict[str, Any] = {
        "wallet": {"check_seconds": 0.2},
        "wallets": {"research": {}, "poor": {}},
        "networks": {"devnet": {"rpc_url": net.rpc_url}},
    }
    async with house(net, dsn, tmp_path, **settings) as home, selling() as seller:
        new = await agents.add(
            home.operator,
            home.service.store.vault,
            "reader",
            Policy("reader", allowed_targets=LOOPBACK),
        )
        await until(lambda: home.service.directory.by_token(new.token) is not None)
        till(net, seller)
        yield Office(home, new.token, research, seller)


async def test_each_agent_pays_from_the_wallet_of_its_own_layer(office: Office) -> None:
    await office.buy("reader")
    assert office.spent() == (1, 0)
    await office.say("research", "reader")
    await office.buy("reader", "1")
    await office.buy("shopper", "2")
    await office.buy("reader", "3")
    assert office.spent() == (2, 2)
    payers = await office.home.rows(
        "SELECT a.name, p.payer FROM payments p JOIN agents a ON a.id = p.agent_id"
        " ORDER BY p.created_at"
    )
    first, second = str(office.home.wallet.pubkey()), str(office.research.pubkey())
    assert [(row["name"], row["payer"]) for row in payers] == [
        ("reader", first),
        ("reader", second),
        ("shopper", first),
        ("reader", second),
    ]
    await office.assigned()

    # And back again, at run time.
    await office.say(None, "reader")
    await office.buy("reader", "4")
    assert office.spent() == (3, 2)
    async for _ in looks():
        if set((await office.addresses()).values()) == {first}:
            break


async def test_the_most_specific_layer_names_the_wallet(office: Office) -> None:
    await office.say("research")
    await office.buy("shopper", "1")
    assert office.spent() == (0, 1)
    await office.say("default", "shopper")
    await office.buy("shopper", "2")
    assert office.spent() == (1, 1)
    await office.say("research", here=True)
    await office.buy("shopper", "3")
    assert office.spent() == (1, 2)
    await office.say("default", "shopper", here=True)
    await office.buy("shopper", "4")
    await office.buy("reader", "5")
    assert office.spent() == (2, 3)


async def test_a_wallet_that_is_not_here_pays_nothing_and_no_other_does(office: Office) -> None:
    await office.say("treasury", "reader")
    answer = await office.ask("reader")
    assert (answer.status, answer.json["code"]) == (403, "wallet_not_configured")
    assert "treasury" in answer.json["detail"]
    row = await office.home.row(
        "SELECT decision::text AS decision, reason, detail FROM policy_decision_logs"
    )
    assert (row["decision"], row["reason"]) == ("deny", "wallet_not_configured")
    assert "treasury" in row["detail"]
    request = await office.home.row("SELECT error_class FROM api_requests")
    assert request["error_class"] == "wallet_not_configured"
    assert office.seller.payments == []
    assert office.spent() == (0, 0)
    await office.buy("shopper")
    assert office.spent() == (1, 0)


async def test_the_same_bytes_leave_again_whatever_the_policy_says_by_then(office: Office) -> None:
    """After a restart too, and even where the wallet that signed is not there any more."""
    home = office.home
    await office.say("research", "reader")
    till(home.net, office.seller, "ignore", "ignore")
    assert (await office.ask("reader")).json["code"] == "payment_in_doubt"
    await office.say(None, "reader")
    assert (await office.ask("reader")).json["code"] == "payment_in_doubt"

    await home.service.stop()
    settings = home.service.settings.model_copy(update={"wallets": {}})
    home.service = Service(settings)
    await home.service.start()
    try:
        await office.buy("reader")
    finally:
        await home.service.stop()
    assert len(office.seller.payments) == 3
    assert len(set(office.seller.payments)) == 1
    assert office.spent() == (0, 1)
    payments = await home.rows("SELECT payer, status::text AS status FROM payments")
    assert payments == [{"payer": str(office.research.pubkey()), "status": "CONFIRMED"}]


async def test_a_lost_answer_is_found_in_the_account_of_the_wallet_that_paid(
    office: Office,
) -> None:
    await office.say("research", "reader")
    till(office.home.net, office.seller, "lose")
    lost = await office.ask("reader")
    assert lost.json["code"] == "payment_in_doubt"
    account = Account(DEVNET, Wallet(office.research).token_account(USDC_THERE))
    async for _ in looks():
        report = await office.home.service.reconciler.reconcile_once()
        assert set(report) == {account}
        row = await office.home.row("SELECT status::text AS status FROM payments")
        if row["status"] in ("CONFIRMED", "VERIFIED"):
            break
    receipt = await office.home.row("SELECT id, source FROM x402_payment_logs")
    assert (str(receipt["id"]), receipt["source"]) == (lost.json["payment"], "chain")


async def test_the_books_of_every_wallet_are_opened(office: Office) -> None:
    """Balances that later ones are held against, before anything is paid."""
    wanted = {
        Wallet(key).token_account(USDC_THERE) for key in (office.home.wallet, office.research)
    }
    async for _ in looks():
        await office.home.service.reconciler._open_books()
        rows = await office.home.rows("SELECT source_account FROM chain_balances")
        if wanted <= {row["source_account"] for row in rows}:
            return


async def test_a_wallet_out_of_funds_stops_nobody_else(office: Office) -> None:
    await office.say("poor", "reader")
    for path in ("1", "2"):
        answer = await office.ask("reader", path)
        assert (answer.status, answer.json["code"]) == (403, "insufficient_funds")
        await office.buy("shopper", path)
    assert office.home.paid_on_chain() == 2 * PRICE
    assert len(office.seller.payments) == 2


async def test_each_wallet_has_a_ceiling_of_its_own(office: Office) -> None:
    await office.say("research", "reader")
    operator = office.home.operator
    await ceilings.set_ceiling(operator, "wallet_day", "*", PRICE)
    for agent in ("shopper", "reader"):
        await office.buy(agent, "1")
        refused = await office.ask(agent, "2")
        assert (refused.status, refused.json["code"]) == (403, "over_wallet_limit")
    # One that names its wallet goes first, and is about no other.
    await ceilings.set_ceiling(operator, "wallet_day", str(office.research.pubkey()), 2 * PRICE)
    await office.buy("reader", "2")
    assert (await office.ask("reader", "3")).json["code"] == "over_wallet_limit"
    assert (await office.ask("shopper", "2")).json["code"] == "over_wallet_limit"
    # A budget is the wallet's, whoever pays from it.
    await office.say("research", "shopper")
    assert (await office.ask("shopper", "2")).json["code"] == "over_wallet_limit"
    assert office.spent() == (1, 2)


async def test_what_is_low_is_told_of_each_wallet(net: Localnet, dsn: str, tmp_path: Path) -> None:
    """One that is no agent's, but only some provider's, is told of as autopay's own."""
    research = Keypair()
    net.fund(research.pubkey(), usdc=FUNDS)
    Wallet(research).save(tmp_path / "elsewhere.json")
    settings: dict[str, Any] = {
        "wallet": {"check_seconds": 0.2, "low_balance": "1"},
        "wallets": {"research": {"path": tmp_path / "elsewhere.json", "low_balance": "10.01"}},
        "networks": {"devnet": {"rpc_url": net.rpc_url}},
    }
    async with house(net, dsn, tmp_path, **settings) as home:
        async for _ in looks():
            rows = await home.rows(
                "SELECT agent_id, details FROM audit_events WHERE event_type = 'LOW_BALANCE'"
            )
            if rows:
                break
        (event,) = rows
        told = json.loads(event["details"])
        assert (str(event["agent_id"]), told["wallet"]) == (NOBODY, str(research.pubkey()))
        assert (told["usdc"], told["threshold"]) == (10, 10.01)

        async for _ in looks():
            status = await _status(home)
            if all(wallet["balances"] for wallet in status["wallets"]):
                break
        first, second = status["wallets"]
        assert (first["name"], first["address"]) == ("default", str(home.wallet.pubkey()))
        assert (second["name"], second["address"]) == ("research", str(research.pubkey()))
        (held,) = second["balances"]
        assert (held["network"], held["usdc"], held["cash"]) == (DEVNET, "10", "0")
        assert (held["low"], first["balances"][0]["low"]) == (True, False)


async def _status(home: House) -> Any:
    await home.operator.execute("DELETE FROM api_keys")
    key = await Keys(home.operator).create("watcher", Role.READER)
    host, port = home.service.admin_address
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
        session.get(f"http://{host}:{port}/v1/status") as response,
    ):
        assert response.status == 200
        return await response.json()
