"""The secret key that what autopay keeps in the database is sealed with.

`keyring.py` seal and open, pure · `sources.py` where keys come from: the environment, a file, a
command · `vault.py` the keys as a running process knows them.
"""

from proxy.vault.keyring import Keyring, SealError, UnknownKey, VaultError, key_id_of, new_key
from proxy.vault.sources import CommandKeys, FileKeys, GivenKeys, KeySource, source_of
from proxy.vault.vault import Vault

__all__ = [
    "CommandKeys",
    "FileKeys",
    "GivenKeys",
    "KeySource",
    "Keyring",
    "SealError",
    "UnknownKey",
    "Vault",
    "VaultError",
    "key_id_of",
    "new_key",
    "source_of",
]
