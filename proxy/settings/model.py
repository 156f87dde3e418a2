"""Every setting, its default and its unit. `default.py` explains them to people."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from policies import Policy
from proxy import paths
from proxy.settings.problems import explained
from proxy.settings.sources import read_sources
from proxy.settings.values import (
    Address,
    Bypass,
    Bytes,
    Count,
    DatabaseUrl,
    ExistingFile,
    HostPattern,
    Hours,
    Listener,
    Location,
    LogLevel,
    MaybeListener,
    MaybeLocation,
    MicroUsd,
    ProviderName,
    RoleName,
    RpcUrl,
    RpcUrls,
    Seconds,
    Tries,
    Upstream,
    UpstreamProxy,
    WalletName,
)

NetworkAlias = Literal["devnet", "testnet", "mainnet"]
NETWORK_IDS: dict[NetworkAlias, str] = {  # alias → CAIP-2 id
    "devnet": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
    "testnet": "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z",
    "mainnet": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Listen(Section):
    proxy: Listener = Address("127.0.0.1", 8402)
    mounts: Listener = Address("127.0.0.1", 8403)
    admin: MaybeListener = Address("127.0.0.1", 8404)


class Admin(Section):
    open_metrics: bool = False
    hosts: tuple[HostPattern, ...] = ()


class Wallet(Section):
    """`low_balance`: under it, an event; `check_seconds`: between two looks at the balance."""

    path: Location | None = None
    low_balance: MicroUsd = 1_000_000
    check_seconds: Seconds = 60


class NamedWallet(Section):
    """One that pays where policy names it. Without `low_balance`, that of `[wallet]` holds."""

    path: Location | None = None
    low_balance: MicroUsd | None = None


class Network(Section):
    """`verify_rpc_urls` give second opinions, so each is another host than all the others."""

    rpc_url: RpcUrl = Field(repr=False)
    verify_rpc_urls: RpcUrls = Field(default=(), repr=False)

    @field_validator("verify_rpc_urls")
    @classmethod
    def _independent(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        hosts = [urlsplit(url).netloc.rpartition("@")[2].lower() for url in urls]
        first = urlsplit(str(info.data.get("rpc_url", ""))).netloc.rpartition("@")[2].lower()
        if len({first, *hosts}) <= len(hosts):
            raise ValueError("must each name another host than rpc_url, and than one another")
        return urls


class Reconciler(Section):
    """`interval`: seconds between two looks at the chain, while there is something to look for."""

    enabled: bool = True
    interval: Seconds = 2


class Provider(Section):
    upstream: Upstream
    memo: bool = True
    store_data: bool = False
    store_request: bool = False
    # An exchange that is looked at is in memory until it is written.
    data_bytes: Annotated[Bytes, Field(le=4_194_304)] = 65_536


class Limits(Section):
    """Bytes, but for `connections`: how many clients may be connected at once, tunnels included."""

    header_bytes: Bytes = 65_536
    challenge_bytes: Bytes = 65_536
    replay_memory_bytes: Bytes = 1_048_576
    replay_disk_bytes: Bytes = 104_857_600
    connections: Count = 1000


class Timeouts(Section):
    """Seconds. `response` runs to the first byte; `idle` between bytes, so streams may last."""

    connect: Seconds = 10
    response: Seconds = 300
    paid_response: Seconds = 120
    idle: Seconds = 600
    client_header: Seconds = 30
    receipt_wait: Seconds = 2


class Retries(Section):
    """Of a paid request's connection, while no byte of it has left. `backoff` in seconds."""

    attempts: Tries = 3
    backoff: Seconds = 1


class Paid(Section):
    """What is done for a request that was paid for and whose answer did not arrive. Of a program
    that has gone, `keep_bytes` of the answer's body, read for `keep_seconds` at most and kept for
    as long; `keep_answers` of one agent. `idempotency_seconds`: for how long a key stands for its
    request; `wait`: for the answer to the same request that is under way."""

    keep_bytes: Annotated[Bytes, Field(le=16_777_216)] = 1_048_576
    keep_seconds: Seconds = 600
    keep_answers: Count = 1000
    idempotency_seconds: Annotated[Seconds, Field(le=31_536_000)] = 86_400
    wait: Seconds = 30
    share_identical: bool = False


class Breaker(Section):
    failures: Count = 3
    open_seconds: Seconds = 180


class PolicyDefaults(Section):
    """What a new agent may spend, in micro-USD. Given as USD: text, whole number or decimal."""

    per_call: MicroUsd = 50_000
    daily: MicroUsd = 1_000_000
    session: MicroUsd = 1_000_000
    trace: MicroUsd = 1_000_000

    def of(self, agent: str) -> Policy:
        """The policy of a new agent of this name."""
        return Policy(
            agent,
            per_call_limit=self.per_call,
            daily_limit=self.daily,
            session_limit=self.session,
            trace_limit=self.trace,
        )


class Tls(Section):
    ca_file: ExistingFile | None = None


class Intercept(Section):
    """Which tunnels are looked into. Hosts: exact, or `*.example.com` for those below it."""

    default: Literal["intercept", "tunnel"] = "intercept"
    tunnel: tuple[HostPattern, ...] = ()
    intercept: tuple[HostPattern, ...] = ()
    on_reject: Literal["tunnel", "refuse"] = "tunnel"
    reject_seconds: Seconds = 3600


class Secrets(Section):
    """The key that tokens are sealed with: `key` goes before `key_command`, that before the file.
    Several may be given, the current one first; the others only open."""

    key: str = Field(default="", repr=False)
    key_command: str = ""
    key_command_seconds: Seconds = 10
    key_file: Location | None = None


class Postgres(Section):
    """The embedded server. `user`: whom root drops to; "" is autopay, postgres or nobody."""

    user: str = ""


class DatabaseUse(Section):
    """How the database is used. `role`: what the proxy acts as; "" is the login itself."""

    owner_url: DatabaseUrl = Field(default="", repr=False)
    role: RoleName = "autopay_writer"
    allow_plaintext: bool = False
    # Logs are kept by the month: less than a whole one cannot be.
    retention_days: Count = Field(default=90, ge=31)


class Audit(Section):
    """The books checked by the running proxy. `halt`: what it finds ends all spending."""

    every_seconds: Seconds = 300
    halt: bool = True


class Backup(Section):
    """What the running proxy copies of the database; nothing without `dir`."""

    dir: MaybeLocation = None
    every_hours: Hours = 24
    keep: Count = 7


class Settings(Section):
    """Everything that can be set; the defaults are what no file at all means."""

    database_url: DatabaseUrl = Field("", repr=False)
    data_dir: Location = Field(default_factory=paths.data_dir)
    log_level: LogLevel = "info"
    upstream_proxy: UpstreamProxy = Field("", repr=False)
    no_upstream_proxy: Bypass = ()
    listen: Listen = Listen()
    audit: Audit = Audit()
    admin: Admin = Admin()
    wallet: Wallet = Wallet()
    wallets: dict[WalletName, NamedWallet] = {}
    networks: dict[NetworkAlias, Network] = {
        "devnet": Network(rpc_url="https://api.devnet.solana.com")
    }
    reconciler: Reconciler = Reconciler()
    providers: dict[ProviderName, Provider] = {}
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    paid: Paid = Paid()
    breaker: Breaker = Breaker()
    policy: PolicyDefaults = PolicyDefaults()
    tls: Tls = Tls()
    intercept: Intercept = Intercept()
    postgres: Postgres = Postgres()
    secrets: Secrets = Secrets()
    database: DatabaseUse = DatabaseUse()
    backup: Backup = Backup()

    @property
    def wallet_path(self) -> Path:
        return self.wallet.path or self.data_dir / "wallet.json"

    @property
    def rpc_urls(self) -> dict[str, str]:
        """CAIP-2 id → RPC URL of every configured network."""
        return {NETWORK_IDS[alias]: network.rpc_url for alias, network in self.networks.items()}

    @classmethod
    def load(cls, path: Path | None = None, environ: Mapping[str, str] = os.environ) -> "Settings":
        """The settings of `path`, or of the file that `paths.settings_file` finds, or of none;
        `AUTOPAY_SECTION__KEY` in `environ` overrides `key` of `[section]`.

        Raises SettingsError with one line for each bad setting.
        """
        sources = read_sources(paths.settings_file(path), environ)
        try:
            return cls.model_validate(sources.values)
        except ValidationError as error:
            raise explained(error, cls, sources) from None
