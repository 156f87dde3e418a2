"""POST /v1/procure/rank and /execute, GET /v1/procure/state: an agent's rights, and no more."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from policies import Policy
from proxy.admin import Role, procure
from proxy.admin.listener import CONNECTIONS
from proxy.ledger import agents
from proxy.localnet import Localnet
from tests.admin.desk import Desk, refused
from tests.e2e.house import LOOPBACK, until
from tests.procurement.market import Market, asks, market
from tests.providers.faulty import GOODS, good, hangs, hangs_up, settles, wrong

EXECUTE, RANK, STATE = "/v1/procure/execute", "/v1/procure/rank", "/v1/procure/state"


async def another(quotes: Market, name: str = "miser", **policy: Any) -> str:
    """The token of one more agent."""
    home = quotes.home
    made = Policy(name, **({"allowed_targets": LOOPBACK} | policy))
    new = await agents.add(home.operator, home.service.store.vault, name, made)
    await until(lambda: home.service.directory.by_token(new.token) is not None)
    return new.token


async def test_rank_explains(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"a": hangs_up(), "b": asks(net, settles()), "c": good()}
    async with market(net, dsn, tmp_path, acts, breaker={"failures": 1}) as quotes:
        desk, token = Desk(quotes.home), quotes.home.token
        before = (await desk.ask(RANK, token, "POST", json={"intent": "quote"})).json
        assert [one["candidate"] for one in before["candidates"]] == ["a", "b", "c"]
        assert before["best"] == "a" and "nothing is known" in before["candidates"][0]["why"]
        assert not quotes.sellers["a"].seen
        assert (await quotes.want()).headers["Autopay-Candidate"] == "b"
        denied = [f"{quotes.sellers['c'].url}/*"]
        await quotes.home.set_rules(quotes.home.agent, None, denied_endpoints=denied)
        after = (await desk.ask("/procure/rank", token, "POST", json={"intent": "quote"})).json
        told = {one["candidate"]: (one["place"], one["code"]) for one in after["candidates"]}
        assert told == {"a": (None, "breaker_open"), "b": (1, None), "c": (None, "endpoint_denied")}
        assert after["best"] == "b"
        # For another agent another one may do.
        other = await another(quotes)
        free = (await desk.ask(RANK, other, "POST", json={"intent": "quote"})).json
        assert [one["place"] for one in free["candidates"]] == [1, 2, None]


async def test_execute(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"liar": asks(net, settles(500)), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        desk, home = Desk(quotes.home), quotes.home
        basic = base64.b64encode(f"{home.agent}:{home.token}".encode()).decode()
        wish = {"intent": "quote", "path": "/x?y=1", "headers": {"X-Mine": "1"}, "trace": "t-1"}
        answer = await desk.ask(
            EXECUTE, None, "POST", json=wish, headers={"Authorization": f"Basic {basic}"}
        )
        told = answer.json
        assert (told["candidate"], told["answer"]["status"]) == ("paid", 200)
        assert told["answer"]["body"].encode() == GOODS and not told["answer"]["truncated"]
        assert (told["cost_usd"], told["lost_usd"]) == ("0.002", "0.001")
        assert [one["money"] for one in told["attempts"]] == ["paid", "paid"]
        assert [one["served"] for one in told["attempts"]] == [False, True]
        assert told["attempts"][0]["fault"] == "it answered 500"
        assert quotes.sellers["paid"].seen[0].line == "GET /v1/quote/x?y=1 HTTP/1.1"
        assert quotes.sellers["paid"].seen[0].headers["x-mine"] == "1"
        ids = {row["id"] for row in await home.rows("SELECT id::text AS id FROM payments")}
        assert {one["payment"] for one in told["attempts"]} == ids
        assert await home.counters() == (2_000, 0)

        # Everybody's state, and one's own.
        mine = (await desk.ask(STATE, home.token)).json
        assert [one["attempt"] for one in mine["receipts"]] == [2, 1]
        assert {one["price_usd"] for one in mine["receipts"]} == {"0.001"}
        assert mine["intents"][0]["intent"] == "quote"
        theirs = (await desk.ask(STATE, await another(quotes))).json
        assert theirs["receipts"] == []
        everybodys = (await desk.ask("/procure/state", Role.READER)).json
        assert [one["agent"] for one in everybodys["receipts"]] == ["shopper", "shopper"]


async def test_those_under_way_leave_room_for_the_operator(
    net: Localnet, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with market(net, dsn, tmp_path, {"slow": hangs()}) as quotes:
        desk, wish = Desk(quotes.home), {"intent": "quote"}
        mine, theirs = quotes.home.token, await another(quotes)
        await desk.key(Role.OPERATOR)
        # A program that keeps every connection it gets.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as crowd:

            async def execute(path: str) -> tuple[int, str | None, str | None]:
                bearer = {"Authorization": f"Bearer {mine}"}
                async with crowd.post(desk.url + path, json=wish, headers=bearer) as response:
                    said = await response.json()
                    assert said["code"] == "too_many_connections"
                    headers = response.headers
                    return response.status, headers.get("Retry-After"), headers.get("Connection")

            calls = [
                asyncio.create_task(execute((EXECUTE, "/procure/execute")[n % 2]))
                for n in range(CONNECTIONS)
            ]
            await until(lambda: sum(call.done() for call in calls) == CONNECTIONS - 16)
            assert {call.result() for call in calls if call.done()} == {(503, "1", "close")}
            assert len(quotes.sellers["slow"].seen) == 16
            await desk.does("PUT", f"/v1/agents/{quotes.home.agent}/freeze", status=204)
            await desk.does("PUT", "/v1/halt", {"reason": "a crowd"})
            assert (await desk.ask("/healthz")).status == 200
            await desk.does("DELETE", "/v1/halt")
            # Another agent has places of its own, as long as there are any.
            monkeypatch.setattr(procure, "MOST_OF_ALL", 16)
            answer = await desk.ask(EXECUTE, theirs, "POST", json=wish)
            refused(answer, 503, "too_many_connections")
            assert "At most 16 executes are" in answer.json["detail"]
            monkeypatch.setattr(procure, "MOST_OF_ALL", 17)
            call = asyncio.create_task(desk.ask(EXECUTE, theirs, "POST", json=wish))
            await until(lambda: len(quotes.sellers["slow"].seen) == 17)
            for one in (call, *calls):
                one.cancel()
            await asyncio.gather(call, *calls, return_exceptions=True)
        # Who has gone has left his place.
        quotes.sellers["slow"].act = good()
        monkeypatch.setattr(procure, "MOST_OF_ALL", 1)

        async def served() -> bool:
            return (await desk.ask(EXECUTE, theirs, "POST", json=wish)).status == 200

        async with asyncio.timeout(20):
            while not await served():
                await asyncio.sleep(0.1)


async def test_all_fail(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"down": hangs_up(), "liar": asks(net, settles(500))}
    async with market(net, dsn, tmp_path, acts) as quotes:
        desk = Desk(quotes.home)
        answer = await desk.ask(EXECUTE, quotes.home.token, "POST", json={"intent": "quote"})
        refused(answer, 502, "intent_failed")
        assert [one["cost_usd"] for one in answer.json["attempts"]] == ["0.00", "0.001"]


async def test_nobody_uses_anothers_rights(net: Localnet, dsn: str, tmp_path: Path) -> None:
    async with market(net, dsn, tmp_path, {"paid": asks(net, settles())}) as quotes:
        desk, home = Desk(quotes.home), quotes.home
        miser = await another(quotes, per_call_limit=999)
        frozen = await another(quotes, "frozen", frozen=True)
        answer = await desk.ask(EXECUTE, miser, "POST", json={"intent": "quote"})
        refused(answer, 502, "intent_failed")
        assert answer.json["attempts"][0]["code"] == "over_per_call_limit"
        answer = await desk.ask(EXECUTE, frozen, "POST", json={"intent": "quote"})
        refused(answer, 503, "intent_failed")
        assert answer.json["skipped"][0]["code"] == "frozen"
        # One's name with another's token is nobody's credential.
        mixed = base64.b64encode(f"{home.agent}:{miser}".encode()).decode()
        answer = await desk.ask(
            EXECUTE,
            None,
            "POST",
            json={"intent": "quote"},
            headers={"Authorization": f"Basic {mixed}"},
        )
        refused(answer, 401, "authentication_required")
        assert quotes.payments("paid") == 0
        assert (await desk.ask(EXECUTE, home.token, "POST", json={"intent": "quote"})).status == 200
        payers = await home.rows("SELECT a.name FROM payments p JOIN agents a ON a.id = p.agent_id")
        assert payers == [{"name": "shopper"}]
        # Nor does it lead where the agent may not be taken.
        fenced = await another(quotes, "fenced", allowed_targets=())
        answer = await desk.ask(EXECUTE, fenced, "POST", json={"intent": "quote"})
        assert answer.json["attempts"][0]["code"] == "egress_loopback"


async def test_an_intent_of_the_call(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"liar": wrong(), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        desk, token = Desk(quotes.home), quotes.home.token
        listed = [
            {"id": name, "url": f"{seller.url}/q", "expect": {"content_type": "application/json"}}
            for name, seller in quotes.sellers.items()
        ]
        wish: dict[str, Any] = {"intent": "mine", "candidates": listed, "total_usd": "0.001"}
        told = (await desk.ask(EXECUTE, token, "POST", json=wish)).json
        assert (told["intent"], told["candidate"]) == ("mine", "paid")
        assert "text/html" in told["attempts"][0]["fault"]
        answer = await desk.ask(EXECUTE, token, "POST", json={**wish, "total_usd": "0.000999"})
        assert "over_intent_cap" in [one["code"] for one in answer.json["attempts"]]
        # What an agent expects is no word against a provider.
        picky = {**wish, "candidates": [{**listed[1], "expect": {"fields": ["gold"]}}]}
        answer = await desk.ask(EXECUTE, token, "POST", json=picky)
        assert (answer.json["lost_usd"], answer.json["attempts"][0]["fault"]) == (
            "0.001",
            "it lacks gold",
        )
        assert quotes.home.service.providers.why(quotes.sellers["paid"].url).paid_failures == 0
        assert not await quotes.home.rows("SELECT 1 FROM losses")
        # One of the settings can only be narrowed.
        answer = await desk.ask(
            EXECUTE,
            token,
            "POST",
            json={"intent": "quote", "max_attempts": 1, "total_usd": "1000", "method": "POST"},
        )
        assert len(answer.json["attempts"]) == 1
        wider = (
            await desk.ask(RANK, token, "POST", json={"intent": "quote", "total_usd": "1000"})
        ).json
        assert (wider["total_usd"], wider["max_attempts"]) == ("0.10", 3)


async def test_what_cannot_be_wished_for(net: Localnet, dsn: str, tmp_path: Path) -> None:
    async with market(net, dsn, tmp_path, {"good": good()}) as quotes:
        desk, token = Desk(quotes.home), quotes.home.token
        refused(
            await desk.ask(EXECUTE, token, "POST", json={"intent": "other"}), 404, "no_such_intent"
        )
        one = {"url": "http://127.0.0.1:1/"}
        for wish in (
            {},
            {"intent": "A"},
            {"intent": "a", "candidates": []},
            {"intent": "a", "candidates": [{"url": "ftp://x/"}]},
            {"intent": "a", "candidates": [{"url": "http://quote.intent.autopay/"}]},
            {"intent": "a", "candidates": [{"url": "http://autopay.internal/me"}]},
            {"intent": "a", "candidates": [{"url": "http://u:p@x/"}]},
            {"intent": "a", "candidates": [{**one, "id": "x"}, {**one, "id": "x"}]},
            {"intent": "a", "candidates": [{**one, "method": "CONNECT"}]},
            {"intent": "a", "candidates": [{**one, "headers": {"Host": "x"}}]},
            {"intent": "a", "candidates": [{**one, "headers": {"Autopay-Session": "x"}}]},
            {"intent": "a", "candidates": [{**one, "headers": {"X": "a\r\nb: c"}}]},
            {"intent": "a", "candidates": [{**one, "expect": {"schema": {"$ref": "#"}}}]},
            {"intent": "a", "candidates": [one], "policy": {"daily": "1"}},
            {"intent": "a", "candidates": [one], "max_attempts": 11},
            {"intent": "quote", "path": "x"},
            {"intent": "quote", "method": "TRACE"},
            {"intent": "quote", "require_https": True},
            {"intent": "quote", "headers": {"Content-Length": "1"}},
        ):
            refused(await desk.ask(EXECUTE, token, "POST", json=wish), 400, "bad_body")
        assert not quotes.sellers["good"].seen
