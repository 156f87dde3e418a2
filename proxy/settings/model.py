"""Every setting, its default and its unit. `default.py` explains them to people."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    Listener,
    Location,
    LogLevel,
    MicroUsd,
    ProviderName,
    RpcUrl,
    Seconds,
    Upstream,
    UpstreamProxy,
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


class Wallet(Section):
    path: Location | None = None


class Network(Section):
    rpc_url: RpcUrl = Field(repr=False)


class Provider(Section):
    upstream: Upstream
    memo: bool = True


class Limits(Section):
    """Bytes, but for `connections`: how many clients may be connected at once."""

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


class Breaker(Section):
    failures: Count = 3
    open_seconds: Seconds = 180


class PolicyDefaults(Section):
    """What a new agent may spend, in micro-USD. Given as USD: text, whole number or decimal."""

    per_call: MicroUsd = 50_000
    daily: MicroUsd = 1_000_000
    session: MicroUsd = 1_000_000


class Tls(Section):
    ca_file: ExistingFile | None = None


class Intercept(Section):
    """Which tunnels are looked into. Hosts: exact, or `*.example.com` for those below it."""

    default: Literal["intercept", "tunnel"] = "intercept"
    tunnel: tuple[HostPattern, ...] = ()
    intercept: tuple[HostPattern, ...] = ()
    on_reject: Literal["tunnel", "refuse"] = "tunnel"
    reject_seconds: Seconds = 3600


class Postgres(Section):
    """The embedded server. `user`: whom root drops to; "" is autopay, postgres or nobody."""

    user: str = ""


class Settings(Section):
    """Everything that can be set; the defaults are what no file at all means."""

    database_url: DatabaseUrl = Field("", repr=False)
    data_dir: Location = Field(default_factory=paths.data_dir)
    log_level: LogLevel = "info"
    upstream_proxy: UpstreamProxy = Field("", repr=False)
    no_upstream_proxy: Bypass = ()
    listen: Listen = Listen()
    wallet: Wallet = Wallet()
    networks: dict[NetworkAlias, Network] = {
        "devnet": Network(rpc_url="https://api.devnet.solana.com")
    }
    providers: dict[ProviderName, Provider] = {}
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    breaker: Breaker = Breaker()
    policy: PolicyDefaults = PolicyDefaults()
    tls: Tls = Tls()
    intercept: Intercept = Intercept()
    postgres: Postgres = Postgres()

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
