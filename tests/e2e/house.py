"""The whole program between a real client and a real seller, all on loopback."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from solders.keypair import Keypair

from policies import Policy, Rules
from proxy.chains.solana import Wallet
from proxy.ledger import Database, agents, policies
from proxy.localnet import USDC_DEVNET, Localnet
from proxy.service import Service
from proxy.settings import Settings

FUNDS = 10_000_000
LOOPBACK = ("127.0.0.0/8",)  # where all that is tested is


@dataclass
class Answer:
    """What the program got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class House:
    """A running autopay with one agent and a funded wallet."""

    net: Localnet
    service: Service
    operator: Database
    """As the database's owner: what the proxy itself may not do there."""
    agent: str
    token: str
    wallet: Keypair
    session: aiohttp.ClientSession = field(repr=False)

    @property
    def proxy(self) -> str:
        host, port = self.service.proxy_address
        return f"http://{self.agent}:{self.token}@{host}:{port}"

    @property
    def mounts(self) -> str:
        host, port = self.service.mounts_address
        return f"http://{host}:{port}"

    async def ask(self, url: str, method: str = "GET", **options: Any) -> Answer:
        """One request through the forward proxy; only the proxy's address tells of autopay."""
        options.setdefault("proxy", self.proxy)
        async with self.session.request(method, url, allow_redirects=False, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def set_policy(self, **changes: Any) -> None:
        """Replace the agent's policy and wait until the proxy has heard of it."""
        version = await agents.set_policy(
            self.operator,
            Policy(self.agent, **({"allowed_targets": LOOPBACK} | changes)),
        )
        await until(lambda: self._policy_version() >= version)

    async def set_rules(self, agent: str | None, provider: str | None, **rules: Any) -> int:
        """Set one layer of the book, and wait until the proxy has heard of it; the version."""
        own = {"allowed_targets": list(LOOPBACK)} if agent is not None and provider is None else {}
        applied = await policies.set_rules(
            self.operator, agent, provider, Rules.from_json(own | rules), by="ann"
        )
        await until(lambda: self.service.directory.version >= applied.version)
        return applied.version

    def _policy_version(self) -> int:
        agent = self.service.directory.by_token(self.token)
        assert agent is not None
        return self.service.directory.policy(agent).version

    async def rows(self, sql: str, *args: object) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.operator.fetch(sql, *args)]

    async def row(self, sql: str, *args: object) -> dict[str, Any]:
        (row,) = await self.rows(sql, *args)
        return row

    async def counters(self) -> tuple[int, int]:
        """(spent, held) of the agent today, micro-USD."""
        rows = await self.rows(
            "SELECT spent_micros, held_micros FROM budget_counters WHERE kind = 'agent_day'"
        )
        return (rows[0]["spent_micros"], rows[0]["held_micros"]) if rows else (0, 0)

    def paid_on_chain(self) -> int:
        """Atomic units of devnet USDC that have left the wallet."""
        return FUNDS - (self.net.chain.balance(self.wallet.pubkey(), USDC_DEVNET) or 0)


@asynccontextmanager
async def house(net: Localnet, dsn: str, tmp_path: Path, **settings: Any) -> AsyncIterator[House]:
    """`settings` are sections of autopay.toml."""
    wallet = Keypair()
    net.fund(wallet.pubkey(), usdc=FUNDS, cash=FUNDS, usdc_mainnet=FUNDS)
    path = tmp_path / "wallet.json"
    if not path.exists():
        Wallet.from_text(json.dumps(list(bytes(wallet)))).save(path)
    else:
        wallet = Keypair.from_bytes(bytes(json.loads(path.read_text())))
    service = Service(
        Settings.model_validate(
            {
                "database_url": dsn,
                "data_dir": tmp_path,
                "listen": {
                    "proxy": "127.0.0.1:0",
                    "mounts": "127.0.0.1:0",
                    "admin": "127.0.0.1:0",
                },
                "retries": {"backoff": 0.01},
                # What it does by itself is in its own tests; here the books stay as they are left.
                "reconciler": {"enabled": False},
                "networks": {
                    "devnet": {"rpc_url": net.rpc_url},
                    "mainnet": {"rpc_url": net.rpc_url},
                },
                **settings,
            }
        )
    )
    await service.start()
    operator = await Database.open(dsn)
    try:
        policy = Policy("shopper", allowed_targets=LOOPBACK)
        new = await agents.add(operator, service.store.vault, "shopper", policy)
        await until(lambda: service.directory.by_token(new.token) is not None)
        async with aiohttp.ClientSession(max_field_size=200_000) as session:
            yield House(net, service, operator, "shopper", new.token, wallet, session)
    finally:
        await operator.close()
        await service.stop()


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns once `true()`; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


def decoded(header: str) -> Any:
    """A base64 JSON header."""
    return json.loads(base64.b64decode(header))
