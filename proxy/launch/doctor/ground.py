"""Everything a check-up needs, for its time only: a network, a shop that sells over http and https,
and an autopay with books of its own."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from policies import Policy
from proxy.authority import Authority, Leaves, write_certificate
from proxy.chains.solana import Wallet
from proxy.launch import trust
from proxy.launch.environment import Trust
from proxy.ledger import agents
from proxy.ledger.roles import ADMIN
from proxy.localnet import Localnet
from proxy.localnet.paid_api import paid_api
from proxy.paths import ca_directory
from proxy.service import Service
from proxy.settings import Address, Settings
from proxy.store import Store, open_store

SHOP = "shop.autopay.test"  # RFC 6761: nobody's. Many clients take localhost past every proxy
AGENT = "doctor"
FUNDS = 10_000_000  # atomic units: ten dollars of play money
GOODS = "Lisbon"  # what only a buyer reads
REPOSITORY = "/free.git"
_COMMIT = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"


class Loop(asyncio.SelectorEventLoop):
    """An event loop to which the shop is on this machine: the proxy resolves names by its loop, and
    nobody's /etc/hosts has to be touched."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return await super().getaddrinfo("127.0.0.1" if host == SHOP else host, port, **options)


@dataclass(frozen=True, slots=True)
class Ground:
    """What runs. `shops` are base URLs by scheme."""

    directory: Path
    store: Store
    service: Service
    proxy: Address
    trust: Trust
    shops: Mapping[str, str]


@asynccontextmanager
async def ground(environ: Mapping[str, str], home: Path) -> AsyncIterator[Ground]:
    """To be entered on a `Loop`. `environ` and `home` are those of the programs that will run."""
    async with AsyncExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="autopay-doctor-"))
        stack.callback(shutil.rmtree, directory)
        store = await stack.enter_async_context(
            open_store(
                Settings.model_validate({"data_dir": directory}), name="autopay doctor", role=ADMIN
            )
        )
        net = await stack.enter_async_context(Localnet(slot_seconds=0.1))
        shop_ca = Authority.create(directory / "shop")
        shops = {
            "http": await _shop(stack, net, None),
            "https": await _shop(stack, net, shop_ca),
        }
        Authority.create(ca_directory(directory))
        trusted = trust.prepare(directory, environ, home)
        wallet = Wallet.create(directory / "wallet.json")
        net.fund(wallet.address, usdc=FUNDS)
        # The shop is on loopback, where no agent is taken without leave.
        policy = Policy(AGENT, allowed_targets=("127.0.0.0/8",))
        first = await agents.add(store.database, store.vault, AGENT, policy, by="autopay doctor")
        await agents.revoke_token(store.database, first.token)
        service = Service(
            Settings.model_validate(
                {
                    "data_dir": directory,
                    "listen": {"proxy": "127.0.0.1:0", "mounts": "127.0.0.1:0", "admin": "off"},
                    "networks": {"devnet": {"rpc_url": net.rpc_url}},
                    "tls": {"ca_file": write_certificate(directory / "shop.pem", shop_ca)},
                }
            )
        )
        await service.start()
        stack.push_async_callback(service.stop)
        yield Ground(
            directory=directory,
            store=store,
            service=service,
            proxy=Address(*service.proxy_address),
            trust=trusted,
            shops=shops,
        )


async def _shop(stack: AsyncExitStack, net: Localnet, authority: Authority | None) -> str:
    """The paid demo API under a name; with `authority`, by TLS."""
    tls = None
    if authority is not None:
        leaves = Leaves(authority)
        stack.callback(leaves.close)
        tls = await leaves.context_for(SHOP)
    app = paid_api(net.facilitator_url, str(net.seller.pubkey()))
    app.router.add_get(f"{REPOSITORY}/info/refs", _refs)
    app.router.add_get(f"{REPOSITORY}/HEAD", _head)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening, ssl_context=tls).start()
    return f"{'https' if tls else 'http'}://{SHOP}:{listening.getsockname()[1]}"


async def _refs(_request: web.Request) -> web.Response:
    """What git asks of a repository that lies on a plain web server."""
    return web.Response(text=f"{_COMMIT}\trefs/heads/main\n", content_type="text/plain")


async def _head(_request: web.Request) -> web.Response:
    return web.Response(text="ref: refs/heads/main\n", content_type="text/plain")
