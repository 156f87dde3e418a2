"""Everything the demo needs, running: a database, a network with an API that sells, and autopay."""

import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from policies import Policy
from proxy.authority import Authority
from proxy.chains.solana import Wallet
from proxy.demo.narrator import Narrator
from proxy.ledger import Database, agents
from proxy.ledger.roles import ADMIN
from proxy.localnet import Localnet
from proxy.paths import ca_directory
from proxy.service import Service
from proxy.settings import Settings
from proxy.store import open_store

FUNDS = 10_000_000  # of each token, atomic units: ten dollars
AGENT = "demo"
PROVIDER = "shop"


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs, and where."""

    config: Path
    net: Localnet
    wallet: Wallet
    database: Database
    policy: Policy
    token: str
    proxy: str  # host:port
    mounts: str

    @property
    def proxy_url(self) -> str:
        return f"http://{AGENT}:{self.token}@{self.proxy}"

    @property
    def shop_url(self) -> str:
        """The base URL of the API for a program that cannot be told of a proxy."""
        return f"http://{self.mounts}/~{self.token}/{PROVIDER}"


@asynccontextmanager
async def stage(narrator: Narrator) -> AsyncIterator[Stage]:
    """Set up in a private temporary directory; at the end all is stopped and removed."""
    stack = AsyncExitStack()
    try:
        yield await _set_up(stack, narrator)
    finally:
        with narrator.waiting("Stopping everything and removing it"):
            await stack.aclose()


async def _set_up(stack: AsyncExitStack, narrator: Narrator) -> Stage:
    directory = Path(tempfile.mkdtemp(prefix="autopay-demo-"))
    stack.callback(shutil.rmtree, directory)
    with narrator.waiting("Starting PostgreSQL"):
        store = await stack.enter_async_context(
            open_store(
                Settings.model_validate({"data_dir": directory}), name="autopay demo", role=ADMIN
            )
        )
    with narrator.waiting("Starting a Solana network, a facilitator and an API that sells"):
        net = await stack.enter_async_context(Localnet())
        wallet = Wallet.create(directory / "wallet.json")
        Authority.create(ca_directory(directory))
        net.fund(wallet.address, usdc=FUNDS, cash=FUNDS)
    with narrator.waiting("Starting autopay"):
        policy = Policy(AGENT, allowed_targets=("127.0.0.0/8",))  # where the demo's API is
        new = await agents.add(store.database, store.vault, AGENT, policy, by="autopay demo")
        config = directory / "autopay.toml"
        config.write_text(_settings(directory, net, _free_ports(2)))
        # Of the file alone: what the user's environment sets is not for the demo.
        service = Service(Settings.load(config, {}))
        await service.start()
        stack.push_async_callback(service.stop)
    return Stage(
        config=config,
        net=net,
        wallet=wallet,
        database=store.database,
        policy=policy,
        token=new.token,
        proxy=str(service.settings.listen.proxy),
        mounts=str(service.settings.listen.mounts),
    )


def _settings(directory: Path, net: Localnet, ports: list[int]) -> str:
    """A file, and not values in memory: with it `autopay receipts` finds the same books."""
    return f"""\
data_dir = {json.dumps(str(directory))}

[listen]
proxy = "127.0.0.1:{ports[0]}"
mounts = "127.0.0.1:{ports[1]}"
admin = "off"

# Both are the local network: it has the mints of both.
[networks.devnet]
rpc_url = "{net.rpc_url}"
[networks.mainnet]
rpc_url = "{net.rpc_url}"

[providers.{PROVIDER}]
upstream = "{net.api_url}"
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
