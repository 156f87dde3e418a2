"""A whole autopay: paid through its socket, exported by its command, proved against the chain."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.admin import Keys, Role
from proxy.chains.solana.rpc import Rpc
from proxy.ledger import Database
from proxy.localnet import Localnet
from proxy.receipts.keys import ReceiptKey
from proxy.receipts.on_chain import check, nodes_of
from proxy.receipts.signer import ReceiptSigner
from proxy.receipts.verify import verify
from tests.e2e.conftest import net, shop
from tests.e2e.house import House, house
from tests.e2e.seller import Seller, challenge, offer, pays_once, selling, settled
from tests.receipts.conftest import Cli, Clock, all_signed, with_a_past

__all__ = ["net", "shop"]


@pytest.fixture
async def home(net: Localnet, dsn: str, tmp_path: Path) -> AsyncIterator[House]:
    async with house(net, dsn, tmp_path) as home:
        yield home


async def claimed(home: House, seller: Seller, transaction: str, **more: Any) -> None:
    """Pays a seller that names this transaction and keeps the money for later."""
    terms = offer(str(home.net.seller.pubkey()), str(home.net.fee_payer.pubkey()), **more)
    seller.answer = pays_once(challenge(terms), lambda _: settled(transaction))
    assert (await home.ask(f"{seller.url}/claims")).status == 200


async def test_paid_exported_and_proved(home: House, shop: str, cli: Cli) -> None:
    answer = await home.ask(f"{shop}/paid?who=Rosebud")
    assert answer.status == 200
    await all_signed(home)
    status, said = await cli("export", str(cli.file))
    assert (status, said) == (0, f"1 links of 1 agents are in {cli.file}\n")
    assert cli.file.stat().st_mode & 0o777 == 0o600
    assert "Rosebud" not in cli.file.read_text()
    key = ReceiptKey.load_or_make(cli.file.parent / "receipts.key").key_id.hex()
    status, said = await cli("verify", str(cli.file), "--key", key, "--rpc", home.net.rpc_url)
    assert status == 0, said
    assert "PROVED" in said and "ON THE CHAIN: 1 of 1 receipts" in said
    assert f"1 links are signed by {key}" in said
    assert (await cli("verify", str(cli.file), "--key", "ab" * 32))[0] == 1
    assert key in (await cli("keys"))[1] and "this machine's" in (await cli("keys"))[1]
    status, said = await cli("--json")
    assert json.loads(said)["transaction"] == answer.headers["Autopay-Transaction"]
    status, said = await cli("export", "--format", "csv", "-")
    assert said.count("\r\n") == 2 and answer.headers["Autopay-Transaction"] in said
    # One byte, and the whole of it is not proved any more.
    cli.file.write_text(cli.file.read_text().replace("1000", "1001", 1))
    status, said = await cli("verify", str(cli.file), "--json")
    assert status == 1 and not json.loads(said)["proved"]
    assert (await cli("verify", str(cli.file), "--after", str(cli.file)))[0] == 1


async def test_what_the_chain_says_otherwise(
    home: House, shop: str, cli: Cli, net: Localnet, clock: Clock
) -> None:
    with_a_past(home, clock)
    answer = await home.ask(f"{shop}/paid")
    landed = answer.headers["Autopay-Transaction"]
    async with selling() as seller:
        await claimed(home, seller, "5" * 88)  # there is no such transaction
        await claimed(home, seller, landed)  # there is, but it is another payment's
    await all_signed(home)
    assert (await cli("export", "--force", str(cli.file)))[0] == 0
    assert (await cli("verify", str(cli.file)))[0] == 0  # as books they are in order
    said = await cli.verdicts(net.rpc_url)
    assert said == (1, ["landed", "not_shown", "not_ours"])  # the second may still come
    # Proved dead, and taken back: the chain and the books are of one opinion again.
    rows = await home.rows("SELECT id FROM payments ORDER BY created_at")
    for row in rows[1:]:
        assert (await home.row("SELECT disprove($1, 'absent') AS was", row["id"]))[
            "was"
        ] == "reversed"
    await all_signed(home)
    net.chain.advance(40)  # the RPC's chain has come as far as the reversals
    assert (await cli("export", "--force", str(cli.file)))[0] == 0
    assert await cli.verdicts(net.rpc_url) == (0, ["landed", "reversed", "reversed"])
    # The one that did land, taken back by mistake.
    await home.rows("SELECT disprove($1, 'absent')", rows[0]["id"])
    await all_signed(home)
    assert (await cli("export", "--force", str(cli.file)))[0] == 0
    status, said = await cli("verify", str(cli.file), "--rpc", net.rpc_url)
    assert status == 1 and "the payment is on the chain" in said


async def test_a_receipt_of_something_else(home: House, shop: str, cli: Cli, net: Localnet) -> None:
    assert (await home.ask(f"{shop}/paid")).status == 200
    await cli("export", "--force", str(cli.file))
    (paid,) = verify(cli.file.read_bytes().splitlines()).paid
    destination = paid.content["destination_account"]
    others: list[tuple[str, dict[str, Any]]] = [
        ("landed", {}),
        ("not_ours", {"client_signature": "5" * 88}),
        ("other_amount", {"amount_atomic": "1001"}),
        ("other_network", {"network": "solana:other"}),
        ("unknown_asset", {"asset": str(net.seller.pubkey())}),
        ("other_amount", {"pay_to": "nobody"}),
        ("landed", {"pay_to": destination}),
        ("other_amount", {"pay_to": str(home.wallet.pubkey())}),
    ]
    rpc = Rpc(net.rpc_url)
    nodes = await nodes_of([rpc])
    checked = await check(
        nodes, [replace(paid, content={**paid.content, **other}) for _, other in others]
    )
    with pytest.raises(ValueError, match="are both of solana:"):
        await nodes_of([rpc, rpc])
    await rpc.close()
    assert [one.verdict for one in checked.receipts] == [verdict for verdict, _ in others]
    assert checked.receipts[-1].detail == "-1000"


async def test_killed_between_settling_and_signing(
    net: Localnet, dsn: str, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        pass

    with monkeypatch.context() as killed:
        killed.setattr(ReceiptSigner, "start", lambda _: None)
        killed.setattr(ReceiptSigner, "close", never)
        async with house(net, dsn, tmp_path) as home:
            assert (await home.ask(f"{shop}/paid")).status == 200
            assert await home.rows("SELECT * FROM receipt_signatures") == []
            await home.operator.execute("UPDATE agents SET name = 'before' WHERE name = 'shopper'")
    async with house(net, dsn, tmp_path) as home:
        await all_signed(home)


async def test_the_answer_does_not_wait_for_the_signature(
    home: House, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = asyncio.Event()

    async def stall(_: ReceiptSigner) -> int:
        await stalled.wait()
        return 0

    monkeypatch.setattr(ReceiptSigner, "sign", stall)
    async with asyncio.timeout(20):
        assert (await home.ask(f"{shop}/paid")).status == 200
    assert await home.rows("SELECT * FROM receipt_signatures") == []
    stalled.set()


async def test_one_receipt_by_the_api(home: House, shop: str, dsn: str) -> None:
    answer = await home.ask(f"{shop}/paid")
    await all_signed(home)
    host, port = home.service.admin_address
    database = await Database.open(dsn)
    told = {}
    for role in (Role.READER, Role.AUDITOR):
        key = await Keys(database).create(role.value, role, by="test")
        for name in (answer.headers["Autopay-Payment"], "0" * 32, "nothing"):
            async with home.session.get(
                f"http://{host}:{port}/v1/receipts/{name}",
                headers={"Authorization": f"Bearer {key}"},
            ) as response:
                told[role, name] = response.status, await response.json()
    await database.close()
    name = answer.headers["Autopay-Payment"]
    assert told[Role.READER, name][0] == 403
    assert [told[Role.AUDITOR, other][1]["code"] for other in ("0" * 32, "nothing")] == [
        "no_such_receipt"
    ] * 2
    status, proof = told[Role.AUDITOR, name]
    assert status == 200
    (link,) = proof["links"]
    content = json.loads(link["canonical"])
    assert (content["receipt_id"], content["transaction"]) == (
        name,
        answer.headers["Autopay-Transaction"],
    )
    header = {
        "format": "autopay-receipts/1", "keys": proof["keys"], "links": 1, "key_id": None,
        "signature": None, "chains": [{
            "agent_id": link["agent_id"], "agent": "shopper", "length": 1, "first": 1, "last": 1,
            "head": link["sha256"],
        }],
    }  # fmt: skip
    assert verify([json.dumps(one).encode() for one in (header, link)]).proved
