"""What of a request says who asks: whatever only one caller may be shown an answer for."""

import hashlib
import re

from proxy.wire.parsers import RawHeaders

# Sellers name them as they like. One too many costs a purchase, one too few shows somebody what is
# another's.
_CREDENTIAL = re.compile(rb"key|token|auth|secret|session|cookie|credential|sign-in")
_NO_CREDENTIAL = frozenset((b"idempotency-key", b"sec-websocket-key"))
_OURS = b"autopay-"


def is_credential(name: bytes) -> bool:
    """Whether a request's field of this name, in whatever case, says who asks."""
    key = name.lower()
    if key in _NO_CREDENTIAL or key.startswith(_OURS):
        return False
    return _CREDENTIAL.search(key) is not None


def credential_of(fields: RawHeaders) -> bytes:
    """Equal for requests of which the same is said: SHA-256, since nobody's words are kept; b"" if
    nothing is said."""
    told = sorted((name.lower(), value) for name, value in fields if is_credential(name))
    return hashlib.sha256(b"\n".join(b"%b:%b" % field for field in told)).digest() if told else b""
