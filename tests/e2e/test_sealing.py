"""Who has the database but not the secret key gets nothing at the socket; and a rotation takes
nothing from anybody."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from proxy.ledger.agents import token_hash
from proxy.localnet import Localnet
from proxy.service import Service
from proxy.vault import FileKeys, VaultError
from tests.cli.conftest import Autopay
from tests.e2e.house import House, house, until
from tests.e2e.seller import Seller

FORGED = "ap_" + "F" * 43
INSERT = """
INSERT INTO agent_tokens (token_sha256, agent_id, sealed)
SELECT $1, a.id, coalesce($2, t.sealed) FROM agents a JOIN agent_tokens t ON t.agent_id = a.id
WHERE a.name = $3
"""


@pytest.mark.parametrize("sealed", [b"\x01" + bytes(64), None], ids=["in form", "a copy"])
async def test_a_forged_token_is_any_wrong_token(
    home: House, seller: Seller, sealed: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """In form, or the copy of a true one: by the database's owner, who may write anything."""
    host, port = home.service.proxy_address
    wrong = await home.ask(seller.url, proxy=f"http://{home.agent}:ap_wrong@{host}:{port}")
    connection = await asyncpg.connect(home.service.store.owner_dsn)
    await connection.execute(INSERT, token_hash(FORGED), sealed, home.agent)
    await connection.close()
    await until(lambda: bool(home.service.directory.unaccepted))

    answer = await home.ask(seller.url, proxy=f"http://{home.agent}:{FORGED}@{host}:{port}")
    assert (answer.status, answer.body) == (407, wrong.body)
    mounted = await home.ask(f"{home.mounts}/~{FORGED}/x", proxy=None)
    assert mounted.status == 401
    assert seller.seen == []
    warning = f"1 token(s) of agent {home.agent} in the database are not accepted"
    await until(lambda: warning in caplog.text)
    assert FORGED not in caplog.text
    assert (await home.ask(seller.url)).status == 200


async def test_a_rotation_while_programs_are_served(
    net: Localnet, dsn: str, tmp_path: Path, seller: Seller
) -> None:
    async with house(net, dsn, tmp_path) as home:
        autopay = Autopay(tmp_path, {"DATABASE_URL": dsn}, inside=True)
        autopay.config.touch()
        file = FileKeys(tmp_path / "secret.key")
        first = await file.read()
        statuses: list[int] = []

        async def asking() -> None:
            while True:
                statuses.append((await home.ask(seller.url)).status)

        task = asyncio.create_task(asking())
        for _ in range(2):
            said = await asyncio.to_thread(autopay.well, "secret", "rotate")
        keyring = await file.read()
        assert len(keyring.keys) == 3 and keyring.keys[2] == first.keys[0]
        assert f"The current key is {keyring.key_ids[0].hex()}; 2 values were put under" in said
        # A token from a process that has the new key only: this one must have read it by then.
        handed = await asyncio.to_thread(autopay.well, "agent", "add", "late")
        token = handed.partition("http://late:")[2].partition("@")[0]
        await until(lambda: home.service.directory.by_token(token) is not None)
        dropped = await asyncio.to_thread(autopay.well, "secret", "drop-old")
        assert dropped.count("is gone") == 2
        before = len(statuses)
        # What the running proxy seals from here on is under the new key.
        assert (await home.service.store.vault.keyring()).keys[0] == keyring.keys[0]
        await until(lambda: len(statuses) > before + 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert set(statuses) == {200}
        assert home.service.directory.unaccepted == ()
        assert (await file.read()).keys == keyring.keys[:1]
    again = Service(home.service.settings)
    await again.start()
    try:
        for one in (home.token, token):
            assert again.directory.by_token(one) is not None
        assert again.directory.unaccepted == ()
    finally:
        await again.stop()


async def test_a_key_that_others_can_read_stops_the_start(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    async with house(net, dsn, tmp_path) as home:
        pass
    (tmp_path / "secret.key").chmod(0o644)
    with pytest.raises(VaultError, match="can be read by others"):
        await Service(home.service.settings).start()
