"""`autopay wallet`: the key comes in by file or stdin, and never shows."""

import asyncio
import json
import stat
import subprocess

from solders.keypair import Keypair

from proxy.chains.solana import Wallet
from proxy.localnet import Localnet
from tests.cli.conftest import Autopay


def test_new_is_private_and_never_overwrites(autopay: Autopay) -> None:
    assert "autopay wallet new" in autopay.refused("wallet", "show")
    address = autopay.well("wallet", "new").split()[0]
    assert autopay.well("wallet", "show") == f"{address}\n"
    assert stat.S_IMODE(autopay.wallet.stat().st_mode) == 0o600
    key = autopay.wallet.read_bytes()
    for words in (["wallet", "new"], ["wallet", "import"]):
        refusal = autopay.refused(*words, stdin=json.dumps(list(bytes(Keypair()))))
        assert "never overwritten" in refusal
    assert autopay.wallet.read_bytes() == key


def test_a_key_comes_by_stdin_or_by_file(autopay: Autopay) -> None:
    key = Keypair()
    said = autopay.well("wallet", "import", stdin=str(key) + "\n")  # base58
    assert said.startswith(str(key.pubkey()))
    assert stat.S_IMODE(autopay.wallet.stat().st_mode) == 0o600
    assert Wallet.load(autopay.wallet).address == str(key.pubkey())

    file = autopay.data / "id.json"
    file.write_text(json.dumps(list(bytes(key))))
    elsewhere = autopay.data / "other.json"
    autopay.well("wallet", "import", str(file), AUTOPAY_WALLET__PATH=str(elsewhere))
    assert elsewhere.read_bytes() == autopay.wallet.read_bytes()


def test_what_is_no_key_is_refused_without_being_shown(autopay: Autopay) -> None:
    secret = str(Keypair())[:-3]
    refusal = autopay.refused("wallet", "import", stdin=secret)
    assert refusal.startswith("stdin: not a Solana key")
    assert secret[:20] not in refusal
    assert "cannot read" in autopay.refused("wallet", "import", str(autopay.data / "none"))
    assert not autopay.wallet.exists()


def test_a_wallet_that_others_can_read_is_refused(autopay: Autopay) -> None:
    autopay.well("wallet", "new")
    autopay.wallet.chmod(0o644)
    assert "chmod 600" in autopay.refused("wallet", "show")


def test_every_wallet_of_the_settings_has_its_name(autopay: Autopay) -> None:
    elsewhere = autopay.data / "elsewhere.json"
    settings = {
        "AUTOPAY_WALLETS__RESEARCH__LOW_BALANCE": "5",
        "AUTOPAY_WALLETS__OPS__PATH": str(elsewhere),
    }
    first = autopay.well("wallet", "new", **settings).split()[0]
    said = autopay.refused("wallet", "show", "--wallet", "research", **settings)
    assert "autopay wallet new --wallet research" in said
    second = autopay.well("wallet", "new", "--wallet", "research", **settings).split()[0]
    assert Wallet.load(autopay.data / "wallet-research.json").address == second != first
    key = Keypair()
    autopay.well("wallet", "import", "--wallet", "ops", stdin=str(key), **settings)
    assert Wallet.load(elsewhere).address == str(key.pubkey())
    assert autopay.well("wallet", "show", "--wallet", "research", **settings) == f"{second}\n"
    assert autopay.well("wallet", "show", **settings) == f"{first}\n"
    listed = [line.split()[:2] for line in autopay.well("wallet", "list", **settings).splitlines()]
    assert listed[1] == ["default", first]
    assert sorted(listed[2:]) == [["ops", str(key.pubkey())], ["research", second]]
    (autopay.data / "wallet-research.json").unlink()
    status = json.loads(autopay("status", "--json", **settings).stdout)
    assert (status["wallet"]["well"], status["wallet-research"]["well"]) == (True, False)
    assert status["wallet-ops"]["detail"] == str(key.pubkey())
    assert {one["name"]: one["address"] for one in status["wallets"]} == {
        "default": first,
        "ops": str(key.pubkey()),
    }
    refused = autopay.refused("wallet", "new", "--wallet", "treasury", **settings)
    assert "add [wallets.treasury]" in refused


async def test_the_balance_is_what_the_chain_says(autopay: Autopay) -> None:
    address = autopay.well("wallet", "new").split()[0]
    async with Localnet() as net:
        net.fund(address, usdc=1_234_567, cash=5)
        done = await asyncio.to_thread(
            autopay,
            *("wallet", "show", "--balance"),
            AUTOPAY_NETWORKS__DEVNET__RPC_URL=net.rpc_url,
            AUTOPAY_NETWORKS__MAINNET__RPC_URL=net.rpc_url,
        )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == [address]
    assert ["devnet", "USDC", "1.234567"] in rows
    assert ["mainnet", "CASH", "0.000005"] in rows
    assert ["mainnet", "USDT", "0"] in rows


def test_a_network_that_does_not_answer(autopay: Autopay) -> None:
    autopay.well("wallet", "new")
    done: subprocess.CompletedProcess[str] = autopay(
        "wallet", "show", "--balance", AUTOPAY_NETWORKS__DEVNET__RPC_URL="http://127.0.0.1:1/?k=key"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("autopay: the Solana RPC at 127.0.0.1 failed")
    assert "key" not in done.stderr
