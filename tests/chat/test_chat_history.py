"""Which messages of a request are new."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.asked import Asked, Said
from proxy.chat.history import continued, conversation_key, message_ids, new_messages


def said(*texts: str) -> list[Said]:
    """`>…` is an answer, all else the user's."""
    return [Said(not text.startswith(">"), text) for text in texts]


class Chat:
    """A session as it is written down."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.written: list[str] = []

    def hears(self, *texts: str) -> list[str]:
        """What it takes for new of this request."""
        messages = said(*texts)
        ids = message_ids(messages, "seed")
        new = new_messages(messages, ids, self.known)
        if not self.known & set(ids):
            users = [text for text in self.written if not text.startswith(">")]
            new = continued(messages, users)
        self.known |= {ids[at] for at in new}
        self.written += [texts[at] for at in new]
        return [texts[at] for at in new]


def test_each_message_once() -> None:
    chat = Chat()
    assert chat.hears("a") == ["a"]
    assert chat.hears("a", ">A", "b") == ["b"]
    assert chat.hears("a", ">A", "b", ">B", "c") == ["c"]
    assert chat.hears("a", ">A", "b", ">B", "c", ">tool") == []


def test_the_same_words_again_are_new_words() -> None:
    chat = Chat()
    assert chat.hears("yes") == ["yes"]
    assert chat.hears("yes", ">Y", "yes") == ["yes"]
    assert chat.hears("yes", ">Y", "yes", ">Y", "yes") == ["yes"]


def test_a_program_that_changes_the_answers() -> None:
    chat = Chat()
    chat.hears("a")
    assert chat.hears("a", ">other", "b") == ["b"]


def test_what_was_missed_is_made_up_for() -> None:
    chat = Chat()
    assert chat.hears("a", ">A", "b") == ["a", ">A", "b"]
    assert chat.hears("a", ">A", "b", ">B", "c", ">C", "d") == ["c", ">C", "d"]


def test_a_message_edited_and_conversations_in_turns() -> None:
    chat = Chat()
    chat.hears("a")
    chat.hears("a", ">A", "b")
    assert chat.hears("a", ">A", "B!") == ["B!"]
    assert chat.hears("x") == ["x"]
    assert chat.hears("a", ">A", "b", ">B", "c") == ["c"]
    assert chat.hears("x", ">X", "y") == ["y"]


def test_a_greeting() -> None:
    chat = Chat()
    assert chat.hears(">hello", "a") == [">hello", "a"]
    assert chat.hears(">hello", "b") == ["b"]


def test_a_program_that_forgets_the_beginning() -> None:
    chat = Chat()
    chat.hears("a")
    chat.hears("a", ">A", "b")
    chat.hears("a", ">A", "b", ">B", "c")
    assert chat.hears("b", ">B", "c", ">C", "d") == ["d"]
    assert chat.hears("c", ">C", "d", ">D", "e") == ["e"]


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=8))
def test_any_conversation_is_written_as_it_was(words: Sequence[str]) -> None:
    chat = Chat()
    history: list[str] = []
    for word in words:
        history.append(word)
        chat.hears(*history)
        chat.hears(*history)  # a retry
        history.append(">" + word)
    assert chat.written == list(words)


def test_what_a_conversation_is_known_by() -> None:
    first = Asked(tuple(said("a")), "be brief")
    assert conversation_key(first) == conversation_key(
        Asked(tuple(said("a", ">A", "b")), "be brief")
    )
    assert conversation_key(first) != conversation_key(Asked(tuple(said("b")), "be brief"))
    assert conversation_key(first) != conversation_key(Asked(tuple(said("a")), ""))
    assert message_ids(said("a"), "one") != message_ids(said("a"), "two")
