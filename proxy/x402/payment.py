"""How a payment is written: the one request header that carries it."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from .challenge import Challenge, Offer

PAYMENT_HEADERS: frozenset[bytes] = frozenset({b"payment-signature", b"x-payment"})
"""Request headers, in lower case, that carry a payment."""

_PAYMENT_IDENTIFIER = "payment-identifier"
_PAYMENT_ID = re.compile(r"[A-Za-z0-9_-]{16,128}")


def payment_header(
    challenge: Challenge,
    offer: Offer,
    payload: Mapping[str, Any],
    payment_id: str | None = None,
) -> tuple[bytes, bytes]:
    """The header (name, value) that pays `offer`, in the version of its challenge.

    `payload` is the scheme's own part, `{"transaction": "<base64>"}` on Solana. `payment_id`
    (16 to 128 of A-Z a-z 0-9 _ -) is sent where the server offers the payment-identifier extension,
    required or not; the same id must only ever go with the same payload. Raises ValueError for an
    id of another form.
    """
    if payment_id is not None and not _PAYMENT_ID.fullmatch(payment_id):
        raise ValueError("a payment id is 16 to 128 characters of A-Z, a-z, 0-9, _ and -")
    if offer.version == 1:
        return b"X-PAYMENT", _encode(
            {
                "x402Version": 1,
                "scheme": offer.raw["scheme"],
                "network": offer.raw["network"],
                "payload": payload,
            }
        )
    message: dict[str, Any] = {"x402Version": 2, "payload": payload, "accepted": offer.raw}
    if isinstance(challenge.resource, dict):
        # Optional, and servers read it into a typed model: anything but an object would sink it.
        message["resource"] = challenge.resource
    if payment_id is not None and (extension := _identifier(challenge.extensions, payment_id)):
        message["extensions"] = {_PAYMENT_IDENTIFIER: extension}
    return b"PAYMENT-SIGNATURE", _encode(message)


def takes_identifier(challenge: Challenge, offer: Offer) -> bool:
    """Whether `payment_header` sends a payment id."""
    return offer.version != 1 and _identifier(challenge.extensions, "") is not None


def _identifier(extensions: Any, payment_id: str) -> dict[str, Any] | None:
    """The server's extension object with our id added to its info, which must stay unchanged."""
    offered = extensions.get(_PAYMENT_IDENTIFIER) if isinstance(extensions, dict) else None
    if not isinstance(offered, dict):
        return None
    info = offered.get("info")
    return {**offered, "info": {**(info if isinstance(info, dict) else {}), "id": payment_id}}


def _encode(message: Mapping[str, Any]) -> bytes:
    """Standard alphabet, padded, ASCII: what the strictest official server reads."""
    return base64.b64encode(json.dumps(message, separators=(",", ":"), allow_nan=False).encode())
