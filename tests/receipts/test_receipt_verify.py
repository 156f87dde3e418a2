"""Whatever is changed in an export is found."""

import base64
import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from proxy.ledger import Agent, Database
from proxy.receipts.canonical import canonical, digest
from proxy.receipts.export import NoSuchAgent, Question, extract
from proxy.receipts.keys import EXPORT, LINK, ReceiptKey
from proxy.receipts.signer import ReceiptSigner
from proxy.receipts.spreadsheet import csv_lines
from proxy.receipts.verify import heads_of, verify
from tests.receipts.conftest import Export, Pay, changed


@dataclass
class Books:
    """`lines`: the header, five links of one agent (the last a reversal), and two of another."""

    lines: list[bytes]
    key: ReceiptKey
    forger: ReceiptKey


@pytest.fixture
async def books(
    database: Database,
    pay: Pay,
    bot: Agent,
    second: Agent,
    signer: ReceiptSigner,
    export: Export,
    key: ReceiptKey,
    tmp_path: Path,
) -> Books:
    low, high = sorted([bot.id, second.id])
    paid = [await pay(agent_id=low) for _ in range(4)]
    await database.fetchval("SELECT disprove($1, 'absent')", paid[2])
    for _ in range(2):
        await pay(agent_id=high)
    await signer.sign()
    return Books(await export(), key, ReceiptKey.load_or_make(tmp_path / "forger.key"))


def relinked(line: bytes, key: ReceiptKey, **members: object) -> bytes:
    """A link with another content, hashed and signed anew by `key`."""
    content = json.loads(json.loads(line)["canonical"]) | members
    text = canonical(content)
    outer = {name: content[name] for name in ("seq", "kind", "agent_id", "receipt_id", "previous")}
    return changed(
        line,
        **outer,
        canonical=text,
        sha256=digest(text).hex(),
        key_id=key.key_id.hex(),
        signature=base64.b64encode(key.sign(LINK, digest(text))).decode(),
    )


def reheaded(line: bytes, key: ReceiptKey | None, **members: object) -> bytes:
    """A header with other members, signed by `key`, or by nobody."""
    header = json.loads(line) | members | {"key_id": key and key.key_id.hex()}
    header.pop("signature")
    signature = key and key.sign(EXPORT, digest(canonical(header))).hex()
    return json.dumps(header | {"signature": signature}).encode()


def one_byte(books: Books) -> None:
    link = json.loads(books.lines[2])
    books.lines[2] = changed(
        books.lines[2], canonical=link["canonical"].replace('"10000"', '"10001"')
    )


def one_byte_and_its_hash(books: Books) -> None:
    text = json.loads(books.lines[2])["canonical"].replace('"10000"', '"10001"')
    books.lines[2] = changed(books.lines[2], canonical=text, sha256=digest(text).hex())


def a_dropped_line(books: Books) -> None:
    del books.lines[2]


def a_dropped_last_line(books: Books) -> None:
    del books.lines[-1]


def a_line_twice(books: Books) -> None:
    books.lines.insert(2, books.lines[2])


def swapped_lines(books: Books) -> None:
    books.lines[2], books.lines[3] = books.lines[3], books.lines[2]


def mixed_chains(books: Books) -> None:
    books.lines.insert(1, books.lines.pop())


def a_forged_signature(books: Books) -> None:
    link = json.loads(books.lines[2])
    forged = books.forger.sign(LINK, bytes.fromhex(link["sha256"]))
    books.lines[2] = changed(books.lines[2], signature=base64.b64encode(forged).decode())


def another_links_signature(books: Books) -> None:
    books.lines[2] = changed(books.lines[2], signature=json.loads(books.lines[3])["signature"])


def no_signature(books: Books) -> None:
    books.lines[5] = changed(books.lines[5], signature=None, key_id=None)


def a_strangers_signature(books: Books) -> None:
    books.lines[2] = relinked(books.lines[2], books.forger)


def a_swapped_public_key(books: Books) -> None:
    (key,) = json.loads(books.lines[0])["keys"]
    key["public_key"] = books.forger.public.hex()
    books.lines[0] = reheaded(books.lines[0], None, keys=[key])


def another_order_of_members(books: Books) -> None:
    """The same content, hashed and signed by the right key, but not in the canonical form."""
    link = json.loads(books.lines[7])
    text = json.dumps(json.loads(link["canonical"]))
    signature = base64.b64encode(books.key.sign(LINK, digest(text))).decode()
    books.lines[7] = changed(
        books.lines[7], canonical=text, sha256=digest(text).hex(), signature=signature
    )


def another_amount_around_it(books: Books) -> None:
    books.lines[2] = changed(books.lines[2], kind="reversal")


def another_agent_around_it(books: Books) -> None:
    books.lines[7] = changed(books.lines[7], receipt_id=json.loads(books.lines[6])["receipt_id"])


def a_fork(books: Books) -> None:
    """A second link 2 that the right key has signed too."""
    fork = relinked(books.lines[2], books.key, amount_atomic="1")
    books.lines[3] = relinked(books.lines[3], books.key, previous=json.loads(fork)["sha256"])
    books.lines.insert(3, fork)


def a_link_to_another_past(books: Books) -> None:
    """The last link of a chain, signed by the right key, with nothing but its past changed."""
    books.lines[7] = relinked(books.lines[7], books.key, previous="ab" * 32)
    header = json.loads(books.lines[0])
    header["chains"][1]["head"] = json.loads(books.lines[7])["sha256"]
    books.lines[0] = reheaded(books.lines[0], books.key, chains=header["chains"])


def a_first_link_with_a_past(books: Books) -> None:
    books.lines[1] = relinked(books.lines[1], books.key, previous="ab" * 32)


def another_head(books: Books) -> None:
    header = json.loads(books.lines[0])
    header["chains"][1]["head"] = "ab" * 32
    books.lines[0] = reheaded(books.lines[0], books.key, chains=header["chains"])


def a_stranger_among_the_agents(books: Books) -> None:
    header = json.loads(books.lines[0])
    del header["chains"][1]
    books.lines[0] = reheaded(books.lines[0], books.key, chains=header["chains"])


def a_reversal_of_nothing(books: Books) -> None:
    books.lines[5] = relinked(books.lines[5], books.key, receipt_id=str(UUID(int=7)))


def a_second_reversal(books: Books) -> None:
    again = json.loads(books.lines[5])["canonical"]
    books.lines[4] = relinked(books.lines[4], books.key, **json.loads(again) | {"seq": 4})


def an_amount_that_is_none(books: Books) -> None:
    books.lines[7] = relinked(books.lines[7], books.key, amount_atomic="-1")


def an_unknown_kind(books: Books) -> None:
    books.lines[7] = relinked(books.lines[7], books.key, kind="gift")


def a_reversal_of_less(books: Books) -> None:
    books.lines[5] = relinked(books.lines[5], books.key, amount_atomic="1")


def a_second_receipt_of_one_payment(books: Books) -> None:
    twice = json.loads(books.lines[6])["receipt_id"]
    books.lines[7] = relinked(books.lines[7], books.key, receipt_id=twice)


def a_second_receipt_of_one_signature(books: Books) -> None:
    """One payment booked twice, under another name."""
    twice = json.loads(json.loads(books.lines[6])["canonical"])["client_signature"]
    books.lines[7] = relinked(books.lines[7], books.key, client_signature=twice)


def an_altered_header(books: Books) -> None:
    books.lines[0] = changed(books.lines[0], exported_at="2020-01-01T00:00:00.000000Z")


def a_truncated_chain_that_the_header_admits(books: Books) -> None:
    """The last receipt of the second agent gone, and a header that is true to it, unsigned."""
    header = json.loads(books.lines[0])
    last = json.loads(books.lines[-2])
    header["chains"][1] |= {"length": 1, "last": 1, "head": last["sha256"]}
    books.lines[0] = reheaded(
        books.lines[0], None, chains=header["chains"], links=header["links"] - 1
    )
    del books.lines[-1]


def nothing_but_a_header(books: Books) -> None:
    del books.lines[1:]


def noise(books: Books) -> None:
    books.lines[3] = b"\xff\x00" * 40


def no_export_at_all(books: Books) -> None:
    books.lines[:] = [b'{"hello": "world"}']


def half_a_surrogate_pair(books: Books) -> None:
    books.lines[3] = books.lines[3].replace(b"api.example.com/", b"\\ud800", 1)


FOUND: dict[Callable[[Books], None], str] = {
    one_byte: "was changed: its text has another hash",
    one_byte_and_its_hash: "the signature does not fit",
    a_dropped_line: "receipt 3 of agent .* comes where 2 should be",
    a_dropped_last_line: "the chain of agent .* ends at 1, not at 2",
    a_line_twice: "comes where 3 should be",
    swapped_lines: "comes where 2 should be",
    mixed_chains: "taken up a second time|comes where",
    a_forged_signature: "the signature does not fit",
    another_links_signature: "the signature does not fit",
    a_strangers_signature: "signed by .*, which is not accepted",
    a_swapped_public_key: "another's name",
    another_order_of_members: "not in canonical form",
    another_amount_around_it: "kind is not what its text says",
    another_agent_around_it: "receipt_id is not what its text says",
    a_fork: "comes where 3 should be",
    a_link_to_another_past: "does not follow the one before it",
    a_first_link_with_a_past: "names one before the first",
    another_head: "does not end in the head that the header names",
    a_stranger_among_the_agents: "whom the header does not name",
    a_reversal_of_nothing: "tells of a receipt that is not there",
    a_second_reversal: "was reversed already",
    an_amount_that_is_none: "amount_atomic is no amount",
    an_unknown_kind: "of a kind that is not known here",
    a_reversal_of_less: "another amount than its receipt",
    a_second_receipt_of_one_payment: "a second receipt of one payment",
    a_second_receipt_of_one_signature: "of a payment that has a receipt already",
    an_altered_header: "the header's signature does not fit",
    nothing_but_a_header: "the file has 0 links; its header says 7",
    noise: "line 4: not a line of JSON",
    no_export_at_all: "no export of receipts",
    half_a_surrogate_pair: "surrogates not allowed",
}


async def test_as_it_was_exported(books: Books) -> None:
    verdict = verify(books.lines)
    assert (verdict.problems, verdict.unsigned, verdict.proved) == ([], 0, True)
    assert (verdict.links, dict(verdict.signed)) == (7, {books.key.key_id: 7})
    assert verdict.header_signed_by == books.key.key_id
    low, _ = verdict.chains.values()
    assert (low.first, low.last, low.length) == (1, 5, 5)
    assert low.from_the_start and low.to_the_head
    totals = [(total.receipts, total.amount, total.price) for total in verdict.totals.values()]
    assert totals == [(3, 30_000, 30_000), (2, 20_000, 20_000)]


@pytest.mark.parametrize("tamper", FOUND, ids=lambda tamper: tamper.__name__)
async def test_tampering_is_found(books: Books, tamper: Callable[[Books], None]) -> None:
    tamper(books)
    verdict = verify(books.lines)
    assert not verdict.proved
    words = "\n".join(map(str, verdict.problems))
    assert re.search(FOUND[tamper], words), words


async def test_what_is_not_signed_is_not_proved(books: Books) -> None:
    no_signature(books)
    verdict = verify(books.lines)
    assert (verdict.problem_count, verdict.unsigned, verdict.proved) == (0, 1, False)


async def test_a_truncated_tail_is_found_by_who_knows_the_head(books: Books) -> None:
    older = books.lines[0]
    a_truncated_chain_that_the_header_admits(books)
    alone = verify(books.lines)
    assert (alone.proved, alone.header_signed_by) == (True, None)  # as far as the file goes
    verdict = verify(books.lines, known=heads_of(older))
    assert "is 1 links long; before it was 2" in str(verdict.problems)


async def test_a_rewritten_chain_is_found_by_who_knows_its_head(
    books: Books, pay: Pay, second: Agent, signer: ReceiptSigner, export: Export
) -> None:
    older = books.lines[0]
    await pay(agent_id=second.id)
    await signer.sign()
    lines = await export()
    assert verify(lines, known=heads_of(older)).proved
    heads = {agent: type(head)(head.seq, sha256(b"other").digest())
             for agent, head in heads_of(older).items()}  # fmt: skip
    assert "rewritten" in str(verify(lines, known=heads).problems)
    without = reheaded(lines[0], None, chains=[])
    assert "is missing" in str(verify([without], known=heads_of(older)).problems)


async def test_only_named_keys_are_accepted(books: Books) -> None:
    assert verify(books.lines, trusted=[books.key.key_id]).proved
    verdict = verify(books.lines, trusted=[books.forger.key_id])
    assert verdict.problem_count == 8  # every link, and the header
    # A whole file forged, with a key of the forger's own: true to itself, and to no other.
    links, previous = [], {}
    for line in books.lines[1:]:
        agent = json.loads(line)["agent_id"]
        links.append(relinked(line, books.forger, previous=previous.get(agent, "00" * 32)))
        previous[agent] = json.loads(links[-1])["sha256"]
    header = json.loads(books.lines[0])
    for chain in header["chains"]:
        chain["head"] = previous[chain["agent_id"]]
    key = {"key_id": books.forger.key_id.hex(), "public_key": books.forger.public.hex()}
    forged = [
        reheaded(books.lines[0], books.forger, chains=header["chains"], keys=[key]), *links
    ]  # fmt: skip
    assert verify(forged).proved
    assert not verify(forged, trusted=[books.key.key_id]).proved


async def test_a_part_says_that_it_is_one(
    books: Books, export: Export, database: Database, bot: Agent, second: Agent
) -> None:
    mine = verify(await export(agent="bot"))
    assert mine.proved
    assert [chain.agent for chain in mine.chains.values()] == ["bot"]
    assert verify(await export(agent=str(second.id))).proved
    with pytest.raises(NoSuchAgent):
        await export(agent="nobody")
    low = min(bot.id, second.id)
    rows = await database.fetch(
        "SELECT recorded_at FROM receipt_links WHERE agent_id = $1 ORDER BY seq", low
    )
    lines = await export(since=rows[1]["recorded_at"], until=rows[3]["recorded_at"])
    verdict = verify(lines)
    chain = verdict.chains[low]
    assert verdict.proved, verdict.problems
    assert (chain.first, chain.last, chain.length) == (2, 3, 5)
    assert not chain.from_the_start and not chain.to_the_head
    # A reversal whose receipt came before the time.
    lines = await export(since=rows[4]["recorded_at"])
    verdict = verify(lines)
    assert verdict.proved, verdict.problems
    total = next(total for place, total in verdict.totals.items() if place[0] == low)
    assert (total.receipts, total.reversed) == (0, 1)
    nothing = verify(await export(since=datetime.now(UTC) + timedelta(days=1)))
    assert (nothing.proved, nothing.links) == (True, 0)


async def test_a_spreadsheet_gets_no_formula(dsn: str, pay: Pay, bot: Agent) -> None:
    await pay(endpoint='=HYPERLINK("http://evil.example","a,b")\r\n', symbol="+USDC")
    async with extract(dsn, "autopay_auditor", Question()) as found:
        names = {str(bot.id): "-bot"}
        text = "".join([line async for line in csv_lines(found.links, names)])
    assert text.count("\r\n") == 3  # one of them within quotes
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["endpoint"] == '\'=HYPERLINK("http://evil.example","a,b")\r\n'
    assert (row["symbol"], row["agent"]) == ("'+USDC", "'-bot")
    assert (row["price_usd"], row["amount"], row["amount_atomic"]) == ("0.01", "0.01", "10000")
    assert (row["kind"], row["claimed"], row["signed_by"]) == ("receipt", "true", "")
