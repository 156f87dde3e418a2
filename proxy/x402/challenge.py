"""What a 402 asks for: from its headers and body to a list of payable offers.

The rules, each of which exists because some live server needs it:

* The header is read first, then the body; a document with payable entries ends the search, and its
  own `x402Version` decides in which version it is answered.
* One bad entry costs that entry only; it is listed in `Challenge.dropped` with its reason.
* Names, symbols and decimals of the server are never used; the asset comes from our own table.
* An entry's raw object is kept as parsed, because a v2 server compares what we echo with it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from solders.pubkey import Pubkey

from . import networks
from .assets import Asset, find_asset
from .decoding import MAX_BYTES, DecodeError, decode_header, decode_json, header_values, plain_text

MICROS = 1_000_000
MAX_U64 = 2**64 - 1
MAX_MEMO_BYTES = 256
DEFAULT_TIMEOUT_SECONDS = 60
LONGEST_TIMEOUT_SECONDS = 3600

# The last two are older dialects of the first, seen with raw JSON in them.
_CHALLENGE_HEADERS = (b"payment-required", b"x-payment-required", b"x-payment-requirements")
# Schemes of WWW-Authenticate that ask for money in another protocol: MPP and L402.
_OTHER_PROTOCOLS = re.compile(rb"(?:^|,)\s*(payment|l402|lsat)(?:\s|,|$)", re.IGNORECASE)
_BEFORE_JSON = b"\xef\xbb\xbf \t\r\n"
_VERSIONS = {1: 1, 2: 2, "1": 1, "2": 2}
# A scheme or a flow: which of them may be paid is for policy to say, and which can, for the chains.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,40}")


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay: an entry of `accepts` that passed every check."""

    version: int
    """1 or 2, of the challenge it came in; decides the reply header."""
    scheme: str
    network: str
    """CAIP-2; `raw` keeps the server's spelling."""
    asset: Asset
    amount: int
    """Atomic units of the asset, 1 to 2^64-1."""
    pay_to: str
    max_timeout_seconds: int
    """1 to 3600; advice of the server, no promise."""
    fee_payer: str | None
    memo: str | None
    payment_flow: str
    """"authorization" (served, then settled), "upfront" (settled first: a failing server keeps the
    money), "escrow", or another word of the server's: policy says which may be paid."""
    recent_blockhash: str | None
    """The server's hint, unverified."""
    raw: Mapping[str, Any] = field(hash=False, repr=False)
    """The entry exactly as parsed: echoed, never trusted."""
    timeout_asked: int | None = None
    """`maxTimeoutSeconds` as the server wants it, however long; None if it says none."""

    @property
    def price(self) -> int:
        """Micro-USD, rounded up; every asset of our table is worth one dollar a unit."""
        unit: int = 10**self.asset.decimals
        return -(-self.amount * MICROS // unit)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An entry of `accepts` that cannot be paid, and the code of the first thing wrong with it."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """A 402 that can be paid; `offers` is never empty."""

    version: int
    offers: tuple[Offer, ...]
    dropped: tuple[Dropped, ...]
    error: str
    """The server's own words: one line, printable, at most 300 characters; "" if none."""
    resource: Any = field(hash=False, repr=False)
    extensions: Any = field(hash=False, repr=False)
    source: str
    """"header" or "body": where the document was found."""


class NotPayable(Exception):
    """This 402 cannot be paid here; it goes to the program untouched.

    `code` is not_x402, no_offers, no_payable_offer, malformed or other_protocol; `detail` is a
    sentence in our own words; `dropped` says what was wrong with each entry, if there were any.
    """

    def __init__(self, code: str, detail: str, dropped: tuple[Dropped, ...] = ()) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.dropped = dropped


def read_challenge(headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Challenge:
    """Read the headers and body of a 402 response.

    Raises NotPayable, and nothing else whatever the bytes. At most 64 KiB are looked at; a body
    that is no JSON object (the HTML page that official servers show to browsers) does not count.
    """
    refusals = []
    for candidate in _candidates(headers, body):
        if isinstance(candidate, NotPayable):
            refusals.append(candidate)
            continue
        try:
            return _read_document(candidate)
        except NotPayable as refusal:
            refusals.append(refusal)
    if refusals:
        raise min(refusals, key=lambda refusal: _TELLING.index(refusal.code))
    if any(_OTHER_PROTOCOLS.search(v) for v in header_values(headers, b"www-authenticate")):
        raise NotPayable("other_protocol", "the server asks for payment in another protocol")
    raise NotPayable("not_x402", "the answer carries no x402 challenge")


# When several documents fail, the one that got furthest explains the most.
_TELLING = ("no_payable_offer", "no_offers", "malformed")


@dataclass(frozen=True, slots=True)
class _Document:
    source: str
    version: Any
    entries: Any
    fields: Mapping[str, Any]


def _candidates(
    headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> Iterator[_Document | NotPayable]:
    """Documents in order of trust: versioned ones of header and body, then those without version.

    The second kind (a bare `accepts` array, a bare entry) is answered in the version its field
    names belong to; a server that also sends a whole document is better answered through that.
    """
    named = [(name, value) for name in _CHALLENGE_HEADERS for value in header_values(headers, name)]
    if body.lstrip(_BEFORE_JSON)[:1] not in (b"{", b"["):
        body = b"" if named or len(body) <= MAX_BYTES else body
    if sum(len(value) for _, value in named) + len(body) > MAX_BYTES:
        yield NotPayable("malformed", f"the challenge is larger than {MAX_BYTES} bytes")
        return

    unversioned = []
    unreadable = False
    for name, value in (*named, (b"", body)):
        source = "header" if name else "body"
        try:
            found = decode_header(value) if name else decode_json(value)
        except DecodeError:
            # Other protocols use the older header names and any body for what they like.
            unreadable |= name == _CHALLENGE_HEADERS[0] or (not name and b"x402Version" in value)
            continue
        if isinstance(found, dict) and "x402Version" in found:
            yield _Document(source, found["x402Version"], found.get("accepts"), found)
        elif (guess := _without_version(source, found)) is not None:
            unversioned.append(guess)
    yield from unversioned
    if unreadable:
        yield NotPayable("malformed", "the challenge cannot be decoded")


def _without_version(source: str, found: Any) -> _Document | None:
    """A challenge that lacks its version, if it is unmistakably one: some entry has a scheme."""
    fields = found if isinstance(found, dict) else {}
    entries = fields.get("accepts") if "accepts" in fields else found
    if isinstance(entries, dict):
        entries, fields = [entries], {}
    if not isinstance(entries, list):
        return None
    entries_like = [e for e in entries if isinstance(e, dict) and "scheme" in e and "payTo" in e]
    if not entries_like:
        return None
    version = 1 if all("maxAmountRequired" in e for e in entries_like) else 2
    return _Document(source, version, entries, fields)


def _read_document(document: _Document) -> Challenge:
    # By exact type: True == 1 and 1.0 == 1 in Python, and neither is a version.
    version = _VERSIONS.get(document.version) if type(document.version) in (int, str) else None
    if version is None:
        raise NotPayable("malformed", "the challenge is of an unknown x402 version")
    if not isinstance(document.entries, list):
        raise NotPayable("malformed", "the challenge has no list of offers")
    if not document.entries:
        raise NotPayable("no_offers", "the challenge offers no way to pay")
    offers = []
    dropped = []
    for index, entry in enumerate(document.entries):
        try:
            offers.append(_read_offer(version, entry))
        except _EntryError as unusable:
            dropped.append(Dropped(index, unusable.reason))
    if not offers:
        reasons = ", ".join(sorted({drop.reason for drop in dropped}))
        raise NotPayable("no_payable_offer", f"no offer can be paid: {reasons}", tuple(dropped))
    return Challenge(
        version=version,
        offers=tuple(offers),
        dropped=tuple(dropped),
        error=plain_text(document.fields.get("error")),
        resource=document.fields.get("resource"),
        extensions=document.fields.get("extensions"),
        source=document.source,
    )


class _EntryError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _read_offer(version: int, entry: Any) -> Offer:
    if not isinstance(entry, dict):
        raise _EntryError("not_an_object")
    scheme = entry.get("scheme")
    if not isinstance(scheme, str) or not _WORD.fullmatch(scheme):
        raise _EntryError("unknown_scheme")
    network = _network(entry.get("network"))
    asset_address = entry.get("asset")
    asset = find_asset(network, asset_address) if isinstance(asset_address, str) else None
    if asset is None:
        raise _EntryError("unknown_asset")
    if not _is_solana_key(entry.get("payTo")):
        raise _EntryError("bad_pay_to")
    extra = entry.get("extra")
    extra = extra if isinstance(extra, dict) else {}
    blockhash = extra.get("recentBlockhash")
    return Offer(
        version=version,
        scheme=scheme,
        network=network,
        asset=asset,
        amount=_amount(entry),
        pay_to=entry["payTo"],
        max_timeout_seconds=_timeout(entry.get("maxTimeoutSeconds")),
        fee_payer=_fee_payer(extra.get("feePayer")),
        memo=_memo(extra.get("memo")),
        payment_flow=_payment_flow(extra.get("paymentFlow")),
        recent_blockhash=blockhash if _is_solana_key(blockhash) else None,
        raw=entry,
        timeout_asked=_whole_number(entry.get("maxTimeoutSeconds")) or None,
    )


def _network(name: Any) -> str:
    if not isinstance(name, str):
        raise _EntryError("unknown_network")
    network = networks.normalise(name)
    if network is None:
        raise _EntryError("network_not_supported" if networks.is_evm(name) else "unknown_network")
    return network


def _amount(entry: Mapping[str, Any]) -> int:
    """`amount` (v2) or `maxAmountRequired` (v1), an integer or its digits; both only if equal."""
    amounts = {_whole_number(entry[key]) for key in ("amount", "maxAmountRequired") if key in entry}
    amount = amounts.pop() if len(amounts) == 1 else None
    if amount is None or not 1 <= amount <= MAX_U64:
        raise _EntryError("bad_amount")
    return amount


def _timeout(value: Any) -> int:
    seconds = _whole_number(value)
    return min(seconds, LONGEST_TIMEOUT_SECONDS) if seconds else DEFAULT_TIMEOUT_SECONDS


def _whole_number(value: Any) -> int | None:
    if type(value) is int:  # no bool
        return value if value >= 0 else None
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else None


def _fee_payer(value: Any) -> str:
    if value is None or value == "":
        raise _EntryError("missing_fee_payer")
    if not _is_solana_key(value):
        raise _EntryError("bad_fee_payer")
    return str(value)


def _memo(value: Any) -> str | None:
    """The seller's memo; official servers ignore an empty one and one that is no text."""
    if not isinstance(value, str) or not value:
        return None
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise _EntryError("bad_memo") from None
    if len(encoded) > MAX_MEMO_BYTES:
        raise _EntryError("memo_too_long")
    if b"\0" in encoded:
        # Legal on chain, but no database column of text could hold the record of it.
        raise _EntryError("bad_memo")
    return value


def _payment_flow(value: Any) -> str:
    if value is None:
        return "authorization"
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise _EntryError("payment_flow_not_supported")
    return value


def _is_solana_key(value: Any) -> bool:
    if not isinstance(value, str) or not 32 <= len(value) <= 44:
        return False
    try:
        Pubkey.from_string(value)
    except ValueError:
        return False
    return True
