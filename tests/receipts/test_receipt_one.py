"""One payment of an export: shown, and proved or not, with the chain that it stands in."""

import json
from uuid import UUID, uuid4

from proxy.ledger import Database
from proxy.localnet import Localnet
from proxy.receipts.signer import ReceiptSigner
from tests.e2e.conftest import net, shop
from tests.e2e.seller import selling
from tests.receipts.conftest import Cli, Clock, Export, all_signed, with_a_past
from tests.receipts.test_receipt_service import House, claimed, home
from tests.receipts.test_receipt_verify import (
    Books,
    a_second_receipt_of_one_payment,
    another_order_of_members,
    books,
    no_signature,
    one_byte,
)

__all__ = ["books", "home", "net", "shop"]


def content(books: Books, line: int) -> dict[str, str]:
    """Of the link in this line, from 0."""
    read: dict[str, str] = json.loads(json.loads(books.lines[line])["canonical"])
    return read


async def asked(cli: Cli, books: Books, payment: str, *words: str) -> tuple[int, str]:
    cli.file.write_bytes(b"\n".join(line.rstrip() for line in books.lines))
    return await cli("verify", str(cli.file), "--payment", payment, *words)


async def test_one_receipt_by_each_of_its_names(books: Books, cli: Cli) -> None:
    link = content(books, 2)
    for name in ("receipt_id", "transaction", "client_signature"):
        status, said = await asked(cli, books, link[name])
        assert status == 0, said
        rows = dict(line.split(maxsplit=1) for line in said.splitlines() if " " in line)
        assert rows["RECEIPT"] == link["receipt_id"]
        assert rows["for"] == f"{link['method']} {link['endpoint']}"
        assert rows["provider"] == link["provider"]
        assert rows["paid"].startswith("0.01 USDC (10000 atomic units")
        assert rows["to"] == f"{link['pay_to']} on {link['network']}"
        assert rows["when"].startswith(link["recorded_at"])
        assert rows["transaction"] == link["transaction"]
        assert rows["link"].startswith("receipt, link 2 of its chain, line 3 of the file, signed")
        assert rows["later"].startswith("nothing was learnt of it")
        assert rows["proved"] == "its chain is, up to link 5"
        assert said.endswith("PROVED\n") and "NOT PROVED" not in said
        assert content(books, 1)["receipt_id"] not in said
    status, said = await asked(cli, books, link["receipt_id"], "--json")
    (one,) = json.loads(said)["receipts"]
    assert (status, one["endpoint"], one["proved"]) == (0, link["endpoint"], True)
    assert [each["seq"] for each in one["links"]] == [2]


async def test_what_was_learnt_later_is_told(books: Books, cli: Cli) -> None:
    status, said = await asked(cli, books, content(books, 3)["receipt_id"])
    assert status == 0
    assert "reversal, link 5 of its chain, line 6 of the file" in said
    assert "taken back at 20" in said and "the money is free again" in said


async def test_a_correction_is_found_by_what_it_names(
    books: Books, cli: Cli, database: Database, signer: ReceiptSigner, export: Export
) -> None:
    payment, other = content(books, 2)["receipt_id"], "C" * 88
    seen = json.dumps({"signature": other, "slot": 5, "fee_lamports": 5000})
    await database.fetchval("SELECT verify_payment($1, $2)", UUID(payment), seen)
    await signer.sign()
    books.lines[:] = await export()
    status, said = await asked(cli, books, other)
    assert status == 0, said
    assert payment in said and f"it was paid by transaction {other}" in said


async def test_a_receipt_is_no_better_than_its_chain(books: Books, cli: Cli) -> None:
    before, wrong, behind, elsewhere = (content(books, line)["receipt_id"] for line in (1, 2, 4, 6))
    one_byte(books)
    status, said = await asked(cli, books, before)
    assert status == 1  # itself it is proved, and its chain is not
    assert "its chain is, up to link 1" in said
    assert "proved up to link 1; NOT PROVED behind it" in said
    status, said = await asked(cli, books, wrong)
    assert (status, "was changed: its text has another hash" in said) == (1, True)
    status, said = await asked(cli, books, behind)
    assert (status, "link 4 is not in the part that is proved: line 3" in said) == (1, True)
    status, said = await asked(cli, books, elsewhere)
    assert (status, "NOT PROVED" in said) == (0, False)  # another agent's chain is sound


async def test_what_is_not_signed_yet(books: Books, cli: Cli) -> None:
    reversed_, other = content(books, 3)["receipt_id"], content(books, 1)["receipt_id"]
    no_signature(books)
    status, said = await asked(cli, books, reversed_)
    assert (status, "link 5 is not signed" in said) == (1, True)
    assert (await asked(cli, books, other))[0] == 1


async def test_links_that_cannot_be_read_are_told(books: Books, cli: Cli) -> None:
    twice, unreadable = content(books, 6)["receipt_id"], content(books, 7)["receipt_id"]
    another_order_of_members(books)
    status, said = await asked(cli, books, unreadable)
    assert (status, "WRONG  line 8" in said, "not in canonical form" in said) == (1, True, True)
    a_second_receipt_of_one_payment(books)
    status, said = await asked(cli, books, twice)
    assert (status, "a second receipt of one payment" in said) == (1, True)


async def test_one_that_is_not_there(books: Books, cli: Cli) -> None:
    for name in (str(uuid4()), "5" * 88):
        status, said = await asked(cli, books, name)
        assert (status, f"there is no payment {name} in this file" in said) == (1, True)
    books.lines[0] = b"{}"
    status, said = await asked(cli, books, content(books, 1)["receipt_id"])
    assert (status, "whose header is wrong" in said) == (1, True)


async def test_the_chain_is_asked_for_it_alone(
    home: House, cli: Cli, net: Localnet, clock: Clock, shop: str
) -> None:
    with_a_past(home, clock)
    answer = await home.ask(f"{shop}/paid")
    landed = answer.headers["Autopay-Transaction"]
    async with selling() as seller:
        await claimed(home, seller, landed)  # another payment's
    await all_signed(home)
    assert (await cli("export", str(cli.file)))[0] == 0
    words = ("verify", str(cli.file), "--rpc", net.rpc_url, "--payment")
    status, said = await cli(*words, landed)
    assert status == 0, said
    assert answer.headers["Autopay-Payment"] in said
    assert "ON THE CHAIN: 1 of 1 receipts" in said
    (other,) = await home.rows(
        "SELECT id::text FROM payments WHERE id <> $1::text::uuid",
        answer.headers["Autopay-Payment"],
    )
    status, said = await cli(*words, other["id"], "--json")
    assert status == 1
    told = json.loads(said.partition("\n")[0])
    assert [one["verdict"] for one in told["chain"]] == ["not_ours"]
    assert (told["proved"], told["receipts"][0]["claimed_transaction"]) == (True, landed)
