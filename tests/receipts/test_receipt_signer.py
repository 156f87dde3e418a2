"""Links are signed soon after they are written, by whoever is there, and never twice."""

import asyncio
import os
from pathlib import Path
from stat import S_IMODE
from uuid import UUID

import pytest

from proxy.ledger import Agent, Database, LedgerUnavailable
from proxy.receipts.keys import LINK, ReceiptKey, ReceiptKeyError, is_signed, key_id_of
from proxy.receipts.signer import BATCH, ReceiptSigner
from proxy.receipts.verify import verify
from tests.receipts.conftest import Export, Pay

SIGNED = "SELECT key_id, count(*) FROM receipt_signatures GROUP BY key_id"


async def test_two_replicas_share_the_work(
    dsn: str, database: Database, pay: Pay, key: ReceiptKey, export: Export, tmp_path: Path
) -> None:
    other = ReceiptKey.load_or_make(tmp_path / "other.key")
    writer = await Database.open(dsn, role="autopay_writer")
    signers = [ReceiptSigner(writer, one, every=0.01) for one in (key, other)]
    for signer in signers:
        signer.start()
    for _ in range(20):
        await pay()
    async with asyncio.timeout(20):
        while await database.fetchval("SELECT count(*) FROM receipt_signatures") < 20:
            await asyncio.sleep(0.01)
    for signer in signers:
        await signer.close()
    await writer.close()
    assert {row["key_id"] for row in await database.fetch(SIGNED)} <= {key.key_id, other.key_id}
    verdict = verify(await export(), trusted=[key.key_id, other.key_id])
    assert (verdict.proved, verdict.signed.total()) == (True, 20)


async def test_at_the_same_moment_the_first_one_has_signed(
    dsn: str, database: Database, pay: Pay, signer: ReceiptSigner, key: ReceiptKey,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    theirs = await Database.open(dsn)
    other = ReceiptSigner(theirs, ReceiptKey.load_or_make(tmp_path / "other.key"))
    execute = theirs.execute

    async def late(sql: str, *args: object) -> str:
        if "INTO receipt_signatures" in sql:  # it has seen what is not signed, and is about to
            assert await signer.sign() == 1
        return await execute(sql, *args)

    monkeypatch.setattr(theirs, "execute", late)
    await pay()
    assert await other.sign() == 1
    await theirs.close()
    (row,) = await database.fetch(SIGNED)
    assert (row["key_id"], row["count"]) == (key.key_id, 1)


async def test_the_last_ones_are_signed_at_the_end(
    database: Database, pay: Pay, key: ReceiptKey
) -> None:
    signer = ReceiptSigner(database, key, every=60)
    signer.start()
    await asyncio.sleep(0.1)  # its first look is over
    await pay()
    assert signer.signed == 0
    await signer.close()
    assert signer.signed == 1


async def test_an_outage_is_waited_out(
    database: Database, pay: Pay, key: ReceiptKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, fetch, calls = ReceiptSigner(database, key, every=0.01), database.fetch, 0

    async def failing(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise LedgerUnavailable("away", may_have_happened=False)
        return await fetch(*args)  # type: ignore[arg-type]

    await pay()
    monkeypatch.setattr(database, "fetch", failing)
    signer.start()
    async with asyncio.timeout(20):
        while signer.signed == 0:
            await asyncio.sleep(0.01)
    await signer.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE receipt_links SET previous = sha256('x') WHERE seq = 2 AND agent_id = '{}'",
        "DELETE FROM receipt_links WHERE seq = 2 AND agent_id = '{}'",
    ],
)
async def test_a_broken_chain_is_not_signed(
    database: Database, pay: Pay, bot: Agent, second: Agent, signer: ReceiptSigner,
    change: str,
) -> None:  # fmt: skip
    for agent in (bot, second):
        for _ in range(3):
            await pay(agent_id=agent.id)
    await database.execute("ALTER TABLE receipt_links DISABLE TRIGGER USER")
    await database.execute(change.format(bot.id))
    for _ in range(3):
        await signer.sign()
    rows = await database.fetch("SELECT agent_id, seq FROM receipt_signatures ORDER BY seq")
    assert [row["seq"] for row in rows if row["agent_id"] == second.id] == [1, 2, 3]
    assert 2 not in [row["seq"] for row in rows if row["agent_id"] == bot.id]
    alarms = await database.fetch(
        "SELECT agent_id, details::text FROM audit_events WHERE event_type = 'ALARM'"
    )
    assert [alarm["agent_id"] for alarm in alarms] == [bot.id]
    assert "receipt_chain_broken" in alarms[0]["details"]


async def test_more_than_one_batch(database: Database, pay: Pay, signer: ReceiptSigner) -> None:
    await pay()
    await database.execute(
        "DO $$ DECLARE c receipt_chains; l x402_payment_logs; BEGIN"
        " ALTER TABLE receipt_links DROP CONSTRAINT receipt_links_receipt_id_kind_key;"
        " SELECT * INTO l FROM x402_payment_logs;"
        " SELECT * INTO c FROM receipt_chains WHERE agent_id = l.agent_id;"
        f" FOR i IN 1..{BATCH + 10} LOOP c := add_link(c, 'reversal', l, now(), '{{}}'); END LOOP;"
        " UPDATE receipt_chains SET length = c.length, head = c.head WHERE agent_id = c.agent_id;"
        " END $$"
    )
    assert [await signer.sign() for _ in range(3)] == [BATCH, 11, 0]


def test_the_key(tmp_path: Path) -> None:
    path = tmp_path / "data" / "receipts.key"
    assert ReceiptKey.load(path) is None
    key = ReceiptKey.load_or_make(path)
    assert S_IMODE(path.stat().st_mode) == 0o600
    assert ReceiptKey.load_or_make(path).key_id == key.key_id == key_id_of(key.public)
    assert repr(key) == f"ReceiptKey({key.key_id.hex()})"
    digest = bytes(32)
    assert is_signed(key.public, LINK, digest, key.sign(LINK, digest))
    assert not is_signed(key.public, b"other\0", digest, key.sign(LINK, digest))
    assert not is_signed(b"short", LINK, digest, key.sign(LINK, digest))
    path.chmod(0o640)
    with pytest.raises(ReceiptKeyError, match="can be read by others"):
        ReceiptKey.load(path)
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(ReceiptKeyError, match="no Ed25519 key"):
        ReceiptKey.load(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ReceiptKeyError, match="not a regular file"):
        ReceiptKey.load(path)


async def test_what_the_proxy_may_do_there(dsn: str, pay: Pay, bot: Agent) -> None:
    """It signs; it rewrites nothing, and never sees the salt."""
    await pay()
    writer = await Database.open(dsn, role="autopay_writer")
    for statement in (
        "INSERT INTO receipt_links SELECT * FROM receipt_links",
        "UPDATE receipt_links SET canonical = ''",
        "UPDATE receipt_chains SET length = 0",
        "DELETE FROM receipt_signatures",
        "SELECT salt FROM receipt_chains",
        "SELECT link_receipts()",
    ):
        with pytest.raises(Exception, match="permission denied"):
            await writer.execute(statement)
    await writer.close()
    assert isinstance(bot.id, UUID)
