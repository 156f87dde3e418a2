"""Transactions fetched in full, several at a time, the likeliest first."""

import asyncio
import logging
from collections.abc import Sequence

from proxy.chains import Unpayable

from .fate import Level, Seen
from .node import Node

log = logging.getLogger(__name__)

AT_ONCE = 8
# Public nodes count calls; what is left over is fetched in the next round.
MOST = 500


async def read(
    node: Node, account: str, signatures: Sequence[str], level: Level
) -> dict[str, Seen]:
    """Those of the first 500 that the node has and that could be read; never raises Unpayable."""
    permits = asyncio.Semaphore(AT_ONCE)

    async def one(signature: str) -> Seen | None:
        async with permits:
            try:
                return await node.transaction(signature, account, level)
            except Unpayable as error:
                log.warning("the transaction %s could not be read: %s", signature, error.detail)
                return None

    found = await asyncio.gather(*(one(signature) for signature in signatures[:MOST]))
    return {seen.signature: seen for seen in found if seen is not None}
