"""`autopay receipts verify FILE --payment`: one receipt, as it stands in its chain."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from proxy.cli.errors import CommandError
from proxy.cli.proof_words import chain_fields, chain_line, harmless, rpc_fields, tell_chain
from proxy.cli.render import say, table
from proxy.receipts import one
from proxy.receipts.link import RECEIPT, REVERSAL
from proxy.receipts.on_chain import Checked
from proxy.receipts.verify import Paid, Standing, Unread, Verdict
from proxy.x402.assets import find_asset

# Of a receipt's content, what tells which payment it is.
_MEMBERS = (
    *("provider", "method", "endpoint", "amount_atomic", "price_micros", "symbol", "asset"),
    *("network", "pay_to", "payer", "client_signature", "claimed_transaction", "recorded_at"),
)


def tell_one(
    file: str, verdict: Verdict, asked: UUID | str, seen: Checked | None, *, as_json: bool
) -> bool:
    """Shows it. Whether it is proved, and all of the chain that it stands in. `seen`: what the
    chain says of it, if that was asked. Raises CommandError if the file has nothing of it."""
    found, unread = one.find(verdict, asked), one.unread(verdict, asked)
    if not found and not unread:
        because = "" if verdict.chains else ", whose header is wrong: see verify without --payment"
        raise CommandError(f"{file}: there is no payment {asked} in this file{because}")
    proved = not unread and all(_proved(verdict, paid) for paid in found)
    if as_json:
        fields = {
            "proved": proved,
            "payment": str(asked),
            "receipts": [_fields(verdict, paid) for paid in found],
            "problems": [{"line": each.problem.line, "what": each.problem.what} for each in unread],
            "keys_pinned": verdict.pinned,
        }
        say(json.dumps(fields | (rpc_fields(seen) if seen else {})))
        return proved
    for paid in found:
        say(
            table(("RECEIPT", str(paid.receipt_id)), [list(fact) for fact in _facts(verdict, paid)])
        )
        say(harmless(chain_line(verdict, one.chain_of(verdict, paid))))
    for each in unread:
        say(harmless(f"WRONG  {each.problem} ({_named(each)})"))
    if verdict.signed and not verdict.pinned:
        say("The keys are the file's own word: name those that you know with --key.")
    say("PROVED" if proved else "NOT PROVED")
    if seen:
        tell_chain(seen)
    return proved


def _proved(verdict: Verdict, paid: Paid) -> bool:
    return not one.doubts(verdict, paid) and verdict.stands(one.chain_of(verdict, paid))


def _facts(verdict: Verdict, paid: Paid) -> Iterator[tuple[str, str]]:
    content, chain = paid.content, one.chain_of(verdict, paid)
    first, *later = paid.links
    yield "agent", chain.agent
    if content.get("kind") == RECEIPT:
        yield "provider", str(content.get("provider"))
        yield "for", f"{content.get('method')} {content.get('endpoint')}"
    yield "paid", _amount(paid)
    if content.get("kind") == RECEIPT:
        yield "to", f"{content.get('pay_to')} on {content.get('network')}"
        yield "from", str(content.get("payer") or "(not known)")
    yield "when", f"{content.get('recorded_at')} (when it was booked)"
    yield "transaction", first.transaction or "(none booked)"
    claimed = content.get("claimed_transaction")
    if claimed not in (None, first.transaction):
        yield "claimed", f"{claimed}, says the provider"
    yield "signature", f"{content.get('client_signature') or '(not known)'} (ours)"
    yield "link", f"{_place(first)}, {_signed(first)}"
    for link in later:
        yield "later", f"{_place(link)}, {_signed(link)}: {_meaning(link)}"
    if not later:
        to = "the end of this chain in the file" if verdict.stands(chain) else "where it is proved"
        yield "later", f"nothing was learnt of it, up to {to}"
    doubts = one.doubts(verdict, paid)
    for doubt in doubts:
        yield "NOT PROVED", doubt
    if not doubts:
        yield "proved", f"its chain is, up to link {chain.proved_to}"


def _amount(paid: Paid) -> str:
    content = paid.content
    asset = find_asset(str(content.get("network")), str(content.get("asset")))
    amount = int(content["amount_atomic"])
    whole = "" if asset is None else f"{asset.format(amount)} "
    return f"{whole}{content.get('symbol')} ({amount} atomic units of {content.get('asset')})"


def _place(link: Standing) -> str:
    return f"{link.kind}, link {link.seq} of its chain, line {link.line} of the file"


def _signed(link: Standing) -> str:
    return f"signed by {link.key_id.hex()[:16]}…" if link.key_id else "without a good signature"


def _meaning(link: Standing) -> str:
    if link.kind == REVERSAL:
        why = f"transaction {link.transaction} failed" if link.transaction else "it never landed"
        return f"taken back at {link.recorded_at}: {why}, and the money is free again"
    return f"put right at {link.recorded_at}: it was paid by transaction {link.transaction}"


def _named(unread: Unread) -> str:
    link = unread.link
    return f"link {link.seq}, which names this payment, or says that it is {link.receipt_id}"


def _fields(verdict: Verdict, paid: Paid) -> dict[str, Any]:
    chain, doubts = one.chain_of(verdict, paid), one.doubts(verdict, paid)
    return {
        "receipt_id": str(paid.receipt_id),
        "agent": chain.agent,
        **{name: paid.content.get(name) for name in _MEMBERS},
        "transaction": paid.links[0].transaction,
        "reversed": paid.reversed,
        "proved": not doubts,
        "why_not": doubts,
        "links": [
            {
                "seq": link.seq,
                "line": link.line,
                "kind": link.kind,
                "recorded_at": link.recorded_at,
                "transaction": link.transaction,
                "signed_by": link.key_id.hex() if link.key_id else None,
            }
            for link in paid.links
        ],
        "chain": chain_fields(verdict, chain),
    }
