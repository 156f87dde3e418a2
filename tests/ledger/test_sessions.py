"""Tokens that are bound to a session, and sessions that have a limit of their own."""

from policies import Policy
from proxy.ledger import Agent, Database, Directory, Ledger, Refused, Reserved, agents, sessions
from proxy.vault import Vault
from tests.ledger.books import check_books
from tests.ledger.conftest import Make


async def test_a_token_more_is_bound_to_its_session_and_ends_alone(
    database: Database, dsn: str, vault: Vault
) -> None:
    first = await agents.add(database, vault, "bot")
    bound = await agents.issue_token(database, vault, "bot", session="run-1")
    free = await agents.issue_token(database, vault, "bot")
    directory = Directory(dsn, vault)
    await directory.start()
    try:
        assert directory.authenticate("bot", first.token) == first.agent
        assert directory.authenticate("bot", free.token) == first.agent
        found = directory.authenticate("bot", bound.token)
        assert found == bound.agent == Agent(first.agent.id, "bot", "run-1")
        await agents.revoke_token(database, bound.token)
        await agents.revoke_token(database, bound.token)
        await directory.close()
        directory = Directory(dsn, vault)
        await directory.start()
        assert directory.by_token(bound.token) is None
        assert directory.by_token(free.token) == directory.by_token(first.token) == first.agent
    finally:
        await directory.close()


async def test_a_sessions_own_limit_holds_besides_the_policys(
    database: Database, ledger: Ledger, make: Make, bot: Agent
) -> None:
    since = await sessions.now(database)
    await sessions.set_limit(database, bot, "run-1", 25_000)
    for _ in range(2):
        assert isinstance(await ledger.reserve(make(session_id="run-1")), Reserved)
    refused = await ledger.reserve(make(session_id="run-1"))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.limit) == ("over_session_limit", 25_000)
    assert isinstance(await ledger.reserve(make(session_id="another")), Reserved)
    await ledger.flush(5.0)

    seen = await sessions.spending(database, bot, "run-1", since)
    assert (seen.open_calls, seen.held, seen.calls, seen.spent) == (2, 20_000, 0, 0)
    assert (seen.denied_calls, seen.denied_reason) == (1, "over_session_limit")
    assert seen.remaining == 5_000

    # The policy's limits hold where they are lower: the session's, and the day's.
    await sessions.set_limit(database, bot, "run-2", 5_000_000)
    await agents.set_policy(database, Policy("bot", session_limit=5_000))
    assert isinstance(await ledger.reserve(make(session_id="run-2")), Refused)
    await agents.set_policy(database, Policy("bot", daily_limit=35_000))
    assert (await sessions.spending(database, bot, "run-2", since)).remaining == 5_000
    await check_books(database)
