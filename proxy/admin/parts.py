"""What the operator's listener reports on: the parts of one running proxy, only ever read."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.capture import Capture
from proxy.chains import Chain
from proxy.ledger import Database, Directory, Ledger
from proxy.metrics import Counts
from proxy.providers import Providers
from proxy.reconciler import Reconciler
from proxy.upkeep import Keeper
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
