"""Of a file in which something is wrong: what is proved all the same, up to which link."""

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import files
from proxy.receipts.verify import Head, heads_of, verify
from tests.receipts.conftest import Cli
from tests.receipts.test_receipt_verify import (
    Books,
    a_dropped_last_line,
    a_dropped_line,
    a_fork,
    a_link_to_another_past,
    a_second_receipt_of_one_payment,
    an_altered_header,
    books,
    no_signature,
    one_byte,
    relinked,
)

__all__ = ["books"]

HEADINGS = b"recorded_at,kind,agent,price_usd\r\n"


def a_forged_price(books: Books) -> None:
    """Of the fourth link of the first chain: a million times as much."""
    books.lines[4] = relinked(books.lines[4], books.forger, amount_atomic="10000000000")


# How far each of the two chains is proved, and the receipts and atomic units of that part.
PROVED: dict[Callable[[Books], None], tuple[list[int], list[tuple[int, int]]]] = {
    one_byte: ([1, 2], [(1, 10_000), (2, 20_000)]),
    a_forged_price: ([3, 2], [(3, 30_000), (2, 20_000)]),
    a_dropped_line: ([1, 2], [(1, 10_000), (2, 20_000)]),
    a_dropped_last_line: ([5, 1], [(3, 30_000), (1, 10_000)]),
    # Two links that claim one place, both signed by the right key: who is to say which.
    a_fork: ([1, 2], [(1, 10_000), (2, 20_000)]),
    a_link_to_another_past: ([5, 0], [(3, 30_000)]),
    a_second_receipt_of_one_payment: ([5, 1], [(3, 30_000), (1, 10_000)]),
    an_altered_header: ([5, 2], [(3, 30_000), (2, 20_000)]),
    no_signature: ([4, 2], [(4, 40_000), (2, 20_000)]),
}


@pytest.mark.parametrize("tamper", PROVED, ids=lambda tamper: tamper.__name__)
async def test_what_is_proved_all_the_same(books: Books, tamper: Callable[[Books], None]) -> None:
    tamper(books)
    verdict = verify(books.lines)
    totals = [(total.receipts, total.amount) for total in verdict.totals.values()]
    assert ([chain.proved_to for chain in verdict.chains.values()], totals) == PROVED[tamper]
    stands = [verdict.stands(chain) for chain in verdict.chains.values()]
    if tamper is an_altered_header:  # how long they are is its word
        assert stands == [False, False]
    else:
        low, high = PROVED[tamper][0]
        assert stands == [low == 5, high == 2]


async def test_nothing_is_proved_of_a_chain_that_was_another_before(books: Books) -> None:
    heads = heads_of(books.lines[0])
    agent = next(iter(heads))
    verdict = verify(books.lines, known={agent: Head(3, b"another".ljust(32))})
    assert [chain.proved_to for chain in verdict.chains.values()] == [0, 2]
    assert len(verdict.totals) == 1


async def test_no_chain_with_something_wrong_is_called_whole(books: Books, cli: Cli) -> None:
    a_forged_price(books)
    cli.file.write_bytes(b"\n".join(line.rstrip() for line in books.lines))
    status, said = await cli("verify", str(cli.file))
    assert status == 1
    low, high = (line for line in said.splitlines() if line.startswith("chain"))
    assert "proved up to link 3; NOT PROVED behind it" in low and "whole" not in low
    assert "whole, of 2" in high
    assert "In all, of the part that is proved, and of no other link:" in said
    assert "10000000000" not in said and " 30000 " in said
    assert said.endswith("NOT PROVED\n")


async def test_a_spreadsheet_is_told_in_one_line(books: Books, cli: Cli) -> None:
    bought = b"2026-11-01T00:00:00Z,receipt,bot,0.01\r\n" * 3
    for heading in (HEADINGS, b"\xef\xbb\xbf" + HEADINGS.replace(b",", b";")):
        cli.file.write_bytes(heading + bought)
        for words in ([], ["--json"]):
            status, said = await cli("verify", str(cli.file), *words)
            assert status == 1
            assert said == (
                f"autopay: {cli.file}: this is CSV; verify reads the JSON lines that"
                " `autopay receipts export FILE.jsonl` writes\n"
            )
    books_file = cli.file.with_name("right.jsonl")
    books_file.write_bytes(b"".join(books.lines))
    status, said = await cli("verify", str(books_file), "--after", str(cli.file))
    assert status == 1 and "this is CSV" in said and said.count("\n") == 1


async def test_the_format_is_that_of_the_files_name(books: Books, cli: Cli) -> None:
    async def begins(name: str, *words: str) -> str:
        file = cli.file.with_name(name)
        assert (await cli("export", str(file), *words))[0] == 0
        return file.read_text()[:11]

    assert await begins("books.csv") == await begins("BOOKS.CSV") == "recorded_at"
    assert await begins("other.jsonl", "--format", "csv") == "recorded_at"
    assert await begins("other.csv", "--format", "json") == '{"format": '
    for name in ("books.jsonl", "books.json", "books"):
        assert await begins(name) == '{"format": '


async def test_no_file_is_overwritten_unasked(
    books: Books, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.file.write_text("last month's")
    status, said = await cli("export", str(cli.file))
    assert status == 1 and "is there already; --force writes in its place" in said
    assert cli.file.read_text() == "last month's"
    monkeypatch.setattr("proxy.receipts.export._fields", None)  # it breaks off behind the header
    with pytest.raises(TypeError):
        await cli("export", str(cli.file), "--force")
    assert cli.file.read_text() == "last month's"
    monkeypatch.undo()
    assert (await cli("export", str(cli.file), "--force"))[0] == 0
    assert verify(cli.file.read_bytes().splitlines()).proved
    assert cli.file.stat().st_mode & 0o777 == 0o600
    left = [file.name for file in cli.file.parent.iterdir() if "receipts.jsonl" in file.name]
    assert left == ["receipts.jsonl"]


async def test_a_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "books"
    with pytest.raises(FileExistsError), files.written(path, 0o600, over=False) as file:
        file.write(b"mine")
        path.write_text("another's")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("books", "another's")]


async def test_without_a_header_nothing_is_said_of_each_line(books: Books) -> None:
    books.lines[0] = b'{"hello": "world"}'
    verdict = verify(books.lines)
    assert [one.line for one in verdict.problems] == [1]
    assert (verdict.proved, verdict.chains, verdict.totals) == (False, {}, {})
    assert not verify([]).proved  # nothing at all proves nothing
