"""Signs what is linked and not signed yet, a moment behind the payments, for as long as the proxy
runs, and from where the last one ended.

Any number of proxies may do so on one database, each with its own key: who is first has signed it.
What is not signed is what is behind the last signature of its chain. All that is remembered here is
which chains have not grown since the last look, so that a look at thousands of them costs little.
"""

import asyncio
import logging
from uuid import UUID

from proxy.ledger import Database, LedgerError
from proxy.receipts.keys import LINK, ReceiptKey
from proxy.receipts.link import NOTHING
from proxy.tasks import end

log = logging.getLogger(__name__)

SECONDS = 1.0
BATCH = 500

_REGISTER = """
INSERT INTO receipt_keys (key_id, public_key) VALUES ($1, $2) ON CONFLICT DO NOTHING
"""
_CHAINS = "SELECT agent_id, length FROM receipt_chains WHERE length > 0"
_UNSIGNED = """
SELECT l.agent_id, l.seq, l.sha256, l.previous,
       sha256(convert_to(l.canonical, 'UTF8')) AS hash, before.sha256 AS head
FROM receipt_chains c
CROSS JOIN LATERAL (
    SELECT coalesce(max(s.seq), 0) AS seq FROM receipt_signatures s WHERE s.agent_id = c.agent_id
) signed
CROSS JOIN LATERAL (
    SELECT * FROM receipt_links l WHERE l.agent_id = c.agent_id AND l.seq > signed.seq
    ORDER BY l.seq LIMIT $1
) l
LEFT JOIN receipt_links before ON before.agent_id = l.agent_id AND before.seq = l.seq - 1
WHERE c.agent_id = ANY ($2::uuid[])
LIMIT $1
"""
_SIGN = """
INSERT INTO receipt_signatures (agent_id, seq, key_id, signature)
SELECT n.agent_id, n.seq, $3, n.signature
FROM unnest($1::uuid[], $2::bigint[], $4::bytea[]) AS n (agent_id, seq, signature)
ON CONFLICT DO NOTHING
"""
_ALARM = """
SELECT note_event($1, 'ALARM', NULL, jsonb_build_object('code', 'receipt_chain_broken',
    'seq', $2::bigint), 'ERROR')
"""


class ReceiptSigner:
    """`start()` it with the proxy. `signed` counts what this one has signed."""

    def __init__(self, database: Database, key: ReceiptKey, *, every: float = SECONDS) -> None:
        self._database = database
        self._key = key
        self._every = every
        self._registered = False
        self._broken: set[UUID] = set()
        self._done: dict[UUID, int] = {}
        self._task: asyncio.Task[None] | None = None
        self.signed = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="receipt signer")

    async def close(self) -> None:
        """Signs the last ones: a proxy that serves one program may be the last for a long time.
        What is left by a failure is signed by whoever starts next."""
        if self._task is not None:
            await end(self._task)
            try:
                await self._all()
            except LedgerError as error:
                log.warning("the last receipts are not signed: %s", error)

    async def _work(self) -> None:
        failing = False
        while True:
            try:
                await self._all()
                failing = False
            except LedgerError as error:
                if not failing:  # once: an outage is told of by those whom it keeps from paying
                    log.warning("receipts are not signed for now: %s", error)
                failing = True
            await asyncio.sleep(self._every)

    async def _all(self) -> None:
        while await self.sign() == BATCH:
            pass

    async def sign(self) -> int:
        """Signs one batch; how many links it looked at. Raises LedgerError."""
        if not self._registered:
            await self._database.execute(_REGISTER, self._key.key_id, self._key.public)
            self._registered = True
        grown = {
            row["agent_id"]: row["length"]
            for row in await self._database.fetch(_CHAINS)
            if row["length"] != self._done.get(row["agent_id"])
            and row["agent_id"] not in self._broken
        }
        if not grown:
            return 0
        rows = await self._database.fetch(_UNSIGNED, BATCH, list(grown))
        agents: list[UUID] = []
        seqs: list[int] = []
        signatures: list[bytes] = []
        for row in rows:
            agent, seq = row["agent_id"], row["seq"]
            if agent in self._broken:
                continue
            # A signature says that the link fits its chain, so that is looked at.
            head = row["head"] if seq > 1 else NOTHING
            if row["hash"] != row["sha256"] or row["previous"] != head:
                await self._alarm(agent, seq)
                continue
            agents.append(agent)
            seqs.append(seq)
            signatures.append(self._key.sign(LINK, row["sha256"]))
        if agents:
            await self._database.execute(_SIGN, agents, seqs, self._key.key_id, signatures)
            self.signed += len(agents)
        if len(rows) < BATCH:
            self._done |= grown
        return len(rows)

    async def _alarm(self, agent: UUID, seq: int) -> None:
        """Nothing of this chain is signed any more by this process."""
        self._broken.add(agent)
        log.error(
            "the chain of receipts of agent %s is broken at %d: somebody has changed the database"
            " by hand; nothing more of it is signed",
            agent,
            seq,
        )
        await self._database.execute(_ALARM, agent, seq)
