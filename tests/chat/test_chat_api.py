"""The chat and ratings API, at the operator's listener."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from proxy.admin import Role
from tests.admin.desk import Desk, refused
from tests.chat.talk import Talk, completion
from tests.e2e.house import Answer

WALLET = "A" * 44
SESSIONS, RATINGS = "/v1/chat/sessions", "/v1/ratings"


@pytest.fixture
def desk(talk: Talk) -> Desk:
    return Desk(talk.home)


async def send(desk: Desk, path: str, document: Any, method: str = "POST") -> Answer:
    return await desk.ask(path, Role.OPERATOR, method, json=document)


async def new_session(desk: Desk, wallet: str = WALLET, **more: Any) -> str:
    answer = await send(desk, SESSIONS, {"wallet_address": wallet, **more})
    assert answer.status == 201, answer.body
    identity: str = answer.json["id"]
    return f"{SESSIONS}/{identity}"


async def say(desk: Desk, session: str, content: str, **more: Any) -> dict[str, Any]:
    answer = await send(desk, f"{session}/messages", {"content": content, "is_user": True, **more})
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.json
    return found


async def test_sessions(desk: Desk) -> None:
    first = await new_session(desk)
    second = await new_session(desk, title="About gold", agent="shopper")
    await new_session(desk, wallet="B" * 44)
    found = await desk.items(f"{SESSIONS}?wallet={WALLET}", Role.AUDITOR)
    assert [(one["title"], one["agent"]) for one in found] == [
        ("About gold", "shopper"),
        ("New Chat", None),
    ]
    await say(desk, first, "hello")  # what was used last comes first
    found = await desk.items(f"{SESSIONS}?wallet={WALLET}", Role.AUDITOR)
    assert [one["message_count"] for one in found] == [1, 0]
    one = (await desk.ask(first, Role.AUDITOR)).json
    assert (one["wallet_address"], one["title"], one["message_count"]) == (WALLET, "New Chat", 1)

    assert (await desk.ask(first, Role.OPERATOR, "DELETE")).status == 204
    refused(await desk.ask(first, Role.OPERATOR, "DELETE"), 404, "no_such_session")
    refused(await desk.ask(first, Role.AUDITOR), 404, "no_such_session")
    assert await desk.home.rows("SELECT * FROM chat_messages") == []
    assert (await desk.ask(second, Role.AUDITOR)).status == 200


async def test_messages(desk: Desk) -> None:
    session = await new_session(desk)
    made = await say(
        desk,
        session,
        "paid",
        message_id="m1",
        escrow_id="e1",
        tx_hash="t1",
        image_preview="data:,x",
    )
    assert {
        name: made[name] for name in ("message_id", "escrow_id", "tx_hash", "image_preview")
    } == {
        "message_id": "m1",
        "escrow_id": "e1",
        "tx_hash": "t1",
        "image_preview": "data:,x",
    }
    other = await say(desk, session, "", is_user=False)
    assert other["message_id"].startswith("msg-") and other["is_user"] is False
    found = await desk.items(f"{session}/messages", Role.AUDITOR)
    assert [one["content"] for one in found] == ["", "paid"]
    again = {"content": "x", "is_user": True, "message_id": "m1"}
    refused(await send(desk, f"{session}/messages", again), 409, "message_exists")
    await say(desk, await new_session(desk), "x", message_id="m1")  # of another session

    answer = await desk.ask(f"{session}/messages", Role.OPERATOR, "DELETE")
    assert (answer.status, answer.json) == (200, {"deleted": 2})
    assert await desk.items(f"{session}/messages", Role.AUDITOR) == []
    assert (await desk.ask(session, Role.AUDITOR)).json["message_count"] == 0


async def test_one_message_at_once_from_many(desk: Desk) -> None:
    session = await new_session(desk)
    document = {"content": "x", "is_user": True, "message_id": "m1"}
    answers = await asyncio.gather(*(send(desk, f"{session}/messages", document) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    assert (await desk.ask(session, Role.AUDITOR)).json["message_count"] == 1


async def test_pages(desk: Desk) -> None:
    session = await new_session(desk)
    for number in range(5):
        await say(desk, session, str(number))
    seen, before = [], ""
    for _ in range(3):
        answer = await desk.ask(f"{session}/messages?limit=2{before}", Role.AUDITOR)
        seen.append([one["content"] for one in answer.json["items"]])
        before = f"&before={answer.json['next']}"
    assert seen == [["4", "3"], ["2", "1"], ["0"]]
    assert before == "&before=None"


async def test_ratings(desk: Desk) -> None:
    session = await new_session(desk, agent="shopper")
    await say(desk, session, "hello", message_id="m1", is_user=False)

    async def rate(user: str, positive: bool, message: str = "m1") -> Answer:
        document = {"message_id": message, "user_address": user, "is_positive": positive}
        return await send(desk, RATINGS, document, "PUT")

    for user, positive in (("ann", True), ("bob", True), ("cat", False), ("ann", False)):
        answer = await rate(user, positive)
        assert (answer.status, answer.json["is_positive"]) == (200, positive)
    refused(await rate("ann", True, "m2"), 404, "no_such_message")
    found = await desk.items(f"{RATINGS}?message_id=m1", Role.AUDITOR)
    assert {one["user_address"]: one["is_positive"] for one in found} == {
        "ann": False,
        "bob": True,
        "cat": False,
    }
    (figures,) = await desk.items("/v1/dashboard/agents?agent=shopper")
    assert (figures["positive"], figures["negative"], figures["rating_percent"]) == (1, 2, 33)
    word = f"{RATINGS}?message_id=m1&user_address=cat"
    assert (await desk.ask(word, Role.OPERATOR, "DELETE")).status == 204
    refused(await desk.ask(word, Role.OPERATOR, "DELETE"), 404, "no_such_rating")
    (figures,) = await desk.items("/v1/dashboard/agents")
    assert (figures["negative"], figures["rating_percent"]) == (1, 50)
    refused(await desk.ask("/v1/dashboard/agents?agent=nobody", Role.READER), 404, "no_such_agent")


async def test_the_dashboard(talk: Talk, desk: Desk) -> None:
    nothing = (await desk.ask("/v1/dashboard/stats", Role.READER)).json
    assert (nothing["paid_calls"], nothing["spent_usd"]) == (0, "0.00")
    talk.sells(completion("Hello!"))
    for n in range(3):
        assert (await talk.asks(f"hi {n}")).headers["Autopay-State"] == "paid"
    await talk.quiet()
    async with asyncio.timeout(20):
        stats = nothing
        while stats["queries"] != 3:
            await asyncio.sleep(0.02)
            stats = (await desk.ask("/v1/dashboard/stats", Role.READER)).json
    assert (stats["chat_sessions"], stats["chat_messages"], stats["paid_calls"]) == (3, 6, 3)
    assert stats["spent_usd"] == "0.003"
    assert stats["average_response_ms"] >= 0
    days = await desk.items("/v1/dashboard/activity?days=2")
    assert [(day["messages"], day["paid_calls"], day["spent_usd"]) for day in days] == [
        (6, 3, "0.003"),
        (0, 0, "0.00"),
    ]
    (spend,) = await desk.items("/v1/dashboard/spend?agent=shopper")
    assert (spend["agent"], spend["provider"]) == ("shopper", talk.seller.url)
    assert (spend["paid_calls"], spend["spent_usd"]) == (3, "0.003")
    assert await desk.items("/v1/dashboard/spend?agent=other") == []
    (figures,) = await desk.items("/v1/dashboard/agents")
    assert (figures["uses"], figures["rating_percent"]) == (3, None)
    # what was captured is listed under the agent's wallet
    wallet = (await desk.home.row("SELECT wallet_address FROM agents WHERE name = 'shopper'"))[
        "wallet_address"
    ]
    found = await desk.items(f"{SESSIONS}?wallet={wallet}", Role.AUDITOR)
    assert [one["title"] for one in found] == ["hi 2", "hi 1", "hi 0"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"wallet_address": ""},
        {"wallet_address": "x" * 129},
        {"wallet_address": "a\nb"},
        {"wallet_address": 5},
        {"wallet_address": WALLET, "title": ""},
        {"wallet_address": WALLET, "title": "x" * 81},
        {"wallet_address": WALLET, "title": "a\0"},
        {"wallet_address": WALLET, "id": str(uuid4())},
    ],
)
async def test_bad_sessions(desk: Desk, document: Any) -> None:
    refused(await send(desk, SESSIONS, document), 400, "bad_body")


async def test_bad_messages_and_questions(desk: Desk) -> None:
    session = await new_session(desk)
    for document in (
        {"content": "x"},
        {"is_user": True},
        {"content": "x", "is_user": "true"},
        {"content": "a\0", "is_user": True},
        {"content": "\ud800", "is_user": True},
        {"content": None, "is_user": True},
        {"content": "x" * 131_073, "is_user": True},
        {"content": "x", "is_user": True, "message_id": ""},
        {"content": "x", "is_user": True, "message_id": "y" * 257},
        {"content": "x", "is_user": True, "tx_hash": "a\nb"},
        {"content": "x", "is_user": True, "image_preview": "y" * 65_537},
        {"content": "x", "is_user": True, "payment_id": str(uuid4())},
    ):
        refused(await send(desk, f"{session}/messages", document), 400, "bad_body")
    huge = {"content": "x" * 300_000, "is_user": True}
    refused(await send(desk, f"{session}/messages", huge), 413, "content_too_large")
    unknown = {"wallet_address": WALLET, "agent": "nobody"}
    refused(await send(desk, SESSIONS, unknown), 422, "no_such_agent")
    for path in (f"{SESSIONS}/{uuid4()}", f"{SESSIONS}/no-uuid"):
        message = {"content": "x", "is_user": True}
        refused(await send(desk, f"{path}/messages", message), 404, "no_such_session")
        refused(await desk.ask(f"{path}/messages", Role.AUDITOR), 404, "no_such_session")
        refused(await desk.ask(f"{path}/messages", Role.OPERATOR, "DELETE"), 404, "no_such_session")
    for query in (
        *(SESSIONS, f"{SESSIONS}?wallet=", f"{SESSIONS}?wallet=a&limit=0"),
        *(f"{SESSIONS}?wallet=a&limit=5000", f"{SESSIONS}?wallet=a&before=x", RATINGS),
        *("/v1/dashboard/stats?days=0", "/v1/dashboard/spend?days=x"),
    ):
        refused(await desk.ask(query, Role.AUDITOR), 400, "bad_query")


async def test_who_may(desk: Desk) -> None:
    session = await new_session(desk)
    word = f"{RATINGS}?message_id=m&user_address=u"
    least = {
        ("GET", f"{SESSIONS}?wallet=a"): Role.AUDITOR,
        ("POST", SESSIONS): Role.OPERATOR,
        ("GET", session): Role.AUDITOR,
        ("GET", f"{session}/messages"): Role.AUDITOR,
        ("POST", f"{session}/messages"): Role.OPERATOR,
        ("DELETE", f"{session}/messages"): Role.OPERATOR,
        ("GET", f"{RATINGS}?message_id=m"): Role.AUDITOR,
        ("PUT", RATINGS): Role.OPERATOR,
        ("DELETE", word): Role.OPERATOR,
        ("GET", "/v1/dashboard/agents"): Role.READER,
        ("GET", "/v1/dashboard/stats"): Role.READER,
        ("GET", "/v1/dashboard/activity"): Role.READER,
        ("GET", "/v1/dashboard/spend"): Role.READER,
        ("DELETE", session): Role.OPERATOR,
    }
    for (method, path), needed in least.items():
        refused(await desk.ask(path, method=method), 401, "api_key_required")
        for role in Role:
            answer = await desk.ask(path, role, method)
            if role.may(needed):
                assert answer.status not in (401, 403), (method, path, role)
            else:
                refused(answer, 403, "role_not_allowed")
