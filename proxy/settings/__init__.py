"""One settings file, `autopay.toml`, plus environment overrides; read once, checked whole, frozen.

`sources` reads and merges, `values` says what a value may look like, `model` lists every setting,
`problems` turns what is wrong into lines for people, `default` is the file that `init` writes.
"""

from proxy.settings.default import default_toml
from proxy.settings.errors import SettingsError
from proxy.settings.model import NETWORK_IDS, Breaker, Provider, Retries, Score, Settings
from proxy.settings.values import Address

__all__ = [
    "NETWORK_IDS",
    "Address",
    "Breaker",
    "Provider",
    "Retries",
    "Score",
    "Settings",
    "SettingsError",
    "default_toml",
]
