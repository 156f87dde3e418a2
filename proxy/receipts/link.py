"""One link of an agent's chain, as the database holds it and as an export's line says it."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from proxy.receipts.canonical import digest

NOTHING = bytes(32)
"""What the first link of a chain names as the one before it."""

RECEIPT, REVERSAL, CORRECTION = "receipt", "reversal", "correction"
KINDS = (RECEIPT, REVERSAL, CORRECTION)


@dataclass(frozen=True, slots=True)
class Link:
    """`canonical` is what counts: the other members say again what it says, for who looks for it.
    `key_id` and `signature` are None while it is not signed."""

    agent_id: UUID
    seq: int
    kind: str
    receipt_id: UUID
    canonical: str
    sha256: bytes
    previous: bytes
    key_id: bytes | None
    signature: bytes | None

    @property
    def hash(self) -> bytes:
        """Of `canonical`, computed here: `sha256` is only what somebody says it is.

        Raises ValueError for a text that is none.
        """
        return digest(self.canonical)

    def as_fields(self) -> dict[str, Any]:
        """The line of an export."""
        signed = self.key_id is not None and self.signature is not None
        return {
            "agent_id": str(self.agent_id),
            "seq": self.seq,
            "kind": self.kind,
            "receipt_id": str(self.receipt_id),
            "canonical": self.canonical,
            "sha256": self.sha256.hex(),
            "previous": self.previous.hex(),
            "key_id": self.key_id.hex() if self.key_id is not None else None,
            "signature": base64.b64encode(self.signature or b"").decode() if signed else None,
        }


def link_of(fields: Mapping[str, Any]) -> Link:
    """From an export's line. Raises ValueError."""
    try:
        seq, key_id, signature = fields["seq"], fields["key_id"], fields["signature"]
        if type(seq) is not int or not isinstance(fields["canonical"], str):
            raise ValueError("not a receipt's line")
        return Link(
            UUID(fields["agent_id"]),
            seq,
            str(fields["kind"]),
            UUID(fields["receipt_id"]),
            fields["canonical"],
            bytes.fromhex(fields["sha256"]),
            bytes.fromhex(fields["previous"]),
            None if key_id is None else bytes.fromhex(key_id),
            None if signature is None else unbase64(signature),
        )
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not a receipt's line") from None


def unbase64(text: str) -> bytes:
    """Raises ValueError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError):
        raise ValueError("not base64") from None
