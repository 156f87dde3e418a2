"""What a proof says, as lines for people and as members for programs."""

from collections import Counter
from typing import Any

from proxy.cli.render import say
from proxy.receipts import on_chain
from proxy.receipts.on_chain import Checked, OnChain
from proxy.receipts.verify import Chain, Verdict


def chain_line(verdict: Verdict, chain: Chain) -> str:
    """How far one chain is proved."""
    if verdict.stands(chain):
        part = f"links {chain.said_first} to {chain.said_last}"
        if not chain.said_last:
            part = "no links"
        elif chain.from_the_start and chain.to_the_head:
            part = "whole"
        head = chain.said_head.hex()[:16]
        return f"chain  {chain.agent}: {part}, of {chain.length}; head {head}…"
    said = f"links {chain.said_first} to {chain.said_last}, of {chain.length}"
    if not chain.proved_to:
        return f"chain  {chain.agent}: NOT PROVED, none of its links ({said}, says the header)"
    part = f"proved up to link {chain.proved_to}"
    if chain.first > 1:
        part = f"proved from link {chain.first} to link {chain.proved_to}"
    return f"chain  {chain.agent}: {part}; NOT PROVED behind it ({said}, says the header)"


def chain_fields(verdict: Verdict, chain: Chain) -> dict[str, Any]:
    return {
        "agent_id": str(chain.agent_id),
        "agent": chain.agent,
        "first": chain.said_first,
        "last": chain.said_last,
        "length": chain.length,
        "head": chain.said_head.hex(),
        "proved": verdict.stands(chain),
        "proved_from": chain.first if chain.proved_to else None,
        "proved_to": chain.proved_to or None,
    }


def tell_chain(seen: Checked) -> None:
    for one in seen.receipts:
        if one.verdict != "landed":
            mark = {True: "good ", False: "WRONG", None: "open "}[on_chain.is_good(one.verdict)]
            named = one.transaction or "(none named)"
            if one.found is not None:
                named += f", found {one.found}"
            detail = f" ({one.detail})" if one.detail else ""
            words = on_chain.words(one.verdict)
            say(harmless(f"{mark}  receipt {one.receipt_id}, {named}: {words}{detail}"))
    counts = Counter(on_chain.is_good(one.verdict) for one in seen.receipts)
    rest = [f"{counts[False]} are wrong"] if counts[False] else []
    rest += [f"{counts[None]} are open: neither shown nor refuted"] if counts[None] else []
    as_said = f"ON THE CHAIN: {counts[True]} of {len(seen.receipts)} receipts, as they say"
    say("; ".join([as_said, *rest]))


def rpc_fields(seen: Checked) -> dict[str, Any]:
    """What RPCs have shown of the receipts."""
    return {"chain": list(map(_seen_fields, seen.receipts)), "searches": _search_fields(seen)}


def _seen_fields(one: OnChain) -> dict[str, Any]:
    return {
        "receipt_id": str(one.receipt_id),
        "line": one.line,
        "transaction": one.transaction,
        "found": one.found,
        "verdict": one.verdict,
        "detail": one.detail,
        "words": on_chain.words(one.verdict),
        "good": on_chain.is_good(one.verdict),
    }


def _search_fields(seen: Checked) -> list[dict[str, Any]]:
    """Times are Unix seconds."""
    return [
        {
            "network": account.network,
            "account": account.address,
            "listed": search.listed,
            "read": search.read,
            "since": search.since,
            "to_the_first": search.to_the_first,
            "until": search.until,
            "found": len(search.found),
            "absent": len(search.absent),
            "not_shown": len(search.open),
        }
        for account, search in seen.searches.items()
    ]


def harmless(text: str) -> str:
    """A file that is to be proved may have been written by anyone."""
    return "".join(char if char.isprintable() else "�" for char in text)
