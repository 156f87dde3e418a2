"""What is sealed, who is believed, and what a rotation and a migration do to it."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from proxy.ledger import Agent, Database, Directory, LedgerFault, agents, migrate, seals
from proxy.ledger.agent_keys import AgentCipher
from proxy.ledger.agents import token_hash
from proxy.vault import (
    FileKeys,
    GivenKeys,
    Keyring,
    SealError,
    Vault,
    VaultError,
    key_id_of,
    new_key,
)
from sql import migrations
from tests.peers.postgres import drop_database, fresh_database

SEALED = b"\x01" + secrets.token_bytes(64)  # in form
FORGED = "ap_" + "F" * 43
DESTROY = """
INSERT INTO agent_keys (agent_id, destroyed_at) VALUES ($1, now())
ON CONFLICT (agent_id) DO UPDATE SET sealed_key = NULL, destroyed_at = now()
"""


def given(*keys: bytes) -> Vault:
    return Vault(GivenKeys(",".join(key.hex() for key in keys)))


async def forge(database: Database, agent: Agent, sealed: bytes | None = SEALED) -> None:
    await database.execute(
        "INSERT INTO agent_tokens (token_sha256, agent_id, sealed) VALUES ($1, $2, $3)",
        token_hash(FORGED),
        agent.id,
        sealed,
    )


async def read_by(dsn: str, vault: Vault) -> Directory:
    directory = Directory(dsn, vault)
    await directory.start()
    await asyncio.sleep(0)
    await directory.close()
    return directory


async def test_a_token_is_stored_sealed_or_not_at_all(database: Database, bot: Agent) -> None:
    no_seals = (b"", secrets.token_bytes(32), SEALED[:-1], SEALED + b"\0", b"\x02" + SEALED[1:])
    for value in (None, *no_seals):
        with pytest.raises(LedgerFault, match="a token is stored sealed, or not at all"):
            await forge(database, bot, value)
        with pytest.raises(LedgerFault, match="a token is stored sealed, or not at all"):
            await database.execute("UPDATE agent_tokens SET sealed = $1", value)
    for value in no_seals:
        with pytest.raises(LedgerFault, match="a session token is stored encrypted"):
            await database.execute("UPDATE agents SET session_token_hash = $1", value)
        with pytest.raises(LedgerFault, match="a session token is stored encrypted"):
            await database.execute(
                "INSERT INTO agents (name, session_token_hash) VALUES ('x', $1)", value
            )
        with pytest.raises(LedgerFault, match="agent_keys"):
            await database.execute(
                "INSERT INTO agent_keys (agent_id, sealed_key) VALUES ($1, $2)", bot.id, value
            )


async def test_the_newest_token_stands_encrypted_with_its_agent(
    database: Database, vault: Vault, bot: Agent
) -> None:
    async def newest() -> bytes | None:
        sealed = await database.fetchval(
            "SELECT session_token_hash FROM agents WHERE id = $1", bot.id
        )
        if sealed is None:
            return None
        return (await vault.keyring()).open(sealed, b"agents.session_token_hash\0" + bot.id.bytes)

    assert await newest() is not None
    rotated = await agents.rotate_token(database, vault, "bot")
    assert await newest() == token_hash(rotated.token)
    issued = await agents.issue_token(database, vault, "bot", session="s")
    assert await newest() == token_hash(issued.token)
    await agents.remove(database, "bot")
    assert await newest() is None
    again = await agents.add(database, vault, "bot")
    assert again.agent == bot
    assert await newest() == token_hash(again.token)


async def test_a_row_that_no_autopay_made_opens_nothing(
    database: Database, dsn: str, vault: Vault, bot: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    true = await agents.issue_token(database, vault, "bot")
    bound = await agents.issue_token(database, vault, "bot", session="s")
    other = await agents.add(database, vault, "other")
    of = "SELECT sealed FROM agent_tokens WHERE token_sha256 = $1"
    seal_of_true: bytes = await database.fetchval(of, token_hash(true.token))
    newest: bytes = await database.fetchval(
        "SELECT session_token_hash FROM agents WHERE id = $1", bot.id
    )
    keyring = await vault.keyring()
    by_another_key = seals.seal_token(Keyring([new_key()]), bot.id, None, token_hash(FORGED))
    as_if_ours = b"\x01" + keyring.key_ids[0] + by_another_key[5:]
    for sealed in (seal_of_true, newest, by_another_key, as_if_ours, SEALED):
        await forge(database, bot, sealed)
        directory = await read_by(dsn, vault)
        assert directory.by_token(FORGED) is None
        assert directory.by_token(true.token) == bot
        (one,) = directory.unaccepted
        assert (one.agent, one.tokens) == ("bot", 1)
        assert await seals.unaccepted(database, vault) == (one,)
        assert f"1 token(s) of agent bot in the database are not accepted: {one.why}" in caplog.text
        await database.execute(
            "DELETE FROM agent_tokens WHERE token_sha256 = $1", token_hash(FORGED)
        )

    # Nor can a true one be given to another agent, or be loosed from its session.
    await database.execute(
        "UPDATE agent_tokens SET agent_id = $1 WHERE token_sha256 = $2",
        bot.id,
        token_hash(other.token),
    )
    await database.execute(
        "UPDATE agent_tokens SET session_id = NULL WHERE token_sha256 = $1",
        token_hash(bound.token),
    )
    await database.execute(
        "UPDATE agent_tokens SET session_id = 'elsewhere' WHERE token_sha256 = $1",
        token_hash(true.token),
    )
    directory = await read_by(dsn, vault)
    for token in (true.token, bound.token, other.token):
        assert directory.by_token(token) is None
    assert [(one.agent, one.tokens) for one in directory.unaccepted] == [("bot", 3)]


async def test_every_changed_byte_of_a_seal_is_noticed(
    database: Database, dsn: str, vault: Vault, bot: Agent
) -> None:
    new = await agents.issue_token(database, vault, "bot")
    directory = Directory(dsn, vault, poll=0.05)
    await directory.start()
    assert directory.by_token(new.token) == bot
    sealed: bytes = await database.fetchval(
        "SELECT sealed FROM agent_tokens WHERE token_sha256 = $1", token_hash(new.token)
    )
    change = "UPDATE agent_tokens SET sealed = $2 WHERE token_sha256 = $1"
    for at in (5, 16, 17, 40, 64):  # nonce, text, tag: also with one that it has known for true
        altered = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        await database.execute(change, token_hash(new.token), altered)
        await _until(directory, new.token, known=False)
        await database.execute(change, token_hash(new.token), sealed)
        await _until(directory, new.token, known=True)
    await directory.close()


async def _until(directory: Directory, token: str, *, known: bool) -> None:
    async with asyncio.timeout(20):
        while (directory.by_token(token) is not None) is not known:
            await asyncio.sleep(0.005)


async def test_a_proxy_with_another_key_says_so(
    database: Database, dsn: str, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    new = await agents.add(database, vault, "bot")
    key_id = (await vault.keyring()).key_ids[0].hex()
    directory = await read_by(dsn, given(new_key()))
    assert directory.by_token(new.token) is None
    assert f"sealed under the secret key {key_id}, which is not among those in use" in caplog.text


async def test_a_second_key_is_not_made_for_a_database_that_has_one(
    database: Database, bot: Agent, tmp_path: Path
) -> None:
    lost = Vault(FileKeys(tmp_path / "secret.key"))
    with pytest.raises(VaultError, match=r"the database is sealed under the secret key .* copy it"):
        await agents.add(database, lost, "other")
    assert not (tmp_path / "secret.key").exists()
    assert len(await agents.list_all(database)) == 1


async def test_rotation_puts_everything_under_the_new_key_and_vouches_for_nothing(
    database: Database, dsn: str, bot: Agent
) -> None:
    old, new = new_key(), new_key()
    await agents.remove(database, "bot")  # sealed under a key that is not at hand here
    first = await agents.add(database, given(old), "one")
    bound = await agents.issue_token(database, given(old), "one", session="s")
    gone = await agents.rotate_token(database, given(old), "one")
    kept = await agents.issue_token(database, given(old), "one", session="s")
    cipher = AgentCipher(database, given(old))
    text = await cipher.seal_for(first.agent.id, "https://api.example/?key=1")
    assert text is not None
    # Of the key's own making, but for another token: it is not made true.
    await forge(
        database, bot, seals.seal_token(Keyring([old]), bot.id, None, token_hash(kept.token))
    )

    done = await seals.reseal(database, Keyring([new, old]))
    assert (done.rows, done.left) == (4 + 1 + 1, 2)
    under = await seals.rows_by_key(database)
    assert under[Keyring([new]).key_ids[0]] == 6
    assert under[Keyring([old]).key_ids[0]] == 1  # the forged one

    directory = await read_by(dsn, given(new))
    assert directory.by_token(gone.token) == first.agent
    assert directory.by_token(kept.token) == Agent(first.agent.id, "one", "s")
    assert directory.by_token(bound.token) is None, "it is revoked as before"
    assert directory.by_token(FORGED) is None
    assert await AgentCipher(database, given(new)).open_for(first.agent.id, text) == (
        "https://api.example/?key=1"
    )
    assert (await seals.reseal(database, Keyring([new, old]))).rows == 0


async def test_what_changes_while_it_is_sealed_anew_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = new_key(), new_key()
    await agents.add(database, given(old), "one")
    fetch = database.fetch

    async def then_rotated(sql: str, *args: object) -> list[asyncpg.Record]:
        rows = await fetch(sql, *args)
        await agents.issue_token(database, given(old), "one")
        return rows

    monkeypatch.setattr(database, "fetch", then_rotated)
    done = await seals.reseal(database, Keyring([new, old]))
    assert (done.rows, done.left) == (1, 1)  # the token; its agent has a newer one now


async def test_an_unreadable_key_takes_no_token_that_was_known(
    database: Database, dsn: str
) -> None:
    """A proxy whose key is in its environment meets a rotation before it is started again."""
    old, new = new_key(), new_key()
    one = await agents.add(database, given(old), "one")
    directory = Directory(dsn, given(old), poll=0.05)
    await directory.start()
    await seals.reseal(database, Keyring([new, old]))
    later = await agents.issue_token(database, given(new), "one")
    async with asyncio.timeout(20):
        while not directory.unaccepted:
            await asyncio.sleep(0.01)
    assert directory.by_token(one.token) == one.agent
    assert directory.by_token(later.token) is None
    assert [entry.tokens for entry in directory.unaccepted] == [1]
    # But what was never one agent's does not become so.
    two = await agents.add(database, given(new), "two")
    await database.execute(
        "UPDATE agent_tokens SET agent_id = $1 WHERE token_sha256 = $2",
        two.agent.id,
        token_hash(one.token),
    )
    await _until(directory, one.token, known=False)
    await directory.close()


@pytest.fixture
async def older(server: str) -> AsyncIterator[str]:
    """A database from before tokens were sealed, with two agents in it."""
    dsn = await fresh_database(server)
    before = [one for one in migrations() if one.name < "0008"]
    await migrate(dsn, files=before)
    connection = await asyncpg.connect(dsn)
    for name, sessions in (("one", [None, "s"]), ("two", [None])):
        agent = await connection.fetchval(
            "WITH a AS (INSERT INTO agents (name) VALUES ($1) RETURNING id), "
            "p AS (INSERT INTO agent_policies (agent_id) SELECT id FROM a) SELECT id FROM a",
            name,
        )
        for session in sessions:
            await connection.execute(
                "INSERT INTO agent_tokens (token_sha256, agent_id, session_id) VALUES ($1, $2, $3)",
                token_hash(f"{name} {session}"),
                agent,
                session,
            )
    await connection.close()
    yield dsn
    await drop_database(server, dsn)


async def test_the_tokens_of_an_older_database_are_sealed_once(
    older: str, tmp_path: Path, vault: Vault
) -> None:
    vault = Vault(FileKeys(tmp_path / "secret.key"))
    with pytest.raises(VaultError, match="needs the secret key"):
        await migrate(older)
    await migrate(older, vault=vault)
    directory = await read_by(older, vault)
    for token, name, session in (
        ("one None", "one", None),
        ("one s", "one", "s"),
        ("two None", "two", None),
    ):
        found = directory.by_token(token)
        assert found is not None and (found.name, found.session) == (name, session)
    assert directory.unaccepted == ()

    # Never again: who can write past the trigger finds nobody to seal it.
    connection = await asyncpg.connect(older)
    try:
        assert (
            await connection.fetchval(
                "SELECT count(*) FROM agents WHERE session_token_hash IS NOT NULL"
            )
            == 2
        )
        await connection.execute("ALTER TABLE agent_tokens DISABLE TRIGGER agent_tokens_sealed")
        await connection.execute(
            "INSERT INTO agent_tokens (token_sha256, agent_id) "
            "SELECT $1, id FROM agents WHERE name = 'one'",
            token_hash(FORGED),
        )
        await connection.execute("ALTER TABLE agent_tokens ENABLE TRIGGER agent_tokens_sealed")
        await migrate(older, vault=vault)
        directory = await read_by(older, vault)
        assert directory.by_token(FORGED) is None
        (one,) = directory.unaccepted
        assert (one.agent, one.tokens, one.why) == ("one", 1, seals.NO_SEAL)
        # A row without a seal can still be ended.
        assert await connection.execute("UPDATE agent_tokens SET revoked_at = now()") == "UPDATE 4"
    finally:
        await connection.close()


async def test_the_migration_may_run_twice(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        (file,) = [one for one in migrations() if one.name == "0009_sealing"]
        await connection.execute(file.text)
    finally:
        await connection.close()


async def test_what_is_kept_of_an_agent_opens_until_its_key_is_destroyed(
    database: Database, vault: Vault, bot: Agent
) -> None:
    other = (await agents.add(database, vault, "other")).agent
    one, two = AgentCipher(database, vault), AgentCipher(database, vault)
    both = await asyncio.gather(*(cipher.seal_for(bot.id, "ä text") for cipher in (one, two)))
    assert await database.fetchval("SELECT count(*) FROM agent_keys") == 1
    for sealed in both:
        assert sealed is not None and "ä text".encode() not in sealed
        assert await one.open_for(bot.id, sealed) == "ä text"
        assert await two.open_for(bot.id, sealed) == "ä text"
        assert await one.open_for(other.id, sealed) is None, "there is no key yet"
    await one.seal_for(other.id, "")
    assert both[0] is not None
    with pytest.raises(SealError):
        await one.open_for(other.id, both[0])

    await database.execute(DESTROY, bot.id)
    for cipher in (AgentCipher(database, vault) for _ in range(2)):
        assert await cipher.open_for(bot.id, both[0]) is None
        assert await cipher.seal_for(bot.id, "more") is None
    assert await one.open_for(bot.id, both[0]) == "ä text", "it was in memory, for a while yet"


async def test_a_destroyed_key_does_not_come_back(
    database: Database, vault: Vault, bot: Agent
) -> None:
    cipher = AgentCipher(database, vault)
    await cipher.seal_for(bot.id, "text")
    kept: bytes = await database.fetchval("SELECT sealed_key FROM agent_keys")
    assert key_id_of(kept) == (await vault.keyring()).key_ids[0]
    with pytest.raises(LedgerFault, match="destroyed, not deleted"):
        await database.execute("DELETE FROM agent_keys")
    await database.execute(DESTROY, bot.id)
    for change in ("sealed_key = $1, destroyed_at = NULL", "sealed_key = $1"):
        with pytest.raises(LedgerFault, match="come back once destroyed"):
            await database.execute(f"UPDATE agent_keys SET {change}", kept)
    with pytest.raises(LedgerFault, match="destroyed, not deleted"):
        await database.execute("DELETE FROM agent_keys")


async def test_an_agent_that_never_had_a_key_gets_none_after_it_was_destroyed(
    database: Database, vault: Vault, bot: Agent
) -> None:
    await database.execute(DESTROY, bot.id)
    assert await AgentCipher(database, vault).seal_for(bot.id, "text") is None


async def test_a_cipher_survives_a_rotation(database: Database, bot: Agent, tmp_path: Path) -> None:
    file = FileKeys(tmp_path / "secret.key")
    old = new_key()
    file.path.write_bytes(base64.b64encode(old))
    file.path.chmod(0o600)
    vault = Vault(file)
    sealed = await AgentCipher(database, vault).seal_for(bot.id, "text")
    assert sealed is not None
    await file.put_first(new_key())
    await seals.reseal(database, await file.read())
    await file.drop(Keyring([old]).key_ids)
    assert await AgentCipher(database, vault).open_for(bot.id, sealed) == "text"


async def test_the_memory_of_keys_is_bounded(
    database: Database, vault: Vault, bot: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.ledger.agent_keys.KEPT", 2)
    cipher = AgentCipher(database, vault)
    ids: list[UUID] = [bot.id]
    ids += [(await agents.add(database, vault, f"a{n}")).agent.id for n in range(3)]
    for agent_id in ids:
        await cipher.seal_for(agent_id, "text")
    assert len(cipher._known) == 2
