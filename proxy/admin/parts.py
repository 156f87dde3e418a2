"""What the operator's listener reports on, and works with: the parts of one running proxy. What is
changed is changed in the database, from which every proxy has it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from policies import Policy
from proxy.admin.stream import Streams
from proxy.capture import Capture
from proxy.chains import Chain
from proxy.ledger import Database, Directory, Ledger
from proxy.metrics import Counts
from proxy.notices.post import Poster
from proxy.procurement.procurement import Procurement
from proxy.providers import Providers
from proxy.reconciler import Reconciler
from proxy.settings.model import PolicyDefaults
from proxy.upkeep import Keeper
from proxy.vault import Vault
from proxy.wire.plane import DataPlane


@dataclass(frozen=True, slots=True)
class Parts:
    """`database` is the listener's own pool: its questions take no connection from payments.
    `chains` by CAIP-2 id."""

    database: Database
    ledger: Ledger
    providers: Providers
    plane: DataPlane
    chains: Mapping[str, Chain]
    counts: Counts
    reconciler: Reconciler
    keeper: Keeper
    directory: Directory
    capture: Capture
    vault: Vault
    streams: Streams
    defaults: PolicyDefaults
    poster: Poster
    procurement: Procurement

    def new_policy(self, agent: str, *, frozen: bool) -> Policy:
        """What a new agent may spend, by the settings."""
        return replace(self.defaults.of(agent), frozen=frozen)
