"""What came for the money, through the listening socket: judged at its end, handed on as it came,
and on record wherever money, providers and operators look."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest

from proxy.admin import Role
from proxy.cli import main
from proxy.localnet import Localnet
from proxy.wire.tap import Stock
from tests.admin.desk import Desk
from tests.e2e.house import Answer, House, house
from tests.e2e.seller import DEVNET, HangUp, Headers, Seen, b64, offer, reply
from tests.providers.faulty import Act, Faulty, answers, faulty, priced

SCHEMA = {"type": "object", "required": ["price"], "properties": {"price": {"type": "number"}}}
EXPECT = {
    "content_type": "application/json",
    "schema": json.dumps(SCHEMA),
    "fields": ["at.day"],
    "min_bytes": 10,
    "max_seconds": 60,
    "max_bytes": "64KiB",
}
GOOD = b'{"price": 1.5, "at": {"day": "Sunday"}}'
JSON = b"application/json"
PATIENCE = 30.0


def paid(
    body: bytes = GOOD, kind: bytes = JSON, status: int = 200, more: Headers | None = None
) -> bytes:
    told = {"success": True, "transaction": "5" * 88, "network": DEVNET, "payer": "p"}
    headers = [(b"PAYMENT-RESPONSE", b64(told)), (b"Content-Type", kind), *(more or [])]
    return reply(status, headers, body)


def cut(data: bytes) -> Act:
    async def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        raise HangUp

    return act


def late(data: bytes, seconds: float) -> Act:
    async def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        writer.write(data)

    return act


@dataclass
class Shop:
    """A house, and the provider from which it buys what comes."""

    home: House
    provider: Faulty
    entry: dict[str, Any]

    async def buy(self, act: Act, path: str = "/quote", **options: Any) -> Answer:
        self.provider.act = priced(self.entry, act)
        return await self.home.ask(self.provider.url + path, **options)

    async def delivery(self, number: int) -> dict[str, Any]:
        """The newest, once there are so many."""
        async with asyncio.timeout(PATIENCE):
            while True:
                rows = await self.home.rows(
                    "SELECT d.*, a.error_class, a.status::text AS request_status,"
                    " w.payment_id IS NOT NULL AS lost FROM x402_procurement_receipts d"
                    " JOIN payments p ON p.id = d.payment_id"
                    " JOIN api_requests a ON a.id = p.api_request_id"
                    " LEFT JOIN losses w ON w.payment_id = p.id ORDER BY d.created_at DESC"
                )
                if len(rows) >= number:
                    return rows[0]
                await asyncio.sleep(0.02)


@asynccontextmanager
async def shop_expecting(
    net: Localnet, dsn: str, tmp_path: Path, expect: dict[str, Any], **settings: Any
) -> AsyncIterator[Shop]:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    async with faulty(answers(b"")) as provider:
        named = {"shop": {"upstream": provider.url, "expect": expect}}
        settings = {"breaker": {"failures": 1000, "failure_rate": 1.0}} | settings
        async with house(net, dsn, tmp_path, providers=named, **settings) as home:
            yield Shop(home, provider, entry)


@pytest.fixture
async def shop(net: Localnet, dsn: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop_expecting(net, dsn, tmp_path, EXPECT) as shop:
        yield shop


FAULTS = [
    ("wrong type", paid(b"<h1>Welcome</h1>", b"text/html"), "its content type is text/html"),
    ("no JSON", paid(b"sold out, sorry"), "it is not JSON"),
    ("not the schema", paid(b'{"price": "1.5", "at": {"day": 1}}'), "schema at /price"),
    ("missing field", paid(b'{"price": 1.5, "at": {}}'), "it lacks at.day"),
    ("too small", paid(b'{"a":1}'), "it has 7 bytes, fewer than 10"),
    ("empty", paid(b""), "it is empty"),
    ("no content", paid(b"", status=204), "it is empty"),
    (
        "coded, not the schema",
        paid(gzip.compress(b'{"price": "1.5"}'), more=[(b"Content-Encoding", b"gzip")]),
        "schema at /price",
    ),
]


async def test_what_is_not_what_was_paid_for(shop: Shop) -> None:
    spent = 0
    for number, (name, data, fault) in enumerate(FAULTS, 1):
        answer = await shop.buy(answers(data), f"/{number}", auto_decompress=False)
        body = data.partition(b"\r\n\r\n")[2]
        row = await shop.delivery(number)
        spent += 1000
        # the program has it as it came, and is told that it paid
        assert (answer.status, answer.body) == (row["status"], body), name
        assert answer.headers["Autopay-State"] == "paid", name
        assert fault in row["error"], name
        assert (row["success"], row["schema_ok"], row["lost"]) == (False, False, True), name
        assert (row["expected"], row["whole"], row["unread"]) == (True, True, None), name
        assert row["response_hash"] == hashlib.sha256(body).hexdigest(), name
        assert (row["size_bytes"], row["paid_amount_atomic"]) == (len(body), "1000"), name
        assert row["total_ms"] >= row["latency_ms"] >= 0, name
        assert (row["request_status"], row["error_class"]) == ("FAILED", "paid_failed"), name
        assert await lost(shop.home) == spent, name
    assert await shop.home.counters() == (spent, 0)  # it is spent all the same
    assert counted(shop.home) == {("paid", ""): 8, ("paid_failed", "misfit"): 8}


async def lost(home: House) -> int:
    """What the loss counters say of the agent, in micro-USD."""
    rows = await home.rows(
        "SELECT lost_micros FROM loss_counters WHERE agent_id IS NOT NULL AND provider IS NULL"
    )
    return rows[0]["lost_micros"] if rows else 0


def counted(home: House) -> dict[tuple[str, ...], int]:
    return dict(home.service.counts.payments.sums())


@pytest.fixture
async def hurried(net: Localnet, dsn: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop_expecting(net, dsn, tmp_path, EXPECT | {"max_seconds": 1}) as shop:
        yield shop


async def test_an_answer_that_is_late_cut_off_or_an_error(hurried: Shop) -> None:
    shop = hurried
    answer = await shop.buy(late(paid(), 1.1), "/late")
    assert (answer.status, answer.body) == (200, GOOD)
    row = await shop.delivery(1)
    assert row["error"].endswith(" s, longer than 1 s") and row["total_ms"] >= 1100
    # its form is as expected
    assert (row["success"], row["schema_ok"], row["lost"]) == (False, True, True)

    with pytest.raises(aiohttp.ClientPayloadError):
        await shop.buy(cut(paid()[:-10]), "/cut")
    row = await shop.delivery(2)
    assert (row["success"], row["schema_ok"], row["whole"]) == (False, False, False)
    assert (row["lost"], row["error_class"]) == (True, "body_broken")

    answer = await shop.buy(answers(paid(status=500)), "/error")
    assert (answer.status, answer.body) == (500, GOOD)
    row = await shop.delivery(3)
    assert (row["success"], row["schema_ok"], row["lost"]) == (False, False, True)
    assert row["error_class"] == "paid_failed"
    assert await lost(shop.home) == 3000
    reasons = ("late", "cut_off", "error_status")
    assert counted(shop.home) == {("paid", ""): 3} | {("paid_failed", one): 1 for one in reasons}


class Noted(Stock):
    """One that can be looked at."""

    __slots__ = ("whole",)
    all: ClassVar[list["Noted"]] = []

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.whole = size
        self.all.append(self)


@pytest.fixture
def stocks(monkeypatch: pytest.MonkeyPatch) -> list[Noted]:
    """What is left for the copies of paid answers."""
    monkeypatch.setattr("proxy.wire.plane.Stock", Noted)
    monkeypatch.setattr(Noted, "all", [])
    return Noted.all


async def test_what_is_good_or_can_not_be_read(stocks: list[Noted], shop: Shop) -> None:
    gzipped = [(b"Content-Encoding", b"gzip")]
    bomb = gzip.compress(GOOD[:-1] + b" " * 30_000_000 + b"}")
    stream = b'data: {"price": null}\n\n' * 9
    cases: list[tuple[str, bytes, str | None, bytes | None]] = [
        ("GET", paid(), None, GOOD),
        ("GET", paid(gzip.compress(GOOD), more=gzipped), None, gzip.compress(GOOD)),
        ("HEAD", paid().partition(b"\r\n\r\n")[0] + b"\r\n\r\n", None, b""),
        ("GET", paid(bomb, more=gzipped), "it is larger than 65536 bytes, uncompressed", bomb),
        ("GET", paid(b" " * 70_000), "it is larger than 65536 bytes", b" " * 70_000),
        ("GET", paid(GOOD, more=[(b"Content-Encoding", b"zstd")]), "coding is zstd", GOOD),
    ]
    for number, (method, data, unread, body) in enumerate(cases, 1):
        answer = await shop.buy(answers(data), f"/{number}", method=method, auto_decompress=False)
        assert (answer.status, answer.body) == (200, body), number
        row = await shop.delivery(number)
        assert (row["success"], row["schema_ok"], row["lost"]) == (True, True, False), row
        assert (row["error"], row["expected"]) == (None, True)
        assert (unread is None) == (row["unread"] is None), row["unread"]
        assert unread is None or unread in row["unread"]
    # A stream is no JSON; where one is expected it is not read either.
    await shop.buy(answers(paid(stream, b"text/event-stream")), "/stream")
    row = await shop.delivery(len(cases) + 1)
    assert row["error"].startswith("its content type is text/event-stream")
    assert counted(shop.home) == {("paid", ""): len(cases) + 1, ("paid_failed", "misfit"): 1}
    (copies,) = stocks
    assert copies.left == copies.whole


async def test_a_huge_stream_passes_and_takes_no_memory(
    stocks: list[Noted], net: Localnet, dsn: str, tmp_path: Path
) -> None:
    expect = {"content_type": "text/event-stream", "fields": ["price"], "max_seconds": 3}
    size = 64 * 1024

    async def pouring(_: Seen, writer: asyncio.StreamWriter) -> None:
        head = paid(b"", b"text/event-stream").replace(b"Content-Length: 0", b"Connection: close")
        writer.write(head)
        for _ in range(160):
            writer.write(b"x" * size)
            await writer.drain()
        await asyncio.sleep(3.1)  # past max_seconds, which is to a stream's first byte
        raise HangUp

    async with shop_expecting(net, dsn, tmp_path, expect) as shop:
        (copies,) = stocks
        answer = await shop.buy(pouring)
        assert len(answer.body) == 160 * size
        row = await shop.delivery(1)
        assert (row["success"], row["lost"], row["size_bytes"]) == (True, False, 160 * size)
        assert row["unread"] == "it is a stream of events"
        assert copies.left == copies.whole


async def test_where_nothing_is_expected_what_is_whole_and_no_error_is_good(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    async with shop_expecting(net, dsn, tmp_path, {}) as shop:
        for number, data in enumerate((paid(b""), paid(b"", status=204), paid(b"sold out")), 1):
            await shop.buy(answers(data), f"/{number}")
            row = await shop.delivery(number)
            assert (row["success"], row["expected"], row["lost"]) == (True, False, False)


async def test_the_memory_for_copies_is_bounded(stocks: list[Noted], shop: Shop) -> None:
    (copies,) = stocks
    copies.left = 20
    assert (await shop.buy(answers(paid()))).body == GOOD
    row = await shop.delivery(1)
    assert (row["success"], row["unread"]) == (True, "there was no room for it")
    assert copies.left == 20


async def test_a_slow_program_does_not_make_its_provider_late(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    body = b" " * 20_000_000
    async with shop_expecting(net, dsn, tmp_path, {"max_seconds": 4}) as shop:
        shop.provider.act = priced(shop.entry, answers(paid(body)))
        async with shop.home.session.get(
            shop.provider.url + "/big", proxy=shop.home.proxy
        ) as response:
            await response.content.readexactly(1000)
            await asyncio.sleep(5)
            assert len(await response.read()) == len(body) - 1000
        row = await shop.delivery(1)
        assert row["total_ms"] > 4000
        assert (row["success"], row["lost"]) == (True, False), row["error"]


async def test_a_loss_cap_refuses_the_next_and_the_breaker_opens(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    breaker = {"failures": 3, "open_seconds": 600}
    async with shop_expecting(net, dsn, tmp_path, EXPECT, breaker=breaker) as shop:
        await shop.home.set_rules(shop.home.agent, None, loss_cap="0.0019")
        await shop.buy(answers(paid(b"sold out, sorry")), "/1")
        assert (await shop.delivery(1))["lost"]
        refused = await shop.buy(answers(paid()), "/2")
        assert (refused.status, refused.json["code"]) == (403, "over_loss_cap")
        assert refused.json["lost_usd"] == "0.001"
        await shop.home.set_rules(shop.home.agent, None)
        for number in (2, 3):
            assert (
                await shop.buy(answers(paid(b"sold out, sorry")), f"/{number + 1}")
            ).status == 200
            await shop.delivery(number)
        told = await shop.buy(answers(paid()), "/5")
        assert (told.status, told.json["code"]) == (503, "breaker_open")
        assert "what came is not what was paid for: it is not JSON" in told.json["last_error"]


async def test_providers_of_one_origin_have_each_their_own_expectations(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    async with faulty(priced(entry, answers(paid()))) as provider:
        named = {
            "weather": {"upstream": f"{provider.url}/weather", "expect": {"fields": ["price"]}},
            "news": {"upstream": f"{provider.url}/news", "expect": {"fields": ["headline"]}},
        }
        async with house(net, dsn, tmp_path, providers=named) as home:
            shop = Shop(home, provider, entry)
            await home.ask(f"{provider.url}/news/today")  # the same by its own name
            assert (await shop.delivery(1))["error"] == "it lacks headline"
            token = {"Authorization": f"Bearer {home.token}"}
            for number, (path, error, expected) in enumerate(
                (
                    ("/weather/now", None, True),
                    ("/news/now", "it lacks headline", True),
                ),
                2,
            ):
                async with home.session.get(home.mounts + path, headers=token) as response:
                    assert response.status == 200
                row = await shop.delivery(number)
                assert (row["error"], row["expected"]) == (error, expected)
            await home.ask(f"{provider.url}/newspaper")
            assert (await shop.delivery(4))["expected"] is False


async def test_claims_tell_a_provider_what_it_took_and_what_it_gave(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, url = shop.home, shop.provider.url
    await shop.buy(answers(paid()), "/good")
    await shop.delivery(1)
    await shop.buy(
        answers(paid(b"sold out, sorry")),
        "/quote?who=secret-words",
        method="POST",
        data=b"the question",
        headers={"Autopay-Session": "secret-session", "Autopay-Trace": "secret-trace"},
    )
    row = await shop.delivery(2)
    step = "SELECT outcome FROM x402_trace_steps"
    assert await home.rows(step) == [{"outcome": "paid_failed"}]
    desk = Desk(home)
    for role in (None, Role.READER):
        assert (await desk.ask("/v1/claims", role)).status in (401, 403)
    answer = await desk.ask("/v1/claims", Role.AUDITOR)
    (claim,) = answer.json["items"]
    assert claim["provider"] == url
    assert (claim["method"], claim["endpoint"]) == ("POST", f"{url}/quote")
    assert claim["request_body_sha256"] == hashlib.sha256(b"the question").hexdigest()
    assert (claim["amount"], claim["symbol"], claim["price_usd"]) == ("1000", "USDC", "0.001")
    assert claim["pay_to"] == str(home.net.seller.pubkey())
    assert (claim["transaction"], claim["finalized"]) == ("5" * 88, False)
    assert (claim["status"], claim["content_type"], claim["size_bytes"]) == (200, JSON.decode(), 15)
    assert claim["response_hash"] == hashlib.sha256(b"sold out, sorry").hexdigest()
    assert (claim["first_byte_ms"], claim["total_ms"]) == (row["latency_ms"], row["total_ms"])
    assert (claim["fault"], claim["agent"]) == ("it is not JSON", None)
    (link,) = claim["receipt"]["links"]
    assert json.loads(link["canonical"])["receipt_id"] == claim["id"]
    assert link["delivery"]["fault"] == "it is not JSON"
    for secret in ("secret", home.token, "shopper", "sold out"):
        assert secret not in answer.body.decode()

    async def found(query: str) -> int:
        return len((await desk.ask(f"/v1/claims?{query}", Role.AUDITOR)).json["items"])

    assert await found(f"provider={url}") == 1
    assert await found("provider=https://api.example.com") == 0
    assert await found("since=2100-01-01T00:00:00Z") == 0
    named = await desk.ask("/v1/claims?agents=true", Role.AUDITOR)
    assert named.json["items"][0]["agent"] == "shopper"

    settings = tmp_path / "autopay.toml"
    settings.write_text(f'database_url = "{home.service.store.dsn}"\ndata_dir = "{tmp_path}"\n')

    async def autopay(*words: str) -> str:
        assert await asyncio.to_thread(main, ["--config", str(settings), *words]) == 0
        return capsys.readouterr().out

    capsys.readouterr()
    assert "it is not JSON" in await autopay("claims", "list", "--provider", url)
    listed = json.loads(await autopay("claims", "list", "--json"))
    assert listed["id"] == claim["id"]
    exported = json.loads(await autopay("claims", "export", "-"))
    assert exported["format"] == "autopay-claims/1"
    (again,) = exported["claims"][0]["receipt"]["links"]  # it may be signed by now
    assert (again["canonical"], again["delivery"]) == (link["canonical"], link["delivery"])
    heads, cells, end = (await autopay("claims", "export", "-", "--csv")).split("\r\n")
    assert dict(zip(heads.split(","), cells.split(","), strict=True))["fault"] == "it is not JSON"
    assert end == ""
    receipts = [json.loads(line) for line in (await autopay("receipts", "--json")).splitlines()]
    failed, good = receipts
    assert (failed["paid_failed"], failed["fault"]) == (True, "it is not JSON")
    assert failed["response_hash"] == claim["response_hash"]
    assert (good["paid_failed"], good["schema_ok"], good["fault"]) == (False, True, None)
    assert good["total_ms"] >= good["first_byte_ms"] >= 0

    # What came stands beside the links, which are proved as before.
    books = tmp_path / "books.jsonl"
    async with asyncio.timeout(PATIENCE):
        while True:  # until the proxy has signed them
            await autopay("receipts", "export", "--force", str(books))
            words = ["--config", str(settings), "receipts", "verify", str(books)]
            if await asyncio.to_thread(main, words) == 0:
                break
            await asyncio.sleep(0.1)
    lines = [json.loads(line) for line in books.read_text().splitlines()[1:]]
    assert [line["delivery"]["paid_failed"] for line in lines] == [False, True]
    assert lines[1]["delivery"] | {"total_ms": row["total_ms"]} == link["delivery"]
    capsys.readouterr()
    table = (await autopay("receipts", "export", "-", "--format", "csv")).split("\r\n")
    at = table[0].split(",").index("fault")
    assert [line.split(",")[at] for line in table[1:3]] == ["", "it is not JSON"]

    # What turns out good is on the list no more.
    await home.operator.execute(
        "SELECT deliver(to_jsonb(d) || jsonb_build_object('id', gen_random_uuid(), 'success', true,"
        " 'error', NULL)) FROM x402_procurement_receipts d WHERE d.payment_id = $1",
        row["payment_id"],
    )
    assert await found("") == 0
    assert await home.rows(step) == [{"outcome": "paid"}]
    assert "Nothing was paid in vain." in await autopay("claims", "list")


async def test_an_intents_candidate_is_asked_besides_its_provider(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    async with faulty(priced(entry, answers(paid()))) as provider:
        named = {"shop": {"upstream": provider.url, "expect": {"fields": ["price"]}}}
        wanted = {"id": "shop", "url": f"{provider.url}/v1", "expect": {"fields": ["headline"]}}
        intents = {"news": {"total": "0.01", "candidates": [wanted]}}
        async with house(net, dsn, tmp_path, providers=named, intents=intents) as home:
            shop = Shop(home, provider, entry)
            for number, (data, error) in enumerate(
                (
                    (paid(), "it lacks headline"),
                    (paid(b'{"headline": "Rain"}'), "it lacks price"),
                    (paid(b'{"headline": "Rain", "price": 1}'), None),
                ),
                1,
            ):
                provider.act = priced(entry, answers(data))
                answer = await home.ask(f"http://news.intent.autopay/{number}")
                row = await shop.delivery(number)
                assert (row["error"], row["success"], row["lost"]) == (
                    error,
                    error is None,
                    error is not None,
                )
                assert row["intent"] == "news"
                assert answer.status == (200 if error is None else 502), answer.body
