"""What is left: every budget of every agent, and why a payment would be allowed or not."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from policies import Ask, PolicyError, explain, parse_usd
from policies.cases import ask_for
from policies.explanation import conclusion
from proxy.admin.answers import answer
from proxy.admin.rights import asked, needs
from proxy.admin.roles import Role
from proxy.admin.shapes import Given, Line, Name, Query, Session, Usd, items_of
from proxy.ledger import Database, agents, budgets, policies
from proxy.ledger import sessions as clock
from proxy.ledger.budgets import Budget
from proxy.ledger.facts import facts
from proxy.records import as_fields
from proxy.supposed import completed, supposed_key
from proxy.wire.problem import Problem


class BudgetsAsked(Query):
    """Of one agent, or of all and of what they spend together."""

    agent: Name | None = None


class Question(Query):
    """A payment that an agent might make."""

    agent: Name
    url: Annotated[Line, Field(max_length=2_000, examples=["https://api.example.com/v1/quote"])]
    price: Usd
    method: Annotated[str, Field(pattern=r"^[A-Z]{1,20}$")] = "GET"
    pay_to: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{0,128}$")] = ""
    asset: Annotated[Line, Field(min_length=1, max_length=200)] = "USDC"
    network: Annotated[Line, Field(min_length=1, max_length=100)] = "solana"
    session: Session | None = None
    trace: Session | None = None
    scheme: Annotated[Line, Field(min_length=1, max_length=100)] = "exact"
    flow: Annotated[Line, Field(min_length=1, max_length=100)] = "authorization"
    max_timeout_seconds: Annotated[int, Field(ge=0, le=10**9)] = 60
    body_sha256: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9a-f]{64}$",
            description="of the request's body; of a GET or HEAD that of nothing",
        ),
    ] = None


class StepGiven(Given):
    """One rule, as one layer says it; `layer` is empty where none does."""

    rule: str
    layer: str
    outcome: Literal["allows", "denies", "silent", "unknown"]
    value: Any
    code: str
    detail: str
    numbers: dict[str, str | int | None]


class Explanation(Given):
    """`code`: of the first rule that denies; "ok" if none does. Where none denies and one cannot be
    answered, since an approval may be for this request or for another one, `code` is "unknown" and
    `allowed` null. Nothing is reserved by asking."""

    agent: Name
    version: int
    allowed: bool | None
    code: str
    steps: list[StepGiven]


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, query=BudgetsAsked, gives=items_of(Budget), refuses=(404,))
    async def list_budgets(request: web.Request) -> web.Response:
        """What is spent, held and left of every window, as the next payment would meet it."""
        agent = asked(request, BudgetsAsked).agent
        if agent is not None:
            await agents.find_active(database, agent)
        found = await budgets.now(database, agent)
        return answer({"items": [as_fields(one, money=one.MONEY) for one in found]})

    @needs(Role.READER, query=Question, gives=Explanation, refuses=(404,))
    async def explain_(request: web.Request) -> web.Response:
        """Every rule in its order, with the numbers, for a payment that an agent might make now."""
        question = asked(request, Question)
        await agents.find_active(database, question.agent)
        ask, request_key = await _ask(database, question)
        book = await policies.load(database)
        policy = book.policy(question.agent, ask.scheme, ask.host, ask.port)
        known = await facts(
            database,
            policy,
            ask,
            session=question.session,
            trace=question.trace,
            request_key=request_key,
        )
        steps = explain(policy, ask, known)
        code, allowed, _ = conclusion(steps)
        return answer(
            {
                "agent": question.agent,
                "version": book.version,
                "allowed": allowed,
                "code": code,
                "steps": [as_fields(step) for step in steps],
            }
        )

    return [web.get("/v1/budgets", list_budgets), web.get("/v1/policies/explain", explain_)]


async def _ask(database: Database, question: Question) -> tuple[Ask, bytes | None]:
    body = None if question.body_sha256 is None else bytes.fromhex(question.body_sha256)
    try:
        ask = ask_for(
            question.url,
            parse_usd(question.price),
            method=question.method,
            pay_to=question.pay_to,
            asset=question.asset,
            network=question.network,
            scheme=question.scheme,
            flow=question.flow,
            max_timeout_seconds=question.max_timeout_seconds,
            at=await clock.now(database),
        )
        return completed(ask), supposed_key(ask.method, question.url, body)
    except PolicyError as error:
        raise Problem(400, "bad_query", f"{error}.") from None
