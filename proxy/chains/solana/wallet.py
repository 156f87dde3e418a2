"""The key that signs payments, on disk and in memory.

The file is the Solana CLI's own format, a JSON array of 64 numbers, so that every Solana tool can
read it. It must be readable by its owner alone. No message or repr of this module holds a secret.
"""

import json
import os
from pathlib import Path
from typing import Self

from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from proxy.files import NotPrivate, read_private, sync_directory
from proxy.x402 import Asset

from .message import token_account

_MAX_FILE = 4096


class WalletError(Exception):
    """One clear line about a wallet that cannot be read, written or understood."""


class Wallet:
    """A Solana keypair."""

    __slots__ = ("_keypair", "pubkey")

    def __init__(self, keypair: Keypair) -> None:
        self._keypair = keypair
        self.pubkey: Pubkey = keypair.pubkey()

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    @property
    def address(self) -> str:
        """The public key in base58: where to send money to."""
        return str(self.pubkey)

    def token_account(self, asset: Asset) -> str:
        """Where this wallet holds an asset of Solana's; derived, so it may not exist."""
        if asset.token_program is None:
            raise ValueError(f"{asset.symbol} on {asset.network} is no token of Solana's")
        mint, program = Pubkey.from_string(asset.address), Pubkey.from_string(asset.token_program)
        return str(token_account(self.pubkey, mint, program))

    def sign(self, message: bytes) -> Signature:
        """Ed25519 over exactly these bytes."""
        return self._keypair.sign_message(message)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new key and save it. Raises WalletError if the file exists already."""
        wallet = cls(Keypair())
        wallet.save(path)
        return wallet

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key file. Raises WalletError if it is missing, readable by others or not a key."""
        try:
            content = read_private(path, _MAX_FILE)
        except OSError as error:
            raise WalletError(f"cannot read the wallet {path}: {error.strerror}") from None
        except NotPrivate as error:
            advice = ": run chmod 600 on it" if error.exposed else ""
            raise WalletError(f"the wallet {path} {error}{advice}") from None
        try:
            return cls.from_text(content.decode("ascii", "replace"))
        except WalletError:
            raise WalletError(f"the wallet {path} does not hold a Solana key") from None

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Understand a key as people keep them: the Solana CLI's JSON array of 64 numbers, the
        64-byte secret in base58 (as browser wallets export it), or a 32-byte seed in base58 or hex.
        Raises WalletError.
        """
        text = text.strip()
        secret = _from_json(text) or _from_hex(text) or _from_base58(text)
        if secret is None:
            raise WalletError(
                "not a Solana key: expected a JSON array of 64 numbers, a base58 secret of 64 "
                "bytes, or a seed of 32 bytes in base58 or hex"
            )
        try:
            return cls(Keypair.from_seed(secret) if len(secret) == 32 else _checked(secret))
        except ValueError:
            raise WalletError("not a Solana key: its two halves do not belong together") from None

    def save(self, path: Path) -> None:
        """Write the key to a new file of mode 0600. Never overwrites; raises WalletError."""
        text = json.dumps(list(bytes(self._keypair)), separators=(",", ":")).encode()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise WalletError(f"{path} exists already; a wallet is never overwritten") from None
        except OSError as error:
            raise WalletError(f"cannot write the wallet {path}: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(path.parent)  # a funded wallet must survive a power cut
        except OSError as error:
            path.unlink(missing_ok=True)
            raise WalletError(f"cannot write the wallet {path}: {error.strerror}") from None


def _checked(secret: bytes) -> Keypair:
    keypair = Keypair.from_seed(secret[:32])
    if bytes(keypair) != secret:
        raise ValueError("public half does not match")
    return keypair


def _from_json(text: str) -> bytes | None:
    if not text.startswith("["):
        return None
    try:
        numbers = json.loads(text)
        return bytes(numbers) if len(numbers) == 64 else None
    except (ValueError, TypeError, RecursionError):
        return None


def _from_hex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) if len(text) == 64 else None
    except ValueError:
        return None


def _from_base58(text: str) -> bytes | None:
    """solders decodes base58 only into its own types, of which these two are plain bytes."""
    for kind in (Signature, Pubkey):
        try:
            return bytes(kind.from_string(text))
        except ValueError:
            continue
    return None
