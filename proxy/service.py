"""autopay, running: every room built and joined, from the settings to the listeners."""

import logging
from contextlib import AsyncExitStack

from proxy.authority import Authority, Leaves
from proxy.chains import Chain
from proxy.chains.solana import SolanaChain, Wallet
from proxy.exchange import Exchange
from proxy.gatekeeper import Gatekeeper
from proxy.ledger import Directory, Ledger, history
from proxy.ledger.address import tcp_addresses
from proxy.paths import ca_directory
from proxy.providers import Providers
from proxy.settings import Settings
from proxy.store import Store, open_store
from proxy.wire.chain import Chain as ProxyChain
from proxy.wire.intercept import TunnelRules
from proxy.wire.limits import Limits
from proxy.wire.plane import DataPlane
from proxy.wire.routes import ForwardRouter, MountRouter, origin_of

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0


class Service:
    """What `autopay serve` runs. `start()`, then programs are served until `stop()`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store: Store
        self.directory: Directory
        self.ledger: Ledger
        self.chains: dict[str, Chain] = {}
        self.proxy_address = ("", 0)
        self.mounts_address = ("", 0)
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Raises the clear one-line errors of the rooms it starts; nothing is left running then."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            self.store = await stack.enter_async_context(open_store(settings))
            directory = self.directory = Directory(self.store.dsn)
            await directory.start()
            stack.push_async_callback(directory.close)
            self.ledger = Ledger(self.store.database)
            stack.push_async_callback(self._settle_books)
            providers = Providers(
                self.store.database,
                failures=settings.breaker.failures,
                open_seconds=settings.breaker.open_seconds,
            )
            await providers.start()
            stack.push_async_callback(providers.close)
            await self._open_chains(stack)
            exchange = Exchange(
                directory,
                providers,
                self.ledger,
                self.chains,
                memo_less=await self._memo_less(),
            )
            gate = Gatekeeper(directory, providers, self.ledger, exchange)
            plane = DataPlane(
                gate,
                self._limits(),
                ca_file=settings.tls.ca_file,
                off_limits=tcp_addresses(self.store.dsn),
                chain=self._chained_proxy(),
            )
            stack.push_async_callback(plane.close)
            self._intercept(plane, stack)
            upstreams = {name: p.upstream for name, p in settings.providers.items()}
            listen = settings.listen
            self.proxy_address = await plane.listen(
                listen.proxy.host, listen.proxy.port, ForwardRouter(gate)
            )
            self.mounts_address = await plane.listen(
                listen.mounts.host, listen.mounts.port, MountRouter(gate, upstreams)
            )
            self._running = stack.pop_all()

    async def stop(self) -> None:
        """Finish what is under way, write what must be written, let go of everything."""
        await self._running.aclose()

    async def _open_chains(self, stack: AsyncExitStack) -> None:
        path = self.settings.wallet_path
        wallet = Wallet.load(path) if path.exists() else None
        if wallet is None:
            log.warning("there is no wallet at %s: nothing can be paid (`autopay init`)", path)
        for network, rpc_url in self.settings.rpc_urls.items():
            chain = SolanaChain(network, wallet, rpc_url)
            await chain.start()
            stack.push_async_callback(chain.close)
            self.chains[network] = chain

    def _intercept(self, plane: DataPlane, stack: AsyncExitStack) -> None:
        directory = ca_directory(self.settings.data_dir)
        if not directory.exists():
            log.warning(
                "there is no CA in %s, so https through the proxy is tunnelled and not paid for"
                " (`autopay init`)",
                directory,
            )
            return
        leaves = Leaves(Authority.load(directory))
        stack.callback(leaves.close)
        rules = self.settings.intercept
        plane.intercept(
            leaves,
            TunnelRules(
                intercepts=rules.default == "intercept",
                tunnel=rules.tunnel,
                intercept=rules.intercept,
                on_reject=rules.on_reject,
                reject_seconds=rules.reject_seconds,
            ),
        )

    def _chained_proxy(self) -> ProxyChain | None:
        url = self.settings.upstream_proxy
        return ProxyChain(url, self.settings.no_upstream_proxy) if url else None

    async def _memo_less(self) -> set[str]:
        """Providers that want no memo: by the settings, and by what they taught us."""
        told = {
            origin_of(provider.upstream).key
            for provider in self.settings.providers.values()
            if not provider.memo
        }
        return told | await history.memo_less(self.store.database)

    async def _settle_books(self) -> None:
        await self.ledger.flush(FLUSH_SECONDS)
        await self.ledger.close()

    def _limits(self) -> Limits:
        sizes, seconds = self.settings.limits, self.settings.timeouts
        return Limits(
            header_bytes=sizes.header_bytes,
            challenge_bytes=sizes.challenge_bytes,
            replay_memory_bytes=sizes.replay_memory_bytes,
            replay_disk_bytes=sizes.replay_disk_bytes,
            connections=sizes.connections,
            connect=seconds.connect,
            response=seconds.response,
            paid_response=seconds.paid_response,
            idle=seconds.idle,
            client_header=seconds.client_header,
            receipt_wait=seconds.receipt_wait,
        )
