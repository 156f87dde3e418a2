"""A book as a file."""

from hypothesis import given

from policies import Book, LayerKey, Rules
from policies.files import read
from policies.written import as_toml
from tests.policies.drawn import books


@given(books())
def test_it_reads_back_to_the_same(book: Book) -> None:
    assert dict(read({"a.toml": as_toml(book)}).book.layers()) == dict(book.layers())


def test_what_has_to_be_quoted() -> None:
    names = ("a.b", 'a"b', "é\x7f\n", "a\\b")
    book = Book.of({LayerKey(name): Rules(wallet="w") for name in names})
    assert set(read({"a.toml": as_toml(book)}).book.agents) == set(names)


def test_an_agent_that_says_nothing_is_there() -> None:
    assert as_toml(Book.of({LayerKey("bot"): Rules()})) == "[agent.bot]\n"
