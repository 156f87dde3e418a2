"""Intents, asked for by agents: who would be asked, and the asking. An agent does here what it may
do through the proxy, under its own policy and budgets, and no more; keys may look on."""

import asyncio
import base64
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field

from policies import format_usd, parse_usd
from proxy.admin.answers import answer
from proxy.admin.answers import told as refusal
from proxy.admin.rights import asker, for_agents, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Line, Session, SignedUsd, Text, Usd, shape
from proxy.intents import (
    MOST_ATTEMPTS,
    MOST_CANDIDATES,
    Intent,
    IntentError,
    header_fields,
    intent_of,
)
from proxy.ledger import Agent, Database
from proxy.procurement.procurement import Procurement
from proxy.procurement.ranking import Ranked
from proxy.procurement.run import Run
from proxy.procurement.tried import Tried, tried
from proxy.procurement.wish import Wish
from proxy.records import as_fields
from proxy.wire.aside import Cut
from proxy.wire.gate import Whole
from proxy.wire.problem import Problem

RECEIPTS = 50
LISTENS_SECONDS = 0.5
# Under way at once. Each keeps a connection of the listener's 200, which the operator needs too.
MOST_OF_AN_AGENT = 16
MOST_OF_ALL = 100

Url = Annotated[Line, Field(max_length=2_000, examples=["https://api.example.com/v1/quote"])]
Method = Annotated[str, Field(pattern=r"^[A-Z]{1,20}$")]
Content = Annotated[Text, Field(max_length=200_000)]


class CandidateSent(Body):
    """One who may be asked. `expect`: what its answer must be (docs/providers.md)."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    url: Url
    method: Method | None = None
    body: Content | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    max_price_usd: Usd | None = None
    expect: dict[str, Any] | None = None


class WishSent(Body):
    """`intent` names one of the settings, which `max_attempts` and `total_usd` can only narrow;
    with `candidates` it is made here. `path` goes below each candidate's URL."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"intent": "quote", "path": "/BTC?in=USD"}]}
    )

    intent: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    candidates: (
        Annotated[list[CandidateSent], Field(min_length=1, max_length=MOST_CANDIDATES)] | None
    ) = None
    max_attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] | None = None
    total_usd: Usd | None = None
    require_https: bool = False
    policy: dict[str, Any] | None = None
    method: Method = "GET"
    path: Annotated[str, Field(pattern=r"^/[!-\"$-~]*$", max_length=2_000)] = "/"
    headers: dict[str, str] = Field(default_factory=dict)
    body: Content = ""
    session: Session | None = None
    trace: Session | None = None
    tool: Session | None = None
    idempotency_key: Annotated[Line, Field(min_length=1, max_length=200)] | None = None


class RankedGiven(Given):
    """`place` from 1; null: it is not asked, for the reason `code`."""

    candidate: str
    provider: str
    url: str
    place: int | None
    score: float
    code: str | None
    why: str


class Ranking(Given):
    """Who would be asked now, the first one first."""

    intent: str
    max_attempts: int
    total_usd: SignedUsd
    best: str | None
    candidates: list[RankedGiven]


class AttemptGiven(Given):
    """`money`: none was spent, it was paid, or its payment is in doubt and held. `earlier`: by a
    call before, under the same key. `served`: it answered as expected, else `fault` says how not.
    """

    attempt: int
    candidate: str
    provider: str
    url: str
    status: int
    served: bool
    fault: str | None
    code: str | None
    payment: str | None
    cost_usd: SignedUsd
    money: Literal["none", "paid", "in_doubt"]
    earlier: bool
    seconds: float


class Skipped(Given):
    candidate: str
    code: str
    why: str


class AnswerGiven(Given):
    """The provider's. `body` is null where it is no text: then `body_base64` has it. `truncated`:
    it is longer, and only its beginning is here."""

    status: int
    headers: list[tuple[str, str]]
    body: str | None
    body_base64: str | None
    truncated: bool


class Executed(Given):
    """Who served, what he answered, and every attempt with what it cost."""

    intent: str
    candidate: str
    provider: str
    cost_usd: SignedUsd
    lost_usd: SignedUsd
    in_doubt_usd: SignedUsd
    attempts: list[AttemptGiven]
    skipped: list[Skipped]
    answer: AnswerGiven


class State(Given):
    """The intents of the settings, as they would be asked now, and the newest attempts: of the
    agent that asks, or of all."""

    intents: list[Ranking]
    receipts: list[shape(Tried)]  # type: ignore[valid-type]


class _UnderWay:
    """The executes, by agent."""

    def __init__(self) -> None:
        self._counts: Counter[UUID] = Counter()

    def full(self, agent: Agent) -> Problem | None:
        """Why the agent may not execute now."""
        if self._counts[agent.id] >= MOST_OF_AN_AGENT:
            whose = f"At most {MOST_OF_AN_AGENT} executes of one agent"
        elif self._counts.total() >= MOST_OF_ALL:
            whose = f"At most {MOST_OF_ALL} executes"
        else:
            return None
        return Problem(
            503,
            "too_many_connections",
            f"{whose} are under way at once; nothing was sent. Try again.",
            headers=((b"Retry-After", b"1"),),
        )

    @contextmanager
    def one_of(self, agent: Agent) -> Iterator[None]:
        self._counts[agent.id] += 1
        try:
            yield
        finally:
            self._counts[agent.id] -= 1
            if not self._counts[agent.id]:
                del self._counts[agent.id]


def routes(procurement: Procurement, database: Database) -> list[web.RouteDef]:
    under_way = _UnderWay()

    @for_agents(body=WishSent, gives=Ranking, refuses=(404,))
    async def rank(request: web.Request) -> web.Response:
        """Who would be asked for this now, in which order, and why. Nothing is sent."""
        wish = _wish(procurement, _agent(request), sent(request, WishSent))
        return answer(_ranking(wish.intent, procurement.candidates.rank(wish)))

    @for_agents(body=WishSent, gives=Executed, refuses=(404, 408, 409, 422, 502, 503, 504))
    async def execute(request: web.Request) -> web.Response:
        """Ask one after another until one has answered as expected, and pay as the agent may."""
        agent = _agent(request)
        if full := under_way.full(agent):
            response = refusal(full)
            response.force_close()  # its connection would be kept from the operator all the same
            return response
        wish = _wish(procurement, agent, sent(request, WishSent))
        with under_way.one_of(agent):
            run = await _while_it_listens(request, procurement.run(wish))
        if isinstance(run.answer, Problem):
            raise run.answer
        return answer(_executed(run))

    @for_agents(least=Role.READER, gives=State)
    async def state(request: web.Request) -> web.Response:
        """How every intent stands, and what was tried last."""
        agent = asker(request)
        receipts = await tried(database, None if agent is None else agent.id, RECEIPTS)
        return answer(
            {
                "intents": [
                    _ranking(intent, procurement.candidates.survey(intent, agent))
                    for intent in procurement.intents.values()
                ],
                "receipts": [as_fields(one, money=Tried.MONEY) for one in receipts],
            }
        )

    return [
        web.post("/v1/procure/rank", rank),
        web.post("/v1/procure/execute", execute),
        web.get("/v1/procure/state", state),
        web.post("/procure/rank", rank),
        web.post("/procure/execute", execute),
        web.get("/procure/state", state),
    ]


def _agent(request: web.Request) -> Agent:
    agent = asker(request)
    assert agent is not None, "the mark lets nobody else in"
    return agent


def _wish(procurement: Procurement, agent: Agent, asked: WishSent) -> Wish:
    """Raises Problem."""
    try:
        if asked.method in ("CONNECT", "TRACE"):
            raise IntentError(f"method: {asked.method} cannot be asked for")
        if asked.candidates is not None:
            intent = intent_of(asked.intent, _given(asked), trusted=False)
        elif asked.policy is not None or asked.require_https:
            raise IntentError("policy, require_https: go with candidates; this intent has its own")
        else:
            total = None if asked.total_usd is None else parse_usd(asked.total_usd)
            intent = procurement.intent(asked.intent).within(asked.max_attempts, total)
        headers = header_fields("headers", asked.headers)
    except IntentError as error:
        raise Problem(400, "bad_body", f"{error}.") from None
    return Wish(
        agent,
        intent,
        asked.method,
        asked.path.encode(),
        headers,
        asked.body.encode(),
        asked.session,
        asked.trace,
        asked.tool,
        None if asked.idempotency_key is None else asked.idempotency_key.encode(),
    )


def _given(asked: WishSent) -> dict[str, Any]:
    return {
        "candidates": [
            one.model_dump() | {"max_price": one.max_price_usd} for one in asked.candidates or ()
        ],
        "max_attempts": asked.max_attempts,
        "total": asked.total_usd,
        "require_https": asked.require_https,
        "policy": asked.policy,
    }


async def _while_it_listens(request: web.Request, running: Coroutine[Any, Any, Run]) -> Run:
    """Nothing more is bought for a program that has gone."""
    task = asyncio.ensure_future(running)
    try:
        while not (await asyncio.wait([task], timeout=LISTENS_SECONDS))[0]:
            if request.transport is None or request.transport.is_closing():
                task.cancel()
        return task.result()
    finally:
        task.cancel()


def _ranking(intent: Intent, ranked: list[Ranked]) -> dict[str, Any]:
    return {
        "intent": intent.name,
        "max_attempts": intent.max_attempts,
        "total_usd": format_usd(intent.total),
        "best": next((one.candidate.id for one in ranked if one.place == 1), None),
        "candidates": [
            {
                "candidate": one.candidate.id,
                "provider": one.candidate.origin.key,
                "url": one.candidate.endpoint,
                "place": one.place,
                "score": round(one.score, 6),
                "code": one.code or None,
                "why": one.why,
            }
            for one in ranked
        ],
    }


def _executed(run: Run) -> dict[str, Any]:
    served, got = run.served, run.answer
    assert served is not None and isinstance(got, Whole | Cut), "else it is a problem"
    try:
        text, coded = got.body.decode(), None
    except UnicodeDecodeError:
        text, coded = None, base64.b64encode(got.body).decode()
    return {
        "intent": run.intent.name,
        "candidate": served.candidate,
        "provider": served.provider,
        "cost_usd": format_usd(run.cost),
        "lost_usd": format_usd(run.lost),
        "in_doubt_usd": format_usd(run.doubtful),
        "attempts": [one.told for one in run.attempts],
        "skipped": run.skipped,
        "answer": {
            "status": got.status,
            "headers": [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in (*got.headers, *got.ours)
            ],
            "body": text,
            "body_base64": coded,
            "truncated": isinstance(got, Cut),
        },
    }
