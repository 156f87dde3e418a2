"""What is said to a chat endpoint through the proxy is written down, if the operator wants it."""

import asyncio
import base64
import gzip
import json
import logging
import time

import asyncpg
import brotli
import pytest

from proxy.ledger import agents
from tests.chat.talk import JSON, STREAM, TRANSACTION, Talk, chunks, completion
from tests.e2e.house import until
from tests.wire.wire_rig import linger


async def test_a_paid_answer(talk: Talk) -> None:
    talk.sells(completion("Hello!", "chatcmpl-1"))
    answer = await talk.asks("hi")
    assert answer.status == 200
    user, bot = await talk.rows()
    assert (user["is_user"], user["content"], user["tx_hash"]) == (True, "hi", None)
    assert (bot["is_user"], bot["content"], bot["message_id"]) == (False, "Hello!", "chatcmpl-1")
    assert bot["tx_hash"] == answer.headers["Autopay-Transaction"] == TRANSACTION
    assert str(bot["payment_id"]) == answer.headers["Autopay-Payment"]
    (session,) = await talk.sessions()
    assert (session["title"], session["message_count"]) == ("hi", 2)
    agent = await talk.home.row("SELECT * FROM agents WHERE name = 'shopper'")
    assert (session["agent_id"], session["wallet_address"]) == (
        agent["id"],
        agent["wallet_address"],
    )


@pytest.mark.parametrize(("https", "paid"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("shape", ["json", "stream", "gzip", "br"])
async def test_every_way_to_answer(talk: Talk, paid: bool, shape: str) -> None:
    say = talk.sells if paid else talk.answers
    if shape == "stream":
        say(chunks("It rains in Oslo.") + b"data: [DONE]\n\n", STREAM)
    elif shape == "gzip":
        say(gzip.compress(completion("It rains in Oslo.")), JSON, (b"Content-Encoding", b"gzip"))
    elif shape == "br":
        say(brotli.compress(completion("It rains in Oslo.")), JSON, (b"Content-Encoding", b"br"))
    else:
        say(completion("It rains in Oslo."))
    assert (await talk.asks("weather?")).status == 200
    assert await talk.messages() == [("user", "weather?"), ("bot", "It rains in Oslo.")]


@pytest.mark.parametrize("settings", [{"providers": {"ai": {}}}])
async def test_a_mount(talk: Talk) -> None:
    talk.sells(completion("Hello!"))
    url = f"{talk.home.mounts}/ai/v1/chat/completions"
    answer = await talk.asks("hi", url=url, proxy=None, headers={"Autopay-Token": talk.home.token})
    assert answer.status == 200
    assert await talk.messages() == [("user", "hi"), ("bot", "Hello!")]


async def test_a_compressed_request(talk: Talk) -> None:
    talk.answers(completion("Hello!"))
    document = {"messages": [{"role": "user", "content": "hi"}]}
    body = gzip.compress(json.dumps(document).encode())
    await talk.asks(data=body, headers={"Content-Encoding": "gzip"})
    assert await talk.messages() == [("user", "hi"), ("bot", "Hello!")]


async def test_a_conversation_is_written_once(talk: Talk) -> None:
    talk.sells(completion("A"))
    await talk.asks("a")
    talk.sells(completion("B"))
    await talk.asks("a", ">A", "b")
    talk.sells(completion("C"))
    await talk.asks("a", ">A", "b", ">B", "c")
    texts = [text for _, text in await talk.messages()]
    assert texts == ["a", "A", "b", "B", "c", "C"]
    (session,) = await talk.sessions()
    assert session["message_count"] == 6
    ids = [row["message_id"] for row in await talk.rows()]
    assert len(set(ids)) == 6, "the server calls every answer c1"


async def test_sessions_and_conversations(talk: Talk) -> None:
    talk.answers(completion("!"))
    await talk.asks("a", session="one")
    await talk.asks("b", session="one")
    await talk.asks("a", session="two")
    await talk.asks("a")
    await talk.asks("a", ">!", "b")
    await talk.asks("other")
    found = {
        row["session_key"] if row["session_key"][0] != "~" else row["title"]: row["message_count"]
        for row in await talk.sessions()
    }
    assert found == {"one": 4, "two": 2, "a": 4, "other": 2}


async def test_a_bound_token_stays_in_its_session(talk: Talk) -> None:
    vault = talk.home.service.store.vault
    new = await agents.issue_token(talk.home.operator, vault, "shopper", session="bound")
    await until(lambda: talk.home.service.directory.by_token(new.token) is not None)
    host, port = talk.home.service.proxy_address
    talk.answers(completion("!"))
    proxy = f"http://shopper:{new.token}@{host}:{port}"
    assert (await talk.asks("a", session="other", proxy=proxy)).status == 200
    assert [row["session_key"] for row in await talk.sessions()] == ["bound"]


async def test_responses_that_follow_one_another(talk: Talk) -> None:
    def response(text: str, identity: str) -> bytes:
        content = [{"type": "output_text", "text": text}]
        return json.dumps(
            {"id": identity, "output": [{"type": "message", "content": content}]}
        ).encode()

    talk.answers(response("A", "r1"))
    await talk.asks(path="/v1/responses", data=json.dumps({"input": "a"}))
    await talk.quiet()
    talk.answers(response("B", "r2"))
    body = {"input": "b", "previous_response_id": "r1"}
    await talk.asks(path="/v1/responses", data=json.dumps(body))
    assert [text for _, text in await talk.messages()] == ["a", "A", "b", "B"]
    assert len(await talk.sessions()) == 1


async def test_an_image(talk: Talk) -> None:
    talk.answers(completion("a cat"))
    url = "https://i.example/cat.png?token=s3cret"
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
    await talk.asks({"role": "user", "content": parts})
    assert (await talk.rows())[0]["image_preview"] == "https://i.example/cat.png?token=***"


async def test_the_prompt_of_a_trace(talk: Talk) -> None:
    talk.sells(completion("!"))
    for words in ("first", "second"):
        await talk.asks("hi", ">!", words, headers={"Autopay-Trace": "t1"})
        await talk.quiet()
    trace = await talk.home.row("SELECT * FROM x402_traces")
    assert (trace["trace_id"], trace["user_prompt"]) == ("t1", "first")


@pytest.mark.parametrize(
    ("status", "body"), [(500, completion("x")), (200, b"<html>"), (200, b'{"error": 1}')]
)
async def test_what_is_no_answer(talk: Talk, status: int, body: bytes) -> None:
    talk.answers(body, status=status)
    await talk.asks("hi")
    assert await talk.messages() == []


async def test_other_traffic(talk: Talk) -> None:
    talk.answers(completion("!"))
    await talk.asks("hi", path="/v1/embeddings")
    await talk.asks(data="no json", path="/v1/chat/completions")
    await talk.home.ask(talk.seller.url + "/v1/chat/completions")
    assert await talk.messages() == []


async def test_opting_out(talk: Talk) -> None:
    talk.sells(completion("!"))
    await talk.capture(False)
    assert (await talk.asks("hi", headers={"Autopay-Trace": "t1"})).status == 200
    assert await talk.messages() == []
    assert await talk.sessions() == []
    assert (await talk.home.row("SELECT user_prompt FROM x402_traces"))["user_prompt"] is None


async def test_what_is_too_long(talk: Talk) -> None:
    talk.answers(chunks("word " * 20_000), STREAM)
    answer = await talk.asks("hi")
    (_, bot) = await talk.rows()
    assert bot["truncated"] and bot["content"].startswith("word word ")
    assert len(answer.body) > 256 * 1024 > len(bot["content"])

    talk.answers(completion("B"))
    await talk.asks("x" * 300_000, session="long")
    await talk.asks("x" * 300_000, session="long")
    rows = (await talk.rows())[2:]
    assert [(row["is_user"], row["content"], row["truncated"]) for row in rows] == [
        (True, "", True),
        (False, "B", False),
        (False, "B", False),
    ]
    capture = talk.home.service.capture
    assert capture.stock.left == capture.stock_bytes


async def test_an_answer_that_breaks_off(talk: Talk) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n"
    talk.seller.answer = lambda seen: head + chunks("as far as")
    host, port = talk.home.service.proxy_address
    reader, writer = await asyncio.open_connection(host, port)
    credential = base64.b64encode(f"shopper:{talk.home.token}".encode()).decode()
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
    writer.write(
        f"POST {talk.seller.url}/chat/completions HTTP/1.1\r\nHost: h\r\n"
        f"Proxy-Authorization: Basic {credential}\r\nContent-Length: {len(body)}\r\n\r\n"
        f"{body}".encode()
    )
    await reader.readuntil(b"far")
    await reader.readuntil(b"as")
    linger(writer)
    writer.transport.abort()  # the program gives up
    async with asyncio.timeout(20):
        while not (rows := await talk.rows()):
            await asyncio.sleep(0.01)
    assert (rows[1]["content"], rows[1]["truncated"]) == ("as far as", True)


async def test_no_secret_is_written(talk: Talk) -> None:
    talk.sells(completion("!"), JSON, (b"Set-Cookie", b"s3cret=1"))
    headers = {"Authorization": "Bearer s3cret", "Cookie": "s3cret", "X-Api-Key": "s3cret"}
    assert (await talk.asks("hi", headers=headers)).status == 200
    await talk.quiet()
    for table in ("chat_sessions", "chat_messages", "api_requests", "payments"):
        rows = await talk.home.rows(f"SELECT row_to_json(t)::text AS row FROM {table} t")
        assert rows
        assert not [row for row in rows if "s3cret" in row["row"]]


async def test_a_slow_database_does_not_slow_traffic(
    talk: Talk, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    talk.answers(completion("!"))
    await talk.asks("warm")
    await talk.quiet()
    lock = await asyncpg.connect(dsn)
    try:
        async with lock.transaction():
            await lock.execute("LOCK TABLE chat_sessions IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            for n in range(30):
                assert (await talk.asks(f"message {n}", session="s")).status == 200
            assert time.monotonic() - began < 4  # one that waits is given up after five
            assert talk.home.service.capture.waiting > 20
    finally:
        await lock.close()
    texts = [text for who, text in await talk.messages() if who == "user"]
    assert texts == ["warm", *(f"message {n}" for n in range(30))]


async def test_what_finds_no_room_is_dropped_and_said(
    talk: Talk, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    talk.answers(completion("!"))
    capture = talk.home.service.capture
    lock = await asyncpg.connect(dsn)
    try:
        async with lock.transaction():
            await lock.execute("LOCK TABLE chat_sessions IN ACCESS EXCLUSIVE MODE")
            capture._backlog._queue._maxsize = 5  # type: ignore[attr-defined]
            with caplog.at_level(logging.ERROR):
                for n in range(9):
                    assert (await talk.asks(f"message {n}", session="s")).status == 200
            assert capture.dropped >= 2
            assert "dropped so far" in caplog.text
    finally:
        await lock.close()
    dropped = capture.dropped
    assert len([1 for who, _ in await talk.messages() if who == "user"]) == 9 - dropped
    assert capture.stock.left == capture.stock_bytes


async def test_a_database_that_goes_and_comes_back(talk: Talk, dsn: str) -> None:
    talk.answers(completion("!"))
    database = talk.home.service.store.database  # the one that the proxy itself writes with
    run, failures = database.execute, 2

    async def flaky(sql: str, *args: object) -> str:
        nonlocal failures
        from proxy.ledger import LedgerUnavailable

        result = await run(sql, *args)
        if "chat_messages" in sql and failures:
            failures -= 1
            raise LedgerUnavailable("its answer was lost", may_have_happened=True)
        return result

    database.execute = flaky  # type: ignore[method-assign]
    await talk.asks("hi")
    assert await talk.messages() == [("user", "hi"), ("bot", "!")]
    assert failures == 0
    (session,) = await talk.sessions()
    assert session["message_count"] == 2
