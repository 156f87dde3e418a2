"""One payment, looked up in an export that was read: what is there of it, and whether that is
proved."""

from collections.abc import Callable
from uuid import UUID

from proxy.receipts.link import RECEIPT
from proxy.receipts.verify import Chain, Paid, Standing, Unread, Verdict


def find(verdict: Verdict, asked: UUID | str) -> list[Paid]:
    """By the payment's id, or by a signature: ours, or that of a transaction which its links name.
    A provider's claim counts only where no receipt is of that transaction."""
    if isinstance(asked, UUID):
        return [paid for paid in verdict.paid if paid.receipt_id == asked]
    ways: tuple[Callable[[Paid], bool], ...] = (
        lambda paid: (
            paid.content.get("client_signature") == asked
            or any(link.transaction == asked for link in paid.links)
        ),
        lambda paid: paid.content.get("claimed_transaction") == asked,
    )
    return next(filter(None, ([paid for paid in verdict.paid if way(paid)] for way in ways)), [])


def unread(verdict: Verdict, asked: UUID | str) -> list[Unread]:
    """Links that name it, and are links of no payment."""
    return [
        one
        for one in verdict.unread
        if one.link.receipt_id == asked or str(asked) in one.link.canonical
    ]


def chain_of(verdict: Verdict, paid: Paid) -> Chain:
    """The one that it stands in."""
    return verdict.chains[paid.links[0].agent_id]


def doubts(verdict: Verdict, paid: Paid) -> list[str]:
    """Why its links are not proved; none: they are. Of the rest of its chain nothing is said."""
    found = []
    if paid.content.get("kind") != RECEIPT:
        found.append("its receipt is older than this file, which has what was learnt later alone")
    for link in paid.links:
        found += _doubts(verdict, chain_of(verdict, paid), link)
    return list(dict.fromkeys(found))


def _doubts(verdict: Verdict, chain: Chain, link: Standing) -> list[str]:
    if link.seq <= chain.proved_to:
        return []
    if own := [str(problem) for problem in verdict.problems if problem.line == link.line]:
        return own
    if link.key_id is None:
        return [f"link {link.seq} is not signed"]
    if chain.wrong is not None:
        return [f"link {link.seq} is not in the part that is proved: {chain.wrong}"]
    return [f"link {link.seq} is behind one that is not signed"]
