"""Which messages of a request are new: every request of a conversation brings all of them again.

A message is known by the hash of all that the user had said up to it. So an edited message begins a
branch, conversations of one session may take turns, and nothing has to be remembered but the ids
of the messages that were written.
"""

from collections.abc import Collection, Sequence
from hashlib import sha256

from proxy.chat.asked import Asked, Said

MOST_LOOKED_UP = 500


def conversation_key(asked: Asked) -> str:
    """What a conversation of no session is known by: how it began."""
    first = next((said.text for said in asked.said if said.is_user), "")
    return "~" + _digest(asked.opening, first)


def message_ids(said: Sequence[Said], seed: str) -> list[str]:
    """An id for each message. Only what the user says makes the chain: programs shorten what was
    answered, and bring the user's words as they were."""
    link, ids = _digest(seed), []
    for one in said:
        own = _digest(link, one.text, one.image or "")
        if one.is_user:
            link = own
        ids.append(("user-" if one.is_user else "answer-") + own)
    return ids


def new_messages(said: Sequence[Said], ids: Sequence[str], known: Collection[str]) -> range:
    """Where the messages stand that are not written yet.

    They begin with a user's message: what was answered to the last known one was written when it
    was answered.
    """
    last = max((at for at, one in enumerate(ids) if one in known and said[at].is_user), default=-1)
    if last < 0:  # but for a greeting before the user's first word
        return range(next((at for at, one in enumerate(ids) if one not in known), 0), len(said))
    return _from_user(said, last + 1)


def continued(said: Sequence[Said], recent: Sequence[str]) -> range:
    """The same where no id is known: a program may have dropped the beginning. `recent` is what the
    user has said in the session, oldest first."""
    users = [at for at, one in enumerate(said) if one.is_user]
    if len(users) < len(said):  # there is a history in it
        for count in range(min(len(users), len(recent)), 0, -1):
            if [said[at].text for at in users[:count]] == list(recent[-count:]):
                return _from_user(said, users[count - 1] + 1)
    return range(len(said))


def _from_user(said: Sequence[Said], start: int) -> range:
    while start < len(said) and not said[start].is_user:
        start += 1
    return range(start, len(said))


def _digest(*texts: str) -> str:
    digest = sha256()
    for text in texts:
        data = text.encode("utf-8", "replace")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:40]
