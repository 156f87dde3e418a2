"""A token that lives as long as one program, and counts against one session."""

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from policies import format_usd
from proxy.ledger import Agent, agents, sessions
from proxy.ledger.agents import AgentError, NewAgent
from proxy.ledger.sessions import Spending
from proxy.settings import Settings
from proxy.store import Store

log = logging.getLogger(__name__)

DEFAULT_AGENT = "run"
MOST_NAMES = 3
_BY = "autopay run"


@dataclass(frozen=True, slots=True)
class Lease:
    """What a program may spend with, and since when (by the database's clock)."""

    agent: Agent
    session: str
    token: str
    since: datetime


@asynccontextmanager
async def lease(
    store: Store,
    settings: Settings,
    agent: str = DEFAULT_AGENT,
    *,
    session: str | None = None,
    budget: int | None = None,
) -> AsyncIterator[Lease]:
    """A token of `agent` (made if there is none of that name), revoked at the end.

    It is bound to a session: `session`, else a new one. `budget`, in micro-USD, is what that
    session may spend in all; the ledger refuses more, whatever the program does. Raises AgentError.
    """
    database = store.database
    since = await sessions.now(database)
    new = await granted(store, settings, agent, session or f"run-{secrets.token_hex(6)}")
    assert new.agent.session is not None
    try:
        if budget is not None:
            await sessions.set_limit(database, new.agent, new.agent.session, budget)
        yield Lease(new.agent, new.agent.session, new.token, since)
    finally:
        await agents.revoke_token(database, new.token)


async def granted(store: Store, settings: Settings, agent: str, session: str | None) -> NewAgent:
    """A new token of `agent`, which is made if there is none of that name. Raises AgentError."""
    known = {info.agent.name for info in await agents.list_all(store.database) if info.is_active}
    if agent not in known:
        policy = settings.policy.of(agent)
        try:
            first = await agents.add(store.database, store.vault, agent, policy, by=_BY)
        except AgentError as error:
            if "already" not in str(error):
                raise  # else: another run has made it just now
        else:
            await agents.revoke_token(store.database, first.token)
            if agent != DEFAULT_AGENT:  # a name mistyped is a budget more
                log.warning(
                    "there was no agent %r: it was made, and may spend as a new one may; "
                    "to take it back: autopay agent remove %s",
                    agent,
                    agent,
                )
    return await agents.issue_token(store.database, store.vault, agent, session=session)


def told(spending: Spending) -> str:
    """In one line: what was bought, for how much, what is left."""
    if spending.calls:
        line = f"bought {_calls(spending.calls)} for ${format_usd(spending.spent)}"
        line += f" from {_names(spending.providers)}"
    else:
        line = "bought nothing"
    if spending.open_calls:
        held = format_usd(spending.held)
        line += f"; {_calls(spending.open_calls)} in doubt, which hold ${held}"
    if spending.denied_calls:
        line += f"; {_calls(spending.denied_calls)} refused ({spending.denied_reason})"
    return f"{line}; ${format_usd(spending.remaining)} left"


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _names(providers: list[str]) -> str:
    hosts = list(dict.fromkeys(urlsplit(provider).hostname or provider for provider in providers))
    more = len(hosts) - MOST_NAMES
    return ", ".join(hosts[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
