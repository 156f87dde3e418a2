"""Receipts as CSV (RFC 4180), for people and their spreadsheets. It proves nothing by itself."""

import csv
import io
from collections.abc import AsyncIterator, Iterable
from typing import Any

from policies import format_usd
from proxy.receipts.canonical import read_canonical
from proxy.receipts.export import Beside
from proxy.receipts.link import Link
from proxy.x402.assets import find_asset

_OF_CANONICAL = (
    *("method", "endpoint", "provider", "symbol", "network", "asset", "pay_to", "payer"),
    *("transaction", "claimed_transaction", "source", "claimed", "success", "http_status"),
)
_OF_DELIVERY = (
    *("content_type", "size_bytes", "response_hash", "first_byte_ms", "total_ms", "schema_ok"),
    *("unread", "paid_failed", "fault"),
)
HEADINGS = (
    *("recorded_at", "kind", "agent", "price_usd", "amount", "amount_atomic", *_OF_CANONICAL),
    *_OF_DELIVERY,
    *("receipt_id", "agent_id", "seq", "sha256", "signed_by"),
)
# What spreadsheets take for the beginning of a formula.
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    *"\uff1d\uff0b\uff0d\uff20",
)  # the last: full width


async def csv_lines(links: AsyncIterator[Beside], names: dict[str, str]) -> AsyncIterator[str]:
    """The whole file. `names`: of agents, by their ids."""
    yield csv_line(HEADINGS)
    async for link, delivery in links:
        yield csv_line(_row(link, delivery or {}, names))


def _row(link: Link, delivery: dict[str, Any], names: dict[str, str]) -> list[Any]:
    content = read_canonical(link.canonical)
    asset = find_asset(content["network"], content["asset"])
    amount = content["amount_atomic"]
    return [
        content["recorded_at"],
        link.kind,
        names.get(str(link.agent_id), ""),
        format_usd(int(content["price_micros"])),
        asset.format(int(amount)) if asset is not None else "",
        amount,
        *(content.get(name) for name in _OF_CANONICAL),
        *(delivery.get(name) for name in _OF_DELIVERY),
        link.receipt_id,
        link.agent_id,
        link.seq,
        link.sha256.hex(),
        link.key_id.hex() if link.key_id is not None else "",
    ]


def csv_line(cells: Iterable[Any]) -> str:
    """With its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([_cell(cell) for cell in cells])
    return text.getvalue()


def _cell(value: Any) -> str:
    """URLs and transactions are what programs and providers said: no cell may begin a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value).replace("\0", "�")
    return f"'{text}" if text.startswith(_FORMULA) else text
