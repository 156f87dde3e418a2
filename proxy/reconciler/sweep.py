"""One RPC's whole account of a token account: what proves that a payment is not there."""

from collections.abc import Mapping

from proxy.chains.solana.fate import Balance, Seen, Sweep
from proxy.chains.solana.node import PAGE, Node
from proxy.chains.solana.reader import read
from proxy.chains.solana.scan import scan


async def sweep(
    node: Node, account: str, after_slot: int, known: Mapping[str, Seen]
) -> Sweep | None:
    """Everything later than `after_slot`, at the finalized end of this node's chain. None: it says
    that there is no such account.

    `known` are transactions read before, which it must show again. Raises Unpayable.
    """
    # In this order: whatever the height closes is in the balance, and the scan has it too.
    tip = await node.finalized()
    balance = await node.balance(account, tip.slot)
    if balance is None:
        return None
    final = [each for each in known.values() if each.level == "finalized"]
    older = [each for each in final if each.slot <= after_slot]
    found = await scan(
        node,
        account,
        "finalized",
        min_slot=balance.slot,
        after_slot=after_slot,
        until=max(older, key=lambda each: each.slot).signature if older else None,
        known=[each.signature for each in final if after_slot < each.slot <= balance.slot],
    )
    wanted = [entry.signature for entry in found.entries if entry.slot > after_slot]
    have = {each.signature: each for each in final}
    have |= await read(node, account, [s for s in wanted if s not in have], "finalized")
    return Sweep(
        rpc=node.name,
        height=tip.height,
        balance=balance,
        after_slot=after_slot,
        complete=found.complete and all(signature in have for signature in wanted),
        transactions=[have[signature] for signature in wanted if signature in have],
    )


async def opening(node: Node, account: str, slot: int) -> Balance | None:
    """What the account held at `slot` or before, by its history: after the newest older transaction
    that was alone in its slot; nothing, before the account's very first one. Raises Unpayable.
    """
    tip = await node.finalized()
    found = await scan(node, account, "finalized", min_slot=tip.slot, after_slot=slot)
    older = [entry for entry in found.entries if entry.slot <= slot]
    slots = [entry.slot for entry in older]
    if len(found.entries) >= PAGE and not found.to_the_end:
        older = older[:-1]  # the page may have been cut in the middle of its slot
    for entry in older:
        if slots.count(entry.slot) == 1:  # of several in a slot it is not known which was the last
            seen = (await read(node, account, [entry.signature], "finalized")).get(entry.signature)
            return None if seen is None else Balance(entry.slot, seen.left)
    return Balance(0, 0) if found.to_the_end and not older else None
