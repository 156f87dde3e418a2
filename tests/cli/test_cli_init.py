"""`autopay init`, on a fresh machine and again."""

import asyncio
import re
import stat
from hashlib import sha256
from pathlib import Path

import asyncpg

from proxy.chains.solana import Wallet
from proxy.postgres.processes import servers_in
from proxy.settings import default_toml
from tests.cli.conftest import Autopay

TOKEN = re.compile(r"ap_[A-Za-z0-9_-]{43}")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_fresh_machine_and_then_again(embedded: Autopay) -> None:
    said = embedded.well("init")
    address = Wallet.load(embedded.wallet).address
    assert said.count(address) == 2  # made, and where to send money
    assert "agent     default  (new: at most $0.05 per call, $1.00 per day)" in said
    (token,) = set(TOKEN.findall(said))
    assert f"export http_proxy=http://default:{token}@127.0.0.1:8402" in said
    assert f"http://127.0.0.1:8403/~{token}/NAME" in said
    assert "autopay serve" in said

    assert embedded.config.read_text() == default_toml()
    assert embedded.config.stat().st_mode & 0o077 == 0
    assert mode(embedded.wallet) == 0o600
    assert mode(embedded.data) & 0o007 == 0  # root lets the database's group walk through
    assert mode(embedded.data / "postgres") & 0o067 == 0
    assert servers_in(embedded.data / "postgres/data") == []

    embedded.config.write_text("# mine\n")
    again = embedded.well("init")
    assert TOKEN.search(again) is None
    assert address in again and "(kept)" in again and "autopay agent rotate" in again
    assert embedded.config.read_text() == "# mine\n"
    assert Wallet.load(embedded.wallet).address == address
    assert [line.split()[0] for line in embedded.well("agent", "list").splitlines()] == [
        "AGENT",
        "default",
    ]


def test_the_token_is_kept_as_a_hash_only(autopay: Autopay, dsn: str) -> None:
    (token,) = set(TOKEN.findall(autopay.well("init")))

    async def everything() -> tuple[list[bytes], str]:
        connection = await asyncpg.connect(dsn)
        try:
            hashes = await connection.fetch("SELECT token_sha256 FROM agent_tokens")
            tables = await connection.fetch(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            )
            text = ""
            for table in tables:
                name = table["table_name"]
                text += str(await connection.fetch(f'SELECT t::text FROM "{name}" t'))
            return [row["token_sha256"] for row in hashes], text
        finally:
            await connection.close()

    hashes, text = asyncio.run(everything())
    assert hashes == [sha256(token.encode()).digest()]
    assert "default" in text
    assert token not in text and token.encode().hex() not in text


def test_what_is_set_holds_for_the_first_agent(autopay: Autopay) -> None:
    autopay.config.write_text(
        '[listen]\nproxy = "0.0.0.0:9402"\n[policy]\nper_call = "0.10"\ndaily = 2\n'
        '[providers.weather]\nupstream = "https://api.example/v1"\n'
        '[networks.mainnet]\nrpc_url = "https://rpc.example"\n'
    )
    said = autopay.well("init")
    assert "at most $0.10 per call, $2.00 per day" in said
    assert "@127.0.0.1:9402" in said  # 0.0.0.0 is no address to connect to
    assert re.search(r"8403/~ap_\S+/weather\n", said)
    assert "real money" in said and "faucet" not in said


def test_a_data_directory_that_others_can_write_is_refused(embedded: Autopay) -> None:
    embedded.data.chmod(0o777)
    done = embedded("init")
    assert done.returncode == 1
    assert f"chmod 700 {embedded.data}" in done.stderr
    assert not embedded.wallet.exists()


def test_a_settings_file_that_cannot_be_written(autopay: Autopay) -> None:
    (autopay.data / "file").touch()
    refusal = autopay.refused("init", "--config", str(autopay.data / "file" / "autopay.toml"))
    assert "cannot be written" in refusal and "--config PATH" in refusal
