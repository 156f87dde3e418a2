"""Reading the parameters of a JSON-RPC call, and refusing them the way a Solana node does."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from solders.hash import Hash, ParseHashError
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from proxy.localnet import base58
from proxy.localnet.blocks import COMMITMENTS, Commitment

MAX_TRANSACTION = 1_232  # bytes: one UDP packet of a validator

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
PREFLIGHT_FAILURE = -32002
SIGNATURE_FAILURE = -32003
UNSUPPORTED_VERSION = -32015
MIN_CONTEXT_SLOT = -32016


class RpcError(Exception):
    """Becomes the `error` member of the answer."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            body["data"] = self.data
        return body


def invalid(message: str) -> RpcError:
    return RpcError(INVALID_PARAMS, message)


class Config:
    """The options object that most methods take last. Unknown members are ignored, as nodes do."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        value = self._members.get(name)
        if value is None:
            return default
        # bool is an int to Python, but `"limit": true` is a mistake to a node.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise invalid(f"Invalid params: {name} must be of type {kind}.")
        return value

    def commitment(self, name: str) -> Commitment:
        """Of an option; as on a real node, who does not say gets `finalized`."""
        value = self.get(name, str, "finalized")
        for commitment in COMMITMENTS:
            if commitment == value:
                return commitment
        raise invalid(f"Invalid params: unknown variant `{value}`, expected one of {COMMITMENTS}.")


class Params:
    """Positional parameters."""

    def __init__(self, values: Any) -> None:
        if not isinstance(values, list):
            raise invalid("Invalid params: expected a sequence.")
        self._values = values

    def config(self, index: int) -> Config:
        value = self._values[index] if index < len(self._values) else None
        if value is not None and not isinstance(value, dict):
            raise invalid("Invalid params: expected an object of options.")
        return Config(value or {})

    def config_or_encoding(self, index: int) -> Config:
        """getTransaction once took a bare encoding here, and some clients still send it so."""
        value = self._values[index] if index < len(self._values) else None
        return Config({"encoding": value}) if isinstance(value, str) else self.config(index)

    def text(self, index: int) -> str:
        return str(self._need(index, str))

    def number(self, index: int) -> int:
        value = self._need(index, int)
        if isinstance(value, bool) or value < 0:
            raise invalid("Invalid params: expected u64.")
        return int(value)

    def items(self, index: int, most: int) -> Sequence[Any]:
        values: list[Any] = self._need(index, list)
        if len(values) > most:
            raise invalid(f"Too many inputs provided; max {most}")
        return values

    def pubkey(self, index: int) -> Pubkey:
        return pubkey(self.text(index))

    def blockhash(self, index: int) -> Hash:
        try:
            return Hash.from_string(self.text(index))
        except ParseHashError as error:
            raise invalid(f"Invalid param: {error}") from None

    def transaction(self, index: int, encoding: str) -> VersionedTransaction:
        return transaction(self.text(index), encoding)

    def _need(self, index: int, kind: type) -> Any:
        if index >= len(self._values):
            raise invalid(f"`params` should have at least {index + 1} argument(s)")
        value = self._values[index]
        if not isinstance(value, kind):
            raise invalid(f"Invalid params: expected {kind.__name__} at position {index}.")
        return value


def pubkey(text: Any) -> Pubkey:
    try:
        return Pubkey.from_string(text)
    except (ValueError, TypeError) as error:
        raise invalid(f"Invalid param: {error}") from None


def signature(text: Any) -> Signature:
    try:
        return Signature.from_string(text)
    except (ValueError, TypeError) as error:
        raise invalid(f"Invalid param: {error}") from None


def encoded_bytes(text: str, encoding: str) -> bytes:
    try:
        if encoding == "base64":
            return base64.b64decode(text, validate=True)
        if encoding == "base58":
            return base58.decode(text)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"invalid {encoding} encoding: {error}") from None
    raise invalid(f"unsupported encoding: {encoding}. Supported encodings: base58, base64")


def transaction(text: str, encoding: str) -> VersionedTransaction:
    raw = encoded_bytes(text, encoding)
    name = "solana_transaction::versioned::VersionedTransaction"
    if len(raw) > MAX_TRANSACTION:
        raise invalid(f"decoded {name} too large: {len(raw)} bytes (max: {MAX_TRANSACTION} bytes)")
    try:
        tx = VersionedTransaction.from_bytes(raw)
    except Exception as error:  # solders raises its own BincodeError, which it does not export
        raise invalid(f"failed to deserialize {name}: {error}") from None
    try:
        tx.sanitize()
    except Exception as error:  # likewise SanitizeError
        raise invalid(f"invalid transaction: {error}") from None
    return tx
