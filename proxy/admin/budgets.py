"""What is left: every budget of every agent, and why a payment would be allowed or not."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from policies import Ask, PolicyError, explain, parse_usd
from policies.cases import ask_for
from policies.explanation import first_no
from proxy.admin.answers import answer
from proxy.admin.rights import asked, needs
from proxy.admin.roles import Role
from proxy.admin.shapes import Given, Line, Name, Query, Session, Usd, items_of
from proxy.ledger import Database, agents, budgets, policies
from proxy.ledger import sessions as clock
from proxy.ledger.budgets import Budget
from proxy.ledger.facts import facts
from proxy.records import as_fields
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
    """`code`: of the first rule that denies; "ok" if none does. Nothing is reserved by asking."""

    agent: Name
    version: int
    allowed: bool
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
        ask = await _ask(database, question)
        book = await policies.load(database)
        policy = book.policy(question.agent, ask.scheme, ask.host, ask.port)
        known = await facts(database, policy, ask, session=question.session, trace=question.trace)
        steps = explain(policy, ask, known)
        no = first_no(steps)
        return answer(
            {
                "agent": question.agent,
                "version": book.version,
                "allowed": no is None,
                "code": "ok" if no is None else no.code,
                "steps": [as_fields(step) for step in steps],
            }
        )

    return [web.get("/v1/budgets", list_budgets), web.get("/v1/policies/explain", explain_)]


async def _ask(database: Database, question: Question) -> Ask:
    try:
        return ask_for(
            question.url,
            parse_usd(question.price),
            method=question.method,
            pay_to=question.pay_to,
            asset=question.asset,
            network=question.network,
            at=await clock.now(database),
        )
    except PolicyError as error:
        raise Problem(400, "bad_query", f"{error}.") from None
