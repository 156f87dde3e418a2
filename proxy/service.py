"""autopay, running: every room built and joined, from the settings to the listeners."""

import logging
from collections.abc import Collection
from contextlib import AsyncExitStack
from datetime import timedelta
from urllib.parse import urlsplit

from proxy.admin import Hosts, Keys, Listener, Parts, all_routes, application
from proxy.admin.stream import Streams
from proxy.again import Again, Terms
from proxy.agreement import Agreement
from proxy.authority import AuthorityFile, Leaves
from proxy.awaited import Awaited
from proxy.balances import BalanceWatch, Watched
from proxy.cache import PaidCache, Savings, Shelves
from proxy.cache import Terms as CacheTerms
from proxy.capture import Capture, StoreRule
from proxy.chains import DEFAULT_WALLET, Chain
from proxy.chains.solana import SolanaChain, Wallet
from proxy.consent import Consent
from proxy.entries import INSTANCE
from proxy.exchange import Exchange
from proxy.expectation import Expectations
from proxy.gatekeeper import Gatekeeper
from proxy.ledger import Database, Directory, Ledger, history
from proxy.ledger.address import tcp_addresses
from proxy.ledger.agent_keys import AgentCipher
from proxy.ledger.kept import KeptAnswers
from proxy.ledger.presence import Presence
from proxy.ledger.roles import ADMIN, instead_of
from proxy.metrics import Counts
from proxy.notices import Courier, Feed
from proxy.notices.post import Poster
from proxy.paths import PathError, ca_directory
from proxy.procurement.doors import Host as IntentHost
from proxy.procurement.procurement import Procurement
from proxy.providers import BreakerRules, Providers, Weights
from proxy.providers.fading import Fading
from proxy.providers.scores import Terms as ScoreTerms
from proxy.receipts.keys import KEY_NAME, ReceiptKey
from proxy.receipts.signer import ReceiptSigner
from proxy.reconciler import Reconciler
from proxy.reconciler.books import Account
from proxy.settings import NETWORK_IDS, Breaker, Retries, Score, Settings
from proxy.store import Store, open_store
from proxy.upkeep import Keeper
from proxy.wallets import load_wallets, low_balance, wallet_files
from proxy.wire.chain import Chain as ProxyChain
from proxy.wire.intercept import TunnelRules
from proxy.wire.limits import Limits
from proxy.wire.origin import Origin
from proxy.wire.plane import DataPlane
from proxy.wire.retrying import RetryRules
from proxy.wire.routes import ForwardRouter, MountRouter, origin_of
from proxy.x402.assets import ASSETS

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
ADMIN_CONNECTIONS = 4  # to the database, of the admin listener's own


class Service:
    """What `autopay serve` runs. `start()`, then programs are served until `stop()`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store: Store
        self.directory: Directory
        self.reconciler: Reconciler
        self.ledger: Ledger
        self.providers: Providers
        self.keeper: Keeper
        self.feed: Feed
        self.capture: Capture
        self.procurement: Procurement
        self.cache: PaidCache | None = None
        self.signer: ReceiptSigner | None = None
        self.chains: dict[str, Chain] = {}
        self.counts = Counts()
        self.proxy_address = ("", 0)
        self.mounts_address = ("", 0)
        self.admin_address = ("", 0)  # stays so where it is off
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Raises the clear one-line errors of the rooms it starts; nothing is left running then."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            self.store = await stack.enter_async_context(open_store(settings))
            directory = self.directory = Directory(
                self.store.dsn, self.store.vault, role=self.store.role
            )
            await directory.start()
            stack.push_async_callback(directory.close)
            self.keeper = self._keeper()
            await self.keeper.start()
            stack.push_async_callback(self.keeper.close)
            self.feed = Feed(self.store.dsn, role=self.store.role)
            await self.feed.start()
            stack.push_async_callback(self.feed.close)
            courier = Courier(
                self.store.database, self.store.vault, self.feed, ca_file=settings.tls.ca_file
            )
            courier.start()
            stack.push_async_callback(courier.close)
            self._sign_receipts(stack)
            self.ledger = Ledger(self.store.database)
            stack.push_async_callback(self._settle_books)
            providers = self.providers = Providers(
                self.store.database,
                self.store.dsn,
                rules=_breaker_rules(settings.breaker),
                own_rules=_own_breaker_rules(settings),
                terms=score_terms(settings.score),
                role=self.store.role,
            )
            await providers.start()
            stack.push_async_callback(providers.close)
            await self._open_chains(stack)
            exchange = await self._exchange(providers, stack)
            capture = self.capture = self._capture()
            stack.push_async_callback(capture.close, FLUSH_SECONDS)
            gate = Gatekeeper(
                directory,
                providers,
                self.ledger,
                exchange,
                self.counts,
                capture,
                self.store.database,
            )
            plane = DataPlane(
                gate,
                self._limits(),
                ca_file=settings.tls.ca_file,
                off_limits=tcp_addresses(self.store.dsn),
                chain=self._chained_proxy(),
                retries=_retry_rules(settings.retries),
                retries_by_origin=_own_retry_rules(settings),
            )
            stack.push_async_callback(plane.close)
            self.cache = plane.cache = self._cache(gate, stack)
            self._intercept(plane, stack)
            self.procurement = self._procurement(plane, providers)
            plane.intents = IntentHost(self.procurement)
            await self._open_admin(plane, providers, stack)
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

    def _sign_receipts(self, stack: AsyncExitStack) -> None:
        path = self.settings.data_dir / KEY_NAME
        try:
            key = ReceiptKey.load_or_make(path)
        except (PathError, OSError) as error:
            log.warning("receipts are not signed, there can be no key in %s: %s", path, error)
            return
        signer = self.signer = ReceiptSigner(self.store.database, key)
        signer.start()
        stack.push_async_callback(signer.close)

    async def _open_chains(self, stack: AsyncExitStack) -> None:
        wallets = load_wallets(self.settings)
        for name, path in wallet_files(self.settings).items():
            if name not in wallets:
                log.warning(
                    "there is no wallet at %s: nothing can be paid (`autopay init`)"
                    if name == DEFAULT_WALLET
                    else "there is no wallet at %s: policies that name it have nothing paid"
                    " (`autopay wallet new`)",
                    path,
                )
        named = {name: wallets[name] for name in wallets if name != DEFAULT_WALLET}
        chains = []
        for network, rpc_url in self.settings.rpc_urls.items():
            chain = SolanaChain(network, wallets.get(DEFAULT_WALLET), rpc_url, named=named)
            await chain.start()
            stack.push_async_callback(chain.close)
            self.chains[network] = chain
            chains.append(chain)
        balances = BalanceWatch(
            self.store.database,
            chains,
            [
                Watched(name, wallet, low_balance(self.settings, name))
                for name, wallet in wallets.items()
            ],
            interval=self.settings.wallet.check_seconds,
        )
        balances.start()
        stack.push_async_callback(balances.close)
        self.reconciler = reconciler_of(self.settings, self.store, wallets.values(), self.counts)
        if self.settings.reconciler.enabled:
            await self.reconciler.start()
        stack.push_async_callback(self.reconciler.close)

    def _intercept(self, plane: DataPlane, stack: AsyncExitStack) -> None:
        directory = ca_directory(self.settings.data_dir)
        if not directory.exists():
            log.warning(
                "there is no CA in %s, so https through the proxy is tunnelled and not paid for"
                " (`autopay init`)",
                directory,
            )
            return
        file = AuthorityFile(directory)
        leaves = Leaves(file.current(), newest=file.current)
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

    def _procurement(self, plane: DataPlane, providers: Providers) -> Procurement:
        settings = self.settings
        return Procurement(
            plane,
            self.directory,
            providers,
            self.ledger,
            self.store.database,
            {name: intent.named(name) for name, intent in settings.intents.items()},
            self.counts,
            key_seconds=settings.paid.idempotency_seconds,
            wait=settings.paid.wait,
        )

    async def _exchange(self, providers: Providers, stack: AsyncExitStack) -> Exchange:
        """All that a payment takes."""
        settings, database = self.settings, self.store.database
        awaited = Awaited()
        presence = Presence(self.store.dsn, INSTANCE, word=awaited.word, role=self.store.role)
        await presence.start()
        stack.push_async_callback(presence.close)
        cipher = AgentCipher(database, self.store.vault)
        again = self._again(cipher, awaited, presence)
        again.start()
        stack.push_async_callback(again.close)
        consent = Consent(database)
        consent.start()
        stack.push_async_callback(consent.close)
        agreement = Agreement(
            self.directory,
            providers,
            self.ledger,
            self.chains,
            self.counts,
            cipher,
            again,
            consent,
            memo_less=await self._memo_less(),
        )
        expectations = Expectations(
            (origin_of(one.upstream).key, urlsplit(one.upstream).path, one.expect.expectation)
            for one in settings.providers.values()
        )
        return Exchange(
            agreement, providers, self.ledger, self.counts, again, expectations=expectations
        )

    def _again(self, cipher: AgentCipher, awaited: Awaited, presence: Presence) -> Again:
        paid = self.settings.paid
        terms = Terms(
            keep_bytes=paid.keep_bytes,
            keep_seconds=paid.keep_seconds,
            keep_answers=paid.keep_answers,
            idempotency_seconds=paid.idempotency_seconds,
            wait=paid.wait,
        )
        kept = KeptAnswers(self.store.database, cipher, most=terms.keep_answers)
        return Again(self.ledger, kept, self.chains, self.counts, terms, awaited, presence)

    def _cache(self, gate: Gatekeeper, stack: AsyncExitStack) -> PaidCache | None:
        """None where no provider has one: then no request is looked at for it."""
        terms = {
            name: CacheTerms(
                shared=cache.shared,
                fresh_seconds=cache.fresh_seconds,
                max_seconds=cache.max_seconds,
                max_bytes=cache.max_bytes,
                methods=frozenset(cache.methods),
            )
            for name, provider in self.settings.providers.items()
            if (cache := provider.cache).enabled
        }
        if not terms:
            return None
        rules = self.settings.cache
        savings = Savings(self.store.database, self.counts)
        paid = PaidCache(
            terms,
            {origin_of(self.settings.providers[name].upstream): terms[name] for name in terms},
            Shelves(rules.memory_bytes, rules.answers),
            savings,
            self.directory,
            gate.leave,
            wait=rules.wait,
        )
        savings.tidy = paid.tidy
        savings.start()
        stack.push_async_callback(savings.close)
        return paid

    def _capture(self) -> Capture:
        rules = {
            name: StoreRule(provider.store_data, provider.store_request, provider.data_bytes)
            for name, provider in self.settings.providers.items()
            if provider.store_data or provider.store_request
        }
        origins = {origin_of(self.settings.providers[name].upstream): rules[name] for name in rules}
        return Capture(self.store.database, rules, origins)

    def _keeper(self) -> Keeper:
        store, backup = self.store, self.settings.backup
        return Keeper(
            store.dsn,
            owner_dsn=store.owner_dsn,
            role=store.role,
            retention_days=self.settings.database.retention_days,
            backup_dir=backup.dir,
            backup_hours=backup.every_hours,
            backup_keep=backup.keep,
            audit_every=timedelta(seconds=self.settings.audit.every_seconds),
            audit_halts=self.settings.audit.halt,
        )

    async def _open_admin(
        self, plane: DataPlane, providers: Providers, stack: AsyncExitStack
    ) -> None:
        """Before any program is served: nobody is ever taken there."""
        address = self.settings.listen.admin
        if address is None:
            return
        database = await Database.open(
            self.store.dsn,
            size=ADMIN_CONNECTIONS,
            name="autopay admin",
            role=instead_of(self.store.role, ADMIN),
        )
        stack.push_async_callback(database.close)
        parts = Parts(
            database,
            self.ledger,
            providers,
            plane,
            self.chains,
            self.counts,
            self.reconciler,
            self.keeper,
            self.directory,
            self.capture,
            self.store.vault,
            streams := Streams(self.feed),
            self.settings.policy,
            await stack.enter_async_context(Poster(ca_file=self.settings.tls.ca_file)),
            self.procurement,
        )
        keys = Keys(database)
        routes = all_routes(parts, open_metrics=self.settings.admin.open_metrics)
        hosts = Hosts((address.host, *self.settings.admin.hosts))
        app = application(keys, routes, hosts, self.directory)
        listener = await Listener.start(app, address.host, address.port)
        stack.push_async_callback(listener.close)
        stack.callback(streams.close)  # first: the listener would wait for them
        plane.keep_from(listener.addresses)
        self.admin_address = listener.addresses[0]

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


def _breaker_rules(breaker: Breaker) -> BreakerRules:
    return BreakerRules(**breaker.model_dump())


def _own_breaker_rules(settings: Settings) -> dict[str, BreakerRules]:
    """By origin: providers that share one share its breaker, with all that each of them says."""
    found: dict[str, Breaker] = {}
    for provider in settings.providers.values():
        key = origin_of(provider.upstream).key
        found[key] = found.get(key, settings.breaker).of(provider.breaker)
    return {key: _breaker_rules(breaker) for key, breaker in found.items()}


def _own_retry_rules(settings: Settings) -> dict[Origin, RetryRules]:
    """By origin, as the breakers' are."""
    found: dict[Origin, Retries] = {}
    for provider in settings.providers.values():
        origin = origin_of(provider.upstream)
        found[origin] = found.get(origin, settings.retries).of(provider.retries)
    return {origin: _retry_rules(retries) for origin, retries in found.items()}


def score_terms(score: Score) -> ScoreTerms:
    """How scores are made, by the settings."""
    return ScoreTerms(
        Weights(
            success=score.success,
            schema=score.schema_share,
            quality=score.quality,
            latency=score.latency,
            price=score.price,
            tripped=score.tripped,
            paid_failure=score.paid_failure,
            worst_latency_ms=1000 * score.worst_latency,
            worst_price_micros=score.worst_price,
        ),
        Fading(3600 * score.half_life_hours, score.half_life_calls),
        endpoints=score.endpoints,
    )


def _retry_rules(retries: Retries) -> RetryRules:
    return RetryRules(
        attempts=retries.attempts,
        backoff=retries.backoff,
        jitter=retries.jitter,
        total=retries.total,
        statuses=frozenset(retries.statuses),
        budget=retries.budget,
        floor=retries.budget_floor,
    )


def reconciler_of(
    settings: Settings, store: Store, wallets: Collection[Wallet], counts: Counts | None = None
) -> Reconciler:
    """The reconciler of this database, not started. It needs no wallet for what was paid before."""
    own = [
        Account(asset.network, wallet.token_account(asset))
        for wallet in wallets
        for asset in ASSETS
        if asset.network in settings.rpc_urls
    ]
    return Reconciler(
        store.dsn,
        store.database,
        {
            NETWORK_IDS[alias]: [network.rpc_url, *network.verify_rpc_urls]
            for alias, network in settings.networks.items()
        },
        own_accounts=own,
        interval=settings.reconciler.interval,
        counts=counts,
    )
