"""The mutants of `bench.mutants` still find what they are to spoil. Whether each is caught is for
`make soak`: here, that none of them has become an empty word since."""

import pytest

from bench.mutants import MUTANTS, ROOT, Mutant
from proxy.ledger import Database

BY_NAME = [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS]


@pytest.mark.parametrize("mutant", BY_NAME)
async def test_each_finds_what_it_spoils(mutant: Mutant, dsn: str) -> None:
    database = await Database.open(dsn)
    for edit in mutant.edits:
        assert (ROOT / edit.file).read_text().count(edit.old) == 1, edit.file
    for rule in mutant.rules:
        sources = await database.fetch(
            "SELECT pg_get_functiondef(oid) AS text FROM pg_proc WHERE proname = $1", rule.function
        )
        assert [rule.old in source["text"] for source in sources] == [True], rule.function
    await database.close()
    for word in mutant.tests:
        assert (ROOT / word).exists() or not word.startswith("tests/"), word
