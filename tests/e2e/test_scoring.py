"""Scores and ratings through the listening sockets: what moves them, who remembers, who may."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from proxy.admin import Role
from proxy.cli import main
from proxy.localnet import Localnet
from proxy.providers.score import Rates
from proxy.service import Service
from proxy.settings import Settings
from tests.admin.desk import Desk, refused
from tests.e2e.house import House
from tests.e2e.seller import Seller, challenge, offer, pays_once, reply, settled

PATIENCE = 20.0
TRANSACTIONS = iter(f"{n:088d}".replace("0", "a") for n in range(1, 10_000))


@pytest.fixture
def desk(home: House) -> Desk:
    return Desk(home)


def sells(net: Localnet, seller: Seller, status: int = 200, body: bytes = b"goods") -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    seller.answer = pays_once(challenge(entry), lambda _: settled(next(TRANSACTIONS), status, body))


async def buy(home: House, url: str, status: int = 200) -> str:
    """The payment's id."""
    answer = await home.ask(url)
    assert answer.status == status, answer.body
    return answer.headers["Autopay-Payment"]


async def provider(desk: Desk, seller: Seller, endpoint: str | None = None) -> dict[str, Any]:
    query = "" if endpoint is None else "?" + urlencode({"endpoint": endpoint})
    path = f"/v1/providers/{quote(seller.url, safe='')}{query}"
    answer = await desk.ask(path, Role.AUDITOR)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    assert sum(share["points"] for share in found["shares"]) == pytest.approx(found["score"])
    return found


async def becomes(look: Callable[[], Any], true: Callable[[Any], bool]) -> Any:
    """What `look` sees once it is as it should be."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if true(seen := await look()):
                return seen
            await asyncio.sleep(0.05)


async def written(home: House, calls: int) -> None:
    """All of it is in the database."""
    row = "SELECT successes + failures AS calls FROM provider_scores WHERE endpoint = ''"
    await becomes(lambda: home.rows(row), lambda rows: bool(rows) and rows[0]["calls"] == calls)


@asynccontextmanager
async def beside(home: House) -> AsyncIterator[Service]:
    """Another service on the same database."""
    settings = home.service.settings
    other = Service(Settings.model_validate(settings.model_copy()))
    await other.start()
    try:
        yield other
    finally:
        await other.stop()


async def test_calls_move_the_score_and_its_shares_tell_why(
    home: House, desk: Desk, net: Localnet, seller: Seller
) -> None:
    sells(net, seller)
    assert (await desk.ask("/v1/providers", Role.AUDITOR)).json == {"items": []}
    nobody = await desk.ask(f"/v1/providers/{quote(seller.url, safe='')}", Role.AUDITOR)
    refused(nobody, 404, "no_such_provider")
    await buy(home, seller.url + "/quote?of=SOL")
    await buy(home, seller.url + "/quote?of=BTC")
    good = await provider(desk, seller)
    assert good["score"] > 0.6
    assert (good["calls"], good["paid_usd"], good["lost_usd"]) == (2, "0.002", "0.00")
    (endpoint,) = good["endpoints"]
    assert endpoint["endpoint"] == f"GET {seller.url}/quote", "without its query"

    # The same endpoint takes money and does not deliver: dearer than a failure that is free.
    sells(net, seller, 500)
    await buy(home, seller.url + "/quote", 500)
    bad = await provider(desk, seller, endpoint["endpoint"])
    assert bad["score"] < good["score"] - 0.1
    assert (bad["calls"], bad["paid_failures"], bad["lost_usd"]) == (3, 1, "0.001")
    assert "took a payment" in bad["last_error"]
    assert "took money for nothing" in next(
        share["why"] for share in bad["shares"] if share["name"] == "success"
    )
    row = await home.row(
        "SELECT score FROM x402_procurement_receipts ORDER BY created_at DESC LIMIT 1"
    )
    assert float(row["score"]) == pytest.approx(bad["score"], abs=0.01)
    (listed,) = (await desk.ask("/v1/providers", Role.AUDITOR)).json["items"]
    assert listed["provider"] == seller.url
    assert (listed["calls"], listed["paid_usd"], listed["state"]) == (3, "0.003", "closed")

    missing = quote(seller.url, safe="") + "?endpoint=GET%20nowhere"
    refused(await desk.ask(f"/v1/providers/{missing}", Role.AUDITOR), 404, "no_such_endpoint")


async def test_free_calls_count_for_their_endpoint_too(
    home: House, desk: Desk, seller: Seller
) -> None:
    seller.answer = lambda seen: reply(500 if "down" in seen.line else 200)
    await home.ask(seller.url + "/up")
    await home.ask(seller.url + "/down")
    up = await provider(desk, seller, f"GET {seller.url}/up")
    down = await provider(desk, seller, f"GET {seller.url}/down")
    assert (up["calls"], down["calls"]) == (1, 1)
    assert down["score"] < 0.5 < up["score"]


async def test_an_open_breaker_is_in_the_score(home: House, desk: Desk, seller: Seller) -> None:
    seller.answer = lambda _: reply(500)
    for _ in range(3):
        await home.ask(seller.url)
    found = await provider(desk, seller)
    assert (found["score"], found["state"], found["last_error"]) == (0.0, "open", "answered 500")
    assert found["shares"][-1]["name"] == "tripped"


async def test_a_restart_keeps_it_and_a_second_service_agrees(
    home: House, desk: Desk, net: Localnet, seller: Seller
) -> None:
    async with beside(home) as other:
        sells(net, seller)
        await buy(home, seller.url)
        sells(net, seller, 500)
        await buy(home, seller.url, 500)
        host, port = other.proxy_address
        there = f"http://{home.agent}:{home.token}@{host}:{port}"
        sells(net, seller)
        for _ in range(2):
            assert (await home.ask(seller.url, proxy=there)).status == 200
        await written(home, 4)
        both = (home.service.providers, other.providers)

        async def scores() -> list[tuple[int, float, float]]:
            endpoint = f"GET {seller.url}/"
            return [
                (
                    one.why(seller.url).calls,
                    round(one.score(seller.url), 4),
                    round(one.score(seller.url, endpoint), 4),
                )
                for one in both
            ]

        one, two = await becomes(scores, lambda seen: seen[0] == seen[1] and seen[0][0] == 4)
        assert one == two
    async with beside(home) as restarted:
        why = restarted.providers.why(seller.url)
        assert why.calls == 4
        assert round(why.score, 4) == one[1]


async def test_ratings_of_receipts_move_quality(
    home: House, desk: Desk, net: Localnet, seller: Seller
) -> None:
    sells(net, seller)
    payment = await buy(home, seller.url + "/quote")
    await becomes(lambda: home.rows("SELECT 1 FROM x402_payment_logs"), bool)
    path = f"/v1/receipts/{payment}/ratings"

    async def quality(endpoint: str | None = None) -> float:
        shares = (await provider(desk, seller, endpoint))["shares"]
        return float(next(share["value"] for share in shares if share["name"] == "quality"))

    assert await quality() == 0.5
    for user, positive in (("ann", True), ("bob", True), ("bob", False)):
        await desk.does("PUT", path, {"user_address": user, "is_positive": positive})
    found = (await desk.ask(path, Role.AUDITOR)).json["items"]
    assert {(one["user_address"], one["is_positive"]) for one in found} == {
        ("ann", True), ("bob", False),
    }  # fmt: skip
    thumbs = await becomes(
        lambda: provider(desk, seller), lambda seen: bool(seen["thumbs_down"] > 0.9)
    )
    assert (round(thumbs["thumbs_up"], 3), round(thumbs["thumbs_down"], 3)) == (1, 1)
    await desk.does("DELETE", f"{path}?user_address=ann", status=204)
    refused(
        await desk.ask(f"{path}?user_address=ann", Role.OPERATOR, "DELETE"), 404, "no_such_rating"
    )
    await becomes(quality, lambda seen: bool(seen == pytest.approx(2 / 5, abs=1e-3)))
    stats = "SELECT quality FROM x402_procurement_provider_stats"
    assert float((await home.row(stats))["quality"]) == pytest.approx(2 / 5, abs=1e-3)
    await becomes(
        lambda: quality(f"GET {seller.url}/quote"),
        lambda seen: bool(seen == pytest.approx((4 * 0.4 + 0) / 5, abs=1e-3)),
    )
    await home.operator.execute("SELECT erase_agent('shopper', 'test')")
    await becomes(quality, lambda seen: bool(seen == 0.5))
    assert (await desk.ask(path, Role.AUDITOR)).json["items"] == []

    other = path.replace(payment, "00000000-0000-4000-8000-000000000000")
    word = {"user_address": "ann", "is_positive": True}
    refused(await desk.ask(other, Role.OPERATOR, "PUT", json=word), 404, "no_such_receipt")
    refused(await desk.ask(other, Role.AUDITOR), 404, "no_such_receipt")
    # An agent's own credential opens nothing here.
    refused(await desk.ask(path, home.token, "PUT", json=word), 401, "api_key_invalid")
    refused(await desk.ask(path, Role.AUDITOR, "PUT", json=word), 403, "role_not_allowed")


async def test_the_rating_of_a_message_goes_to_whom_it_was_bought_from(
    home: House, desk: Desk, net: Localnet, seller: Seller
) -> None:
    """One voice of a user for one payment, whether of its message or of its receipt."""
    sells(net, seller)
    payment = await buy(home, seller.url)
    session = (await desk.does("POST", "/v1/chat/sessions", {"wallet_address": "w"}, status=201))[
        "id"
    ]
    said = {"content": "goods", "is_user": False, "message_id": "m1"}
    await desk.does("POST", f"/v1/chat/sessions/{session}/messages", said, status=201)
    await home.operator.execute("UPDATE chat_messages SET payment_id = $1::text::uuid", payment)
    await becomes(lambda: home.rows("SELECT 1 FROM x402_payment_logs"), bool)
    word = {"user_address": "ann", "is_positive": True}
    await desk.does("PUT", "/v1/ratings", {"message_id": "m1", **word})
    await becomes(lambda: provider(desk, seller), lambda seen: bool(seen["thumbs_up"] > 0.99))
    # The chat goes, the word stays; and a later one on the receipt is in its place.
    await desk.does("DELETE", f"/v1/chat/sessions/{session}", status=204)
    await desk.does("PUT", f"/v1/receipts/{payment}/ratings", word | {"is_positive": False})
    seen = await becomes(
        lambda: provider(desk, seller), lambda seen: bool(seen["thumbs_down"] > 0.99)
    )
    assert seen["thumbs_up"] == 0


async def test_the_command_tells_the_same(
    home: House, desk: Desk, net: Localnet, seller: Seller, dsn: str, tmp_path: Path
) -> None:
    sells(net, seller)
    await buy(home, seller.url + "/quote")
    await written(home, 1)
    config = tmp_path / "autopay.toml"
    config.write_text(f"database_url = {json.dumps(dsn)}\ndata_dir = {json.dumps(str(tmp_path))}\n")

    async def says(*words: str, status: int = 0) -> str:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            done = await asyncio.to_thread(main, ["--config", str(config), "providers", *words])
        assert done == status, out.getvalue()
        return out.getvalue()

    live = await provider(desk, seller)
    told = json.loads(await says("show", seller.url, "--why", "--json"))
    assert told["score"] == pytest.approx(live["score"], abs=1e-4)
    assert [one["name"] for one in told["shares"]] == [one["name"] for one in live["shares"]]
    assert told["endpoints"][0]["endpoint"] == f"GET {seller.url}/quote"

    text = await says("show", seller.url.removeprefix("http://"), "--endpoint", "/quote", "--why")
    shares = text.partition("SHARE")[2].splitlines()[1:]
    words = [line.split() for line in shares]
    total = next(float(one[1]) for one in words if one[:1] == ["score"])
    points = [float(one[3]) for one in words if one and one[0] in asdict(Rates())]
    assert len(points) == 5
    assert sum(points) == pytest.approx(total, abs=5e-4)
    assert "$0.001 were delivered for" in text
    assert seller.url in await says("list")
    assert "nothing is known of" in await says("show", "nobody.example", status=1)
